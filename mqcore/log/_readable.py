"""Reading one log of batches: by offset, by time, past damage, and its facts.

Knows nothing of topics, requests or flush policies, and appends nothing (``_partition_log`` does).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES, BatchHeader
from mqcore.errors import CorruptionError, StorageError
from mqcore.log._collect import BatchCollector
from mqcore.log._producers import ProducerTable
from mqcore.log._recovery import damage_notice
from mqcore.log._scan import check_body, intact_header, locate_damage, read_exactly, read_whole
from mqcore.log._state import LogState
from mqcore.log._types import (
    BelowStartError,
    Damage,
    DamagedRangeError,
    EpochEntry,
    LogPoint,
    ReadResult,
    StoredBatches,
)

__all__ = ["ReadableLog"]

WALK_BYTES_MIN = 4 * 1024
WALK_BYTES_MAX = 256 * 1024
"""Windows of a walk over headers: small while batches are large, large while they are small."""

CURSORS_MAX = 16
"""Sequential readers whose place is remembered."""


class ReadableLog:
    """The reading half of a ``PartitionLog``; any number of tasks may read."""

    __slots__ = (
        "_cursors",
        "_failure",
        "_generation",
        "_log",
        "_report",
        "_state",
        "committed_offset",
        "durable_level",
        "durable_offset",
        "durable_position",
        "failed",
        "name",
        "salt",
    )

    def __init__(self, log: Log, state: LogState, *, salt: int, report: Callable[[Notice], None]) -> None:
        self.name = log.name
        self.salt = salt
        """32 bits that seal the headers of this log."""
        self.failed: StorageError | None = None
        """Why the log takes no more appends; None while it does."""
        self._failure: StorageError | None = None  # what stopped it in every term, not the end of this one
        self.durable_level = log.level
        self.durable_offset = 0
        """Offset below which everything is at the backend's flush level."""
        self.durable_position = 0
        self.committed_offset = state.start_offset
        """Where the last reign of this process left the committed offset, below which the next does not go (R10)."""
        self._log = log
        self._state = state
        self._report = report
        self._generation = 0
        self._cursors: dict[int, int] | None = None

    # facts

    @property
    def start_offset(self) -> int:
        """First offset kept; never goes back."""
        return self._state.start_offset

    @property
    def start_position(self) -> int:
        """Position of the first batch kept."""
        return self._state.start_position

    @property
    def end_offset(self) -> int:
        """Offset that the next message gets."""
        return self._state.end_offset

    @property
    def end_position(self) -> int:
        """Position after the last batch."""
        return self._state.end_position

    @property
    def end(self) -> LogPoint:
        """Position and offset after the last batch."""
        return self._state.end

    @property
    def producers(self) -> ProducerTable:
        """What is remembered of idempotent producers (R12)."""
        return self._state.producers

    @property
    def bytes_total(self) -> int:
        """Bytes that the log holds, from its first batch to its last."""
        return self._state.end_position - self._state.start_position

    @property
    def dirty(self) -> bool:
        """Whether a flush would move ``durable_offset``."""
        return self.failed is None and self._state.end_position > self.durable_position

    @property
    def history(self) -> list[EpochEntry]:
        """The reigns of this log, oldest first."""
        return self._state.history.entries()

    @property
    def damages(self) -> list[Damage]:
        """Damaged ranges met so far, in order."""
        return sorted(self._state.damages.values())

    def epoch_at(self, offset: int) -> int:
        """Epoch number of the batch that contains ``offset``; at the end, of the last batch; 0 in an empty log."""
        return self._state.history.number_at(offset)

    def divergence(self, offset: int, epoch: int) -> int | None:
        """Where the history of a reader at (``offset``, ``epoch``) leaves this log's; None if it does not (G06).

        ``epoch`` is the number of the epoch of the last batch that was read before ``offset``.
        """
        return self._state.history.divergence(offset, epoch, self._state.end_offset)

    # reading

    async def read(self, offset: int, bytes_max: int, end_offset: int) -> ReadResult:
        """Return whole batches from the one that contains ``offset``, all below ``end_offset``.

        At least one batch even if it is larger than ``bytes_max``; none when ``offset`` is at or beyond the end. The
        chunks are views of the stored bytes, checked (header and body) and untouched. Control batches are left out.
        Raises ``BelowStartError``, ``DamagedRangeError`` (a reader can go on at its ``next_offset``), ``StorageError``
        (the device failed). No effect if cancelled.
        """
        state = self._state
        end_position = self._readable_end()
        limit = min(end_offset, state.end_offset)
        if self.failed is not None:
            self._refuse_closed()
            limit = min(limit, self.durable_offset)
        if offset < state.start_offset:
            raise BelowStartError(self.name, offset, state.start_offset)
        if offset >= limit:
            await trio.lowlevel.checkpoint()
            return ReadResult([], 0, offset)
        generation = self._generation
        position = self._cursors.pop(offset, None) if self._cursors is not None else None
        if position is None:
            position = await self._seek(offset)
        collector = BatchCollector(
            offset, position, limit=limit, bytes_max=bytes_max, salt=self.salt, where=self.name
        )
        wanted = HEADER_BYTES
        while wanted and not collector.invalid and (left := end_position - collector.position) >= wanted:
            size = min(max(collector.wanted_bytes, wanted), left)
            try:
                window = await read_whole(self._log, collector.position, size, wanted)
            except (ValueError, StorageError):
                if offset < self._state.start_offset:
                    raise BelowStartError(self.name, offset, self._state.start_offset) from None
                stopped = self._readable_end() < end_position  # then what is durable is served
                if stopped or generation != self._generation:
                    return await self.read(offset, bytes_max, end_offset)
                raise
            if generation != self._generation:
                return await self.read(offset, bytes_max, end_offset)
            wanted = collector.feed(window)
        if collector.next_offset == offset and (wanted or collector.invalid):
            text = collector.invalid or f"the log ends at {state.end_position} in the middle of a batch"
            raise DamagedRangeError(self.name, await self._damage(collector.position, offset, text))
        if not collector.invalid:
            self._remember(collector.next_offset, collector.position)
        return ReadResult(collector.chunks, collector.size, collector.next_offset)

    async def read_stored(self, position: int, bytes_max: int, end_position: int) -> StoredBatches:
        """Return whole batches as they are stored, from the one at ``position``, all below ``end_position``.

        By position, because epoch batches take no offset and a copy must have them. At least one batch even if it is
        larger than ``bytes_max``; none at the end. The chunks are checked (header and body), control batches included.
        Raises ``CorruptionError`` where no whole batch is, ``StorageError``, ``ValueError`` below the log's first
        byte. No effect if cancelled.
        """
        end = min(end_position, self._readable_end())
        if self.failed is not None:
            self._refuse_closed()
            end = min(end, self.durable_position)
        if position >= end:
            await trio.lowlevel.checkpoint()
            return StoredBatches([], position)
        where = f"log {self.name} at {position}"
        generation = self._generation
        window = await read_whole(self._log, position, min(max(bytes_max, HEADER_BYTES), end - position), HEADER_BYTES)
        if generation == self._generation:
            size = intact_header(window[:HEADER_BYTES], self.salt, where).size
            if len(window) < size <= end - position:
                window = await read_exactly(self._log, position, size)
        if generation != self._generation:
            return await self.read_stored(position, bytes_max, end_position)
        at = 0
        while len(window) - at >= HEADER_BYTES:
            header = intact_header(window[at : at + HEADER_BYTES], self.salt, where)
            if header.size > len(window) - at:
                break
            check_body(header, window[at : at + header.size], where)
            at += header.size
        return StoredBatches([window[:at]] if at else [], position + at)

    def _readable_end(self) -> int:
        """Position up to which the storage can be read; notes when the storage has stopped the log (clause G11)."""
        end, stored = self._state.end_position, self._log.end
        if stored >= end:
            return end
        if self._failure is None:
            self._fail(
                StorageError(
                    f"log {self.name}: the storage stopped it at {stored}, short of {end}; restart the broker",
                    kind="flush",
                    position=stored,
                )
            )
        return stored

    def _refuse_closed(self) -> None:
        """Raise when the term has ended: the next one may cut what this one knows of, which would look like damage."""
        if self.failed is not self._failure:
            raise StorageError(str(self.failed), kind="closed")

    def _fail(self, error: StorageError) -> None:
        """Note that the log takes no more appends in any term of this process; the first reason stays."""
        self._failure = self._failure or error
        self.failed = self.failed or error

    def _remember(self, offset: int, position: int) -> None:
        """Note where the next sequential read begins."""
        cursors = self._cursors
        if cursors is None:
            cursors = self._cursors = {}
        elif len(cursors) >= CURSORS_MAX:
            del cursors[next(iter(cursors))]
        cursors[offset] = position

    async def _seek(self, offset: int) -> int:
        """Position of the batch that contains ``offset``. Raises ``DamagedRangeError``."""
        begin = self._state.index.floor(offset)
        found = await self._walk(begin, lambda header: header.end_offset > offset, offset)
        return found[0] if found is not None else self._state.end_position

    async def _walk(
        self, begin: tuple[int, int] | None, wanted: Callable[[BatchHeader], bool], offset: int | None
    ) -> tuple[int, BatchHeader] | None:
        """Walk headers from ``begin`` (offset, position) to the first that is ``wanted``.

        Damage is passed over, but raised as ``DamagedRangeError`` if it holds ``offset``.
        """
        state = self._state
        expected, position = begin or (0, 0)
        if position < state.start_position:
            expected, position = state.start_offset, state.start_position
        window_bytes = WALK_BYTES_MIN
        end_position = self._readable_end()
        while (left := end_position - position) >= HEADER_BYTES:
            missing = state.damages.get(position)
            if missing is not None:  # passed over unread: its bytes may not be there at all
                if offset is not None and missing.next_offset > offset:
                    raise DamagedRangeError(self.name, missing)
                expected, position = missing.next_offset, missing.end_position
                continue
            window = await read_whole(self._log, position, min(window_bytes, left), HEADER_BYTES)
            at = 0
            try:
                while len(window) - at >= HEADER_BYTES:
                    header = intact_header(window[at : at + HEADER_BYTES], self.salt, self.name)
                    if header.base_offset != expected:
                        raise CorruptionError(f"batch at offset {header.base_offset}", where=self.name)
                    if wanted(header):
                        return position + at, header
                    expected += header.count
                    at += header.size
                position += at
                window_bytes = WALK_BYTES_MIN if at > len(window) else min(4 * window_bytes, WALK_BYTES_MAX)
            except CorruptionError as error:
                damage = await self._damage(position + at, expected, str(error))
                if offset is not None and damage.next_offset > offset:
                    raise DamagedRangeError(self.name, damage) from None
                expected, position = damage.next_offset, damage.end_position
        return None

    async def _damage(self, position: int, offset: int, text: str) -> Damage:
        """Find how far the damage at ``position`` reaches, and report it once."""
        state = self._state
        known = state.damages.get(position)
        if known is not None:
            return known
        boundary = state.index.after(position) or (state.end_offset, state.end_position)
        damage = await locate_damage(
            self._log,
            position,
            salt=self.salt,
            offset=offset,
            epoch=0,
            text=text,
            search_end=boundary[1],
            boundary=boundary,
        )
        if state.note_damage(damage):
            self._report(damage_notice(self.name, damage))
        return damage

    async def offset_at_time(self, time_ms: int) -> int:
        """First offset whose batch was appended at ``time_ms`` (ms since 1970 UTC) or later; ``end_offset`` if none.

        Batches are taken in order of offset: where the clock jumped back, the first that is late enough counts.
        """
        state = self._state
        if time_ms > state.newest_ms:
            await trio.lowlevel.checkpoint()
            return state.end_offset
        found = await self._walk(
            state.index.floor_time(time_ms),
            lambda header: header.appended_ms >= time_ms and header.count > 0,
            None,
        )
        return max(found[1].base_offset, state.start_offset) if found is not None else state.end_offset
