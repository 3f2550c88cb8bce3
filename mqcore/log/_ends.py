"""Where clean stops found the ends of the partition logs: what proves that a log has lost its end (clauses G05, G12).

Kept apart from the logs, for what removes the end of one removes whatever it says of itself. An end holds from one
clean stop to the next, whatever happens between, since a log goes back only by ``truncate`` and deletion: both have it
forgotten first. Layout: docs/log.md.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import trio
from crc32c import crc32c

from mqcore.abc import Log, Notice
from mqcore.errors import FlushFailedError, StorageError
from mqcore.log._scan import read_exactly
from mqcore.log._types import NOWHERE, LogPoint

__all__ = ["CleanEnds"]

MAGIC = 0x4543514D  # "MQCE"
VERSION = 1
_HEAD = struct.Struct("<IIIIQ")  # magic, version, payload size, payload checksum, own position
GROWTH_BYTES_MAX = 64 * 1024
"""The log begins anew when it is larger than this and than four records of everything."""


class CleanEnds:
    """The ends, in the log of bytes ``log``; ``flush`` makes it durable. Writes queue up."""

    def __init__(
        self, log: Log, *, flush: Callable[[Sequence[Log]], Awaitable[None]], report: Callable[[Notice], None]
    ) -> None:
        self._log = log
        self._flush = flush
        self._report = report
        self._ends: dict[str, LogPoint] = {}
        self._writing = trio.Lock()

    def __iter__(self) -> Iterator[str]:
        """Names of the logs of which an end is known."""
        return iter(self._ends)

    def of(self, name: str) -> LogPoint:
        """The least that the log called ``name`` must hold; the very beginning if nothing is known."""
        return self._ends.get(name, NOWHERE)

    async def read(self) -> None:
        """Read them. Damage is reported: it takes a proof, and no message."""
        log = self._log
        position = log.start
        while log.end - position >= _HEAD.size:
            payload = await self._payload_at(position)
            if payload is None:
                if position + _HEAD.size <= log.durable_end:
                    text = f"log {log.name} is damaged at {position}: a log that has lost its end may go unnoticed"
                    self._report(Notice("clean-ends-damaged", text, {"position": position}))
                return
            self._apply(json.loads(payload))
            position += _HEAD.size + len(payload)

    async def _payload_at(self, position: int) -> bytes | None:
        log = self._log
        head = await read_exactly(log, position, _HEAD.size)
        magic, version, size, checksum, own_position = _HEAD.unpack(head)
        if (magic, own_position) != (MAGIC, position) or size > log.end - position - _HEAD.size:
            return None
        payload = bytes(await read_exactly(log, position + _HEAD.size, size))
        if crc32c(payload) != checksum:
            return None
        if version != VERSION:
            raise StorageError(
                f"log {log.name} is of format version {version}, this mqcore reads version {VERSION}; use the mqcore "
                "that wrote it",
                kind="foreign",
            )
        return payload

    def _apply(self, record: Mapping[str, Sequence[int] | None]) -> None:
        if "" in record:  # a record of everything
            self._ends.clear()
        for name, end in record.items():
            if end is None:
                self._ends.pop(name, None)
            else:
                self._ends[name] = LogPoint(*end)

    async def keep(self, ends: Mapping[str, LogPoint]) -> None:
        """Note where a clean stop leaves these logs, durably; nothing is written when nothing has changed.

        Without space for it what was known stays: it is still true, only less. Reported, not raised.
        """
        async with self._writing:
            known = {**self._ends, **ends}
            if known == self._ends:
                return
            record = {"": None, **known}
            try:
                size = len(self._pack(record))
                if self._log.end + size > max(GROWTH_BYTES_MAX, 4 * size):
                    await self._log.truncate(self._log.start)
                await self._write(record)
            except FlushFailedError:
                raise
            except StorageError as error:
                text = f"where this stop leaves the logs is not noted: one that loses its end may go unnoticed: {error}"
                self._report(Notice("clean-ends-not-written", text, {"log": self._log.name}))
            self._ends = known

    async def forget(self, name: str) -> None:
        """Have the log called ``name`` prove nothing, durably: it is about to be cut or deleted."""
        async with self._writing:
            if name in self._ends:
                await self._write({name: None})
                del self._ends[name]  # not before: what is known on the disk has to be forgotten by the next attempt

    async def _write(self, record: Mapping[str, Sequence[int] | None]) -> None:
        await self._log.append([self._pack(record)])
        await self._flush([self._log])

    def _pack(self, record: Mapping[str, Sequence[int] | None]) -> bytes:
        payload = json.dumps(record, separators=(",", ":")).encode()
        return _HEAD.pack(MAGIC, VERSION, len(payload), crc32c(payload), self._log.end) + payload
