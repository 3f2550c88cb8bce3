"""How far the partition logs came: what proves that one has lost its end (clauses G05, G12).

Kept apart from the logs, for what removes the end of one removes whatever it says of itself. A clean stop notes where
each of them ends, and while they grow now and then how far a flush has come. An end holds whatever happens afterwards,
since a log goes back only by ``truncate`` and deletion: both have it forgotten first. Layout: docs/log.md.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set

import trio
from crc32c import crc32c

from mqcore.abc import Log, Notice
from mqcore.errors import FlushFailedError, StorageError
from mqcore.log._scan import read_exactly
from mqcore.log._types import NOWHERE, LogPoint

__all__ = ["CleanEnds"]

MAGIC = 0x4543514D  # "MQCE"
VERSION = 1
_PASSED = (1,)
"""Behind a position and an offset: the log had come that far, and did not end there."""
_HEAD = struct.Struct("<IIIIQ")  # magic, version, payload size, payload checksum, own position
GROWTH_BYTES_MAX = 64 * 1024
"""The log begins anew when it is larger than this and than four records of everything."""
NOTES_BYTES_MAX = 1024 * 1024
"""Nothing more is noted when the log is larger than this and than some records of everything, before it begins anew."""
ENTRY_BYTES = 96
"""What an end takes in a record, about."""


class CleanEnds:
    """The ends, in the log of bytes ``log``; ``flush`` makes it durable. Writes queue up.

    ``truncate`` cuts it; needed where others flush it, too, which must not be just then.
    """

    def __init__(
        self,
        log: Log,
        *,
        flush: Callable[[Sequence[Log]], Awaitable[None]],
        report: Callable[[Notice], None],
        truncate: Callable[[Log, int], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log
        self._flush = flush
        self._truncate = truncate or _truncate
        self._report = report
        self._ends: dict[str, LogPoint] = {}
        self._noted: set[str] = set()
        """Those that a log passed, and did not stop at."""
        self._writing = trio.Lock()
        self._end = 0
        """Position after the last record; what an append that failed left there is cut off before the next."""

    def __iter__(self) -> Iterator[str]:
        """Names of the logs of which an end is known."""
        return iter(self._ends)

    def of(self, name: str) -> LogPoint:
        """The least that the log called ``name`` must hold; the very beginning if nothing is known."""
        return self._ends.get(name, NOWHERE)

    def is_exact(self, name: str) -> bool:
        """Whether a clean stop found the log called ``name`` to end there; else it had only come that far."""
        return name in self._ends and name not in self._noted

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
                break
            self._apply(json.loads(payload))
            position += _HEAD.size + len(payload)
        self._end = position

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
            self._noted.clear()
        for name, end in record.items():
            self._noted.discard(name)
            if end is None:
                self._ends.pop(name, None)
                continue
            position, offset, *passed = end
            self._ends[name] = LogPoint(position, offset)
            if passed:
                self._noted.add(name)

    async def keep(self, ends: Mapping[str, LogPoint]) -> None:
        """Note where a clean stop leaves these logs, durably; nothing is written when nothing has changed.

        Without space for it what was known stays: it is still true, only less. Reported, not raised.
        """
        async with self._writing:
            known, noted = {**self._ends, **ends}, self._noted.difference(ends)
            if (known, noted) == (self._ends, self._noted):
                return
            record = _whole(known, noted)
            try:
                size = len(self._pack(record))
                if self._log.end + size > max(GROWTH_BYTES_MAX, 4 * size):
                    await self._truncate(self._log, self._log.start)
                    self._end = self._log.start
                await self._write(record)
            except FlushFailedError:
                raise
            except StorageError as error:
                text = f"where this stop leaves the logs is not noted: one that loses its end may go unnoticed: {error}"
                self._report(Notice("clean-ends-not-written", text, {"log": self._log.name}))
            self._ends, self._noted = known, noted

    async def note(self, name: str, end: LogPoint) -> None:
        """Note that a log is durable up to ``end``, if nothing farther is known; not durable by itself. Never raises.

        Left for another time where there is no space, while another end is being written, or where too much was noted
        already: the next clean stop or deletion begins the log anew.
        """
        if self._is_long or self._writing.locked() or self.of(name).position >= end.position:
            return
        async with self._writing:
            with contextlib.suppress(StorageError):
                await self._append({name: (*end, *_PASSED)})
                self._ends[name] = end
                self._noted.add(name)

    async def forget(self, *names: str) -> None:
        """Have the logs called ``names`` prove nothing, durably: they are about to be cut or deleted."""
        async with self._writing:
            known = self._ends.keys() & names
            if known:
                if self._is_long:  # nothing is lost by a crash in between but proofs
                    left = {each: end for each, end in self._ends.items() if each not in known}
                    await self._truncate(self._log, self._log.start)
                    self._end = self._log.start
                    await self._write(_whole(left, self._noted))
                else:
                    await self._write(dict.fromkeys(sorted(known)))
                # Not before: what is known on the disk has to be forgotten by the next attempt.
                self._noted -= known
                for name in known:
                    del self._ends[name]

    @property
    def _is_long(self) -> bool:
        return self._log.end > max(NOTES_BYTES_MAX, 4 * ENTRY_BYTES * len(self._ends))

    async def _write(self, record: Mapping[str, Sequence[int] | None]) -> None:
        await self._append(record)
        await self._flush([self._log])

    async def _append(self, record: Mapping[str, Sequence[int] | None]) -> None:
        # Behind a torn record nothing is read: an end that was forgotten there would be missed by the next start.
        if self._log.end > self._end:
            await self._truncate(self._log, self._end)
        await self._log.append([self._pack(record)])
        self._end = self._log.end

    def _pack(self, record: Mapping[str, Sequence[int] | None]) -> bytes:
        payload = json.dumps(record, separators=(",", ":")).encode()
        return _HEAD.pack(MAGIC, VERSION, len(payload), crc32c(payload), self._log.end) + payload


def _whole(ends: Mapping[str, LogPoint], noted: Set[str]) -> dict[str, Sequence[int] | None]:
    """The record of everything, which replaces those before it."""
    return {"": None, **{name: (*end, *_PASSED) if name in noted else end for name, end in ends.items()}}


async def _truncate(log: Log, position: int) -> None:
    await log.truncate(position)
