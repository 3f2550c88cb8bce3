"""Reading one log of batches: by offset, by time, past damage, and its facts.

Knows nothing of topics, requests or flush policies, and appends nothing (``_partition_log`` does).
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES, BatchHeader
from mqcore.errors import CorruptionError, StorageError
from mqcore.guarantees import Level
from mqcore.log._based import LogStart
from mqcore.log._collect import BatchCollector, stored_batches
from mqcore.log._history import UNKNOWN_REIGN
from mqcore.log._mending import GoodCopies, mend_batch
from mqcore.log._producers import ProducerTable
from mqcore.log._recovery import damage_notice
from mqcore.log._scan import header_at, intact_header, locate_damage, read_exactly, read_whole
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

MENDS_MAX = 8
"""How often one batch is mended from another copy before it counts as damaged all the same."""


class ReadableLog:
    """The reading half of a ``PartitionLog``; any number of tasks may read."""

    __slots__ = (
        "_cursors",
        "_failure",
        "_generation",
        "_good",
        "_log",
        "_mends",
        "_report",
        "_state",
        "committed_offset",
        "durable_level",
        "durable_offset",
        "durable_position",
        "failed",
        "least_level",
        "name",
        "salt",
    )

    def __init__(
        self, log: Log, state: LogState, *, salt: int, report: Callable[[Notice], None], good: GoodCopies
    ) -> None:
        self.name = log.name
        self.salt = salt
        """32 bits that seal the headers of this log."""
        self.failed: StorageError | None = None
        """Why the log takes no more appends; None while it does."""
        self._failure: StorageError | None = None  # what stopped it in every term, not the end of this one
        self.durable_level = log.level
        self.least_level = Level.NONE
        """Level below which a flush proves nothing of this log, and below which it takes no sends."""
        self.durable_offset = 0
        """Offset below which everything is at the backend's flush level."""
        self.durable_position = 0
        self.committed_offset = state.start_offset
        """Where the last reign of this process left the committed offset, below which the next does not go (R10)."""
        self._log, self._good = log, good
        self._state = state
        self._report = report
        self._generation = 0
        self._cursors: dict[int, int] | None = None
        self._mends: dict[int, int] | None = None

    # facts

    @property
    def level(self) -> Level:
        """Level that a flush gives this log now."""
        return self._log.level

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
    def last_batch(self) -> tuple[int, bytes, int]:
        """Of the last batch: epoch number, reign id (16 bytes) and position. Zeros in a log without one."""
        state = self._state
        if state.last_position < 0:
            return 0, UNKNOWN_REIGN, 0
        return state.epoch, state.history.last_id, state.last_position

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
    def is_damaged(self) -> bool:
        """Whether damage was met so far."""
        return bool(self._state.damages)

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
        collector = BatchCollector(offset, position, limit=limit, bytes_max=bytes_max, salt=self.salt, where=self.name)
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
            if await self._mended(collector.position, offset):
                return await self.read(offset, bytes_max, end_offset)
            text = collector.invalid or f"the log ends at {state.end_position} in the middle of a batch"
            raise DamagedRangeError(self.name, await self._damage(collector.position, offset, text))
        if not collector.invalid:
            self._remember(collector.next_offset, collector.position)
        return ReadResult(collector.chunks, collector.size, collector.next_offset)

    async def read_stored(
        self, position: int, bytes_max: int, end_position: int, *, is_checked: bool = True
    ) -> StoredBatches:
        """Return whole batches as they are stored, from the one at ``position``, all below ``end_position``.

        By position, because epoch batches take no offset and a copy must have them. At least one batch even if it is
        larger than ``bytes_max``; none at the end. The chunks are checked (header and body), control batches included;
        where ``is_checked`` is False only that a batch ends where they end, for a reader that checks each itself.
        Raises ``CorruptionError`` where no whole batch is, ``StorageError``, ``ValueError`` below the log's first
        byte. No effect if cancelled.
        """
        end = min(end_position, self._readable_end())
        if self.failed is not None:
            self._refuse_closed()
            end = min(end, self.durable_position)
        if position >= end:
            await trio.lowlevel.checkpoint()
            return StoredBatches([], position, -1)
        try:
            return await self._read_stored(position, bytes_max, end, is_checked)
        except CorruptionError:
            if not await self._mended(position, None):
                raise
            return await self._read_stored(position, bytes_max, end, True)

    async def _read_stored(self, position: int, bytes_max: int, end: int, is_checked: bool) -> StoredBatches:
        where = f"log {self.name} at {position}"
        generation = self._generation
        window = await read_whole(self._log, position, min(max(bytes_max, HEADER_BYTES), end - position), HEADER_BYTES)
        if generation == self._generation:
            size = intact_header(window[:HEADER_BYTES], self.salt, where).size
            if len(window) < size <= end - position:
                window = await read_exactly(self._log, position, size)
        if generation != self._generation:
            return await self.read_stored(position, bytes_max, end)
        return stored_batches(window, position, salt=self.salt, where=where, is_checked=is_checked)

    async def batch_at(self, position: int) -> BatchHeader | None:
        """Return the header of the batch that begins at ``position``; None if none does, as far as the log is whole.

        Raises ``StorageError``. No effect if cancelled.
        """
        end = self._readable_end()
        if not self._state.start_position <= position < end:
            await trio.lowlevel.checkpoint()
            return None
        return await header_at(self._log, position, end, self.salt)

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
                if offset is not None and missing.next_offset > offset and await self._mended(position, expected):
                    continue
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
                position += at
                if await self._mended(position, expected):
                    continue
                damage = await self._damage(position, expected, str(error))
                if offset is not None and damage.next_offset > offset:
                    raise DamagedRangeError(self.name, damage) from None
                expected, position = damage.next_offset, damage.end_position
        return None

    async def _mended(self, position: int, offset: int | None) -> bool:
        """Whether there was a good copy of the batch at ``position`` somewhere, so that reading again is worth it."""
        mends = self._mends = self._mends or {}
        mends[position] = mends.get(position, 0) + 1
        if mends[position] > MENDS_MAX:
            return False  # what was put right does not stay so
        is_mended = await mend_batch(
            self._log, position, self._readable_end(), salt=self.salt, offset=offset,
            history=self.history, good=self._good, report=self._report,
        )  # fmt: skip
        if is_mended:
            self._state.damages.pop(position, None)
        return is_mended

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

    async def batch_of(self, offset: int, position: int | None = None) -> LogPoint | None:
        """Position and base offset of the batch that contains ``offset``, or of the last one; None where none is whole.

        ``position``: of a batch that is said to begin there, and is taken if it does: it may open a reign and hold no
        offset. Raises ``StorageError``, ``CorruptionError``. No effect if cancelled.
        """
        state = self._state
        header = None if position is None else await header_at(self._log, position, state.end_position, self.salt)
        if position is not None and header is not None and header.base_offset == offset:
            return LogPoint(position, offset)
        found = await self._walk(state.index.floor(offset), lambda header: header.end_offset > offset, None)
        if found is not None and found[0] < state.last_position:
            return LogPoint(found[0], found[1].base_offset)
        last = await header_at(self._log, state.last_position, state.end_position, self.salt)
        return None if last is None else LogPoint(state.last_position, last.base_offset)

    async def start_at(self, offset: int) -> LogStart | None:
        """Where the log would begin if trimmed to ``offset``; None where it cannot be. Raises as ``batch_of``."""
        found = await self.batch_of(offset)
        reigns = [] if found is None else [each for each in self.history if each.start_position <= found.position]
        if found is None or not reigns:
            return None
        reign = reigns[-1]
        return LogStart(
            found.offset, found.position, reign.number, reign.reign_id, reign.start_position, reign.start_offset
        )

    def boundary_below(self, position: int) -> tuple[int, int]:
        """Offset and position of a batch at or below ``position``, as near as the index knows; else of the start."""
        state = self._state
        found = state.index.below(position)
        return found if found and found[1] > state.start_position else (state.start_offset, state.start_position)

    def boundary_above(self, position: int) -> tuple[int, int]:
        """Offset and position of the next batch beyond ``position`` that the index knows; else of the start."""
        state = self._state
        return state.index.after(position) or (state.start_offset, state.start_position)

    def boundary_of(self, offset: int) -> int:
        """Position of a batch at or below ``offset``, as near as the index knows; else of the start."""
        state = self._state
        found = state.index.floor(offset)
        return max(found[1], state.start_position) if found else state.start_position

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
