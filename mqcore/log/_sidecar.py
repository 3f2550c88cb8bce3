"""The sidecar of a log: where its checkpoints are kept, so that opening costs what the tail costs.

Derived data: what is damaged here is reported and made again from the log, never trusted. Must not know of producers
or offsets beyond what a checkpoint says of itself.
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES
from mqcore.errors import CorruptionError, StorageError
from mqcore.limits import Limits
from mqcore.log._checkpoint import (
    HEAD_BYTES,
    PAGE_BYTES,
    CheckpointHead,
    pack_checkpoint,
    unpack_head,
    unpack_state,
)
from mqcore.log._scan import intact_header, read_exactly
from mqcore.log._state import LogState

__all__ = ["Sidecar"]

CHECKPOINT_BYTES_MAX = 48 * 1024 * 1024
"""A larger one (very many producers) is not written; the next start scans more of the log."""

TRIM_BYTES = 1024 * 1024
"""Old checkpoints are given up when there is so much of them."""

_SEARCH_BYTES = 256 * PAGE_BYTES


class Sidecar:
    """Checkpoints of ``main``, in the log of bytes ``log``. One task uses it at a time."""

    def __init__(self, log: Log, main: Log, *, salt: int, limits: Limits, report: Callable[[Notice], None]) -> None:
        self.log = log
        self.dirty = False
        """Whether there is a checkpoint that no flush has covered."""
        self._main = main
        self._salt = salt
        self._limits = limits
        self._report = report
        self._broken = False
        self._written: list[tuple[int, int]] = []  # own position and log position, in order
        self._suspicious = ""
        self._end = 0

    @property
    def last_position(self) -> int:
        """Position in the log that the newest checkpoint describes; -1 without one."""
        return self._written[-1][1] if self._written else -1

    async def newest(self, position_max: int) -> LogState | None:
        """Return the state of the newest checkpoint at or below ``position_max`` that the log bears out.

        Whatever is newer is cut off, durably: the log is about to go another way. None when there is no checkpoint.
        """
        state = await self.look(position_max)
        await self._cut(self._end if state is not None else self.log.start)
        return state

    async def look(self, position_max: int) -> LogState | None:
        """``newest``, with everything left as it is."""
        self._suspicious = ""
        self._written = []
        state = await self._search(position_max)
        if self._suspicious:
            self._report_damaged(self._suspicious)
        return state

    async def _search(self, position_max: int) -> LogState | None:
        log = self.log
        start = log.start + -log.start % PAGE_BYTES
        position = log.end - log.end % PAGE_BYTES
        newer = False
        while position > start:
            begin = max(start, position - _SEARCH_BYTES)
            window = await read_exactly(log, begin, position - begin)
            for at in range(position - begin - PAGE_BYTES, -1, -PAGE_BYTES):
                head = unpack_head(window[at : at + HEAD_BYTES], begin + at, self._salt) if window[at] else None
                if head is None:
                    continue
                if head.log_position > position_max:
                    newer = True
                    continue
                state = await self._try(head)
                if state is not None:
                    return state
            position = begin
        if not newer and not self._suspicious and log.durable_end > log.start:
            self._suspicious = "no checkpoint of it can be read"
        return None

    async def _try(self, head: CheckpointHead) -> LogState | None:
        """The state of one checkpoint, None when the log does not bear it out."""
        try:
            state = await self._restore(head)
        except CorruptionError as error:
            if head.own_end <= self.log.durable_end:  # else it is torn, which a crash explains
                self._suspicious = str(error)
            return None
        self._end = head.own_end
        self._written = [(head.own_position, head.log_position)]
        return state

    async def write(self, state: LogState) -> int:
        """Append a checkpoint of ``state``; return its size in bytes, 0 when it could not be written (reported)."""
        if self._broken:
            return 0
        log = self.log
        try:
            last = await read_exactly(self._main, state.last_position, HEADER_BYTES)
            padding = -log.end % PAGE_BYTES
            own_position = log.end + padding
            checksum = int.from_bytes(last[HEADER_BYTES - 4 :], "little")
            record = pack_checkpoint(state, own_position, checksum, self._salt)
            # A scan of the log is slow; an append that large would hold up every other log of the device.
            if len(record) > CHECKPOINT_BYTES_MAX:
                return len(record)
            await log.append([bytes(padding), record] if padding else [record])
        except StorageError as error:
            self._broken = error.appended or error.kind != "full"
            self._report_not_written(error)
            return 0
        self.dirty = True
        self._written.append((own_position, state.end_position))
        await self._trim()
        return len(record)

    def _report_not_written(self, error: StorageError) -> None:
        self._report(
            Notice(
                "checkpoint-not-written",
                f"log {self._main.name}: checkpoint not written, the next start scans more of it: {error}",
                {"log": self._main.name, "position": self._main.end},
            )
        )

    def stop(self) -> None:
        """Write no more checkpoints: a flush of them failed."""
        self._broken = True
        self.dirty = False

    async def _trim(self) -> None:
        durable = self._main.durable_end
        # The newest one that flushed bytes of the log bear out stays: after a power cut later ones are of no use.
        while len(self._written) > 1 and self._written[1][1] <= durable:
            del self._written[0]
        if self._written[0][0] - self.log.start >= TRIM_BYTES:
            try:
                await self.log.trim(self._written[0][0])
            except StorageError as error:
                self.stop()
                self._report_not_written(error)

    async def _restore(self, head: CheckpointHead) -> LogState:
        where = f"log {self.log.name} at {head.own_position}"
        if head.own_position + HEAD_BYTES + head.payload_bytes > self.log.end:
            raise CorruptionError("checkpoint is cut short", where=where)
        await self._check_bound(head, where)
        payload = await read_exactly(self.log, head.own_position + HEAD_BYTES, head.payload_bytes)
        return unpack_state(head, payload, self._limits, where)

    async def _check_bound(self, head: CheckpointHead, where: str) -> None:
        """Check that the log holds the batch that the checkpoint ends with."""
        main = self._main
        if not main.start <= head.last_position <= main.end - HEADER_BYTES:
            raise CorruptionError("checkpoint lies outside the log", where=where)
        view = await read_exactly(main, head.last_position, HEADER_BYTES)
        header = intact_header(view, self._salt, where)
        found = (header.header_checksum, head.last_position + header.size, header.end_offset)
        expected = (head.last_header_checksum, head.log_position, head.log_offset)
        if found != expected:
            raise CorruptionError(
                "checkpoint of another log, or of what is no longer in it",
                where=where,
                expected=str(expected),
                found=str(found),
            )

    def _report_damaged(self, text: str) -> None:
        self._report(
            Notice(
                "sidecar-damaged",
                f"log {self.log.name} is damaged and is made again from the log itself: {text}",
                {"log": self._main.name, "sidecar": self.log.name},
            )
        )

    async def _cut(self, position: int) -> None:
        if self.log.end > position:
            await self.log.truncate(position)
