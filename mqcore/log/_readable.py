"""Reading one log of batches: by offset, by time, past damage, and having that mended.

Knows nothing of topics, requests or flush policies, and appends nothing (``_partition_log`` does).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from mqcore.batch import HEADER_BYTES, BatchHeader, body_checksum_of
from mqcore.errors import CorruptionError, StorageError
from mqcore.log._based import LogStart
from mqcore.log._collect import WALK_BYTES_MAX, BatchCollector, stored_batches
from mqcore.log._control import (
    EPOCH,
    LOST,
    LOST_BATCH_BYTES_MIN,
    control_kind,
    unpack_epoch_batch,
    unpack_lost_batch,
)
from mqcore.log._facts import LogFacts
from mqcore.log._mending import Mended, Mends, MendTry, mend_batch, mend_from_storage, mended_end
from mqcore.log._recovery import damage_notice
from mqcore.log._scan import header_at, intact_header, locate_damage, read_exactly, read_whole
from mqcore.log._state import LOST_TEXT
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
"""First window of a walk over headers: small while batches are large, up to ``WALK_BYTES_MAX`` while they are small."""

CURSORS_MAX = 16
"""Sequential readers whose place is remembered."""


class ReadableLog(LogFacts):
    """The reading half of a ``PartitionLog``; any number of tasks may read."""

    __slots__ = ()

    async def read(
        self, offset: int, bytes_max: int, end_offset: int, *, asks: bool = True, tags: frozenset[bytes] | None = None
    ) -> ReadResult:
        """Return whole batches from the one that contains ``offset``, all below ``end_offset``.

        At least one batch even if it is larger than ``bytes_max``; none when ``offset`` is at or beyond the end. The
        chunks are views of the stored bytes, checked (header and body) and untouched. Control batches are left out.
        ``asks``: whether other nodes are asked for what is damaged, which may take long, before it is raised. ``tags``,
        encoded: batches without them are passed over; at most ``LOOKED_BYTES_MAX`` of one reign are looked at. Raises
        ``BelowStartError``, ``DamagedRangeError`` (a reader can go on at its ``next_offset``), ``StorageError`` (the
        device failed). No effect if cancelled.
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
        again = partial(self.read, offset, bytes_max, end_offset, asks=asks, tags=tags)
        generation = self._generation
        position = self._cursors.pop(offset, None) if self._cursors is not None else None
        if position is None:
            try:
                position = await self._seek(offset, asks)
            except DamagedRangeError:
                if generation == self._generation and offset >= self._state.start_offset:
                    raise
                return await again()
        collector = BatchCollector(offset, position, limit, bytes_max, self.salt, self.name, tags)
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
                    return await again()
                raise
            if generation != self._generation:
                return await again()
            wanted = collector.feed(window)
        if collector.next_offset == offset and (wanted or collector.invalid):
            is_mended = await self._mended(collector.position, offset, asks=asks)
            # While others were asked it may have been cut, or trimmed: then what was read says nothing of it.
            if is_mended or generation != self._generation or offset < self._state.start_offset:
                return await again()
            text = collector.invalid or f"the log ends at {state.end_position} in the middle of a batch"
            raise DamagedRangeError(self.name, await self._damage(collector.position, offset, text))
        if not collector.invalid:
            self._remember(collector.next_offset, collector.position)
        return collector.result

    async def read_stored(
        self, position: int, bytes_max: int, end_position: int, *, is_checked: bool = True, asks: bool = True
    ) -> StoredBatches:
        """Return whole batches as they are stored, from the one at ``position``, all below ``end_position``.

        By position, because epoch batches take no offset and a copy must have them. At least one batch even if it is
        larger than ``bytes_max``; none at the end. The chunks are checked (header and body), control batches included;
        where ``is_checked`` is False only that a batch ends where they end, for a reader that checks each itself.
        ``asks``: as in ``read``.
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
        except CorruptionError as error:
            offset = await self.begins_at(position)
            if not await self._mended(position, offset, asks=asks):
                if offset is not None:
                    await self._damage(position, offset, str(error))
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

    async def _seek(self, offset: int, asks: bool) -> int:
        """Position of the batch that contains ``offset``. Raises ``DamagedRangeError``."""
        begin = self._state.index.floor(offset)
        found = await self._walk(begin, lambda header: header.end_offset > offset, offset, asks)
        return found[0] if found is not None else self._state.end_position

    async def _walk(
        self,
        begin: tuple[int, int] | None,
        wanted: Callable[[BatchHeader], bool],
        offset: int | None,
        asks: bool = False,
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
                    if await self._mended(position, expected, asks=asks):
                        continue
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
                if await self._mended(position, expected, asks=asks):
                    continue
                damage = await self._damage(position, expected, str(error))
                if offset is not None and damage.next_offset > offset:
                    raise DamagedRangeError(self.name, damage) from None
                expected, position = damage.next_offset, damage.end_position
        return None

    async def begins_at(self, position: int) -> int | None:
        """Offset of the batch that begins at ``position``, even if it has rotted; None if none begins there.

        Raises ``DamagedRangeError`` where what has rotted before it hides that, ``StorageError``. No effect if
        cancelled.
        """
        header = await self.batch_at(position)
        if header is not None:
            return header.base_offset
        end = self._readable_end()
        if not self._state.start_position <= position < end:
            return None
        offset, at = self.boundary_below(position)
        while at < position:
            header = await header_at(self._log, at, end, self.salt)
            known = self._state.damages.get(at)
            if header is not None and header.base_offset == offset:
                offset, at = header.end_offset, at + header.size
            elif known is not None and known.end_position <= position:
                offset, at = known.next_offset, known.end_position
            else:
                raise DamagedRangeError(self.name, await self._damage(at, offset, "no batch of this log"))
        return offset if at == position else None

    # mending

    async def _learn(self, hidden: EpochEntry, position: int, end: LogPoint) -> None:
        """Take in what opened a reign, if that is what was mended at ``position``."""
        batch = await read_exactly(self._log, position, end.position - position)
        header = intact_header(batch[:HEADER_BYTES], self.salt, self.name)
        kind = control_kind(batch) if header.is_control else 0
        facts = unpack_epoch_batch(batch, self.name) if kind == EPOCH else None
        if kind == LOST:
            facts = unpack_lost_batch(batch, self.name).opening
        if facts is not None and facts.number == hidden.number:
            self._state.history.learn(facts.number, facts.reign_id, position, header.base_offset)

    async def _mended(self, position: int, offset: int | None, *, asks: bool) -> bool:
        """Whether there was a good copy of the batch at ``position`` somewhere, so that reading again is worth it."""
        if self.open_end is not None and position >= self.open_end:
            return False  # where it ends has to be known anew then, which ``mend_damages`` sees to
        return (await self._try_to_mend(position, offset, asks=asks)).outcome is Mended.YES

    async def _try_to_mend(self, position: int, offset: int | None, *, asks: bool) -> MendTry:
        mends = self._mends = self._mends or Mends()
        generation, end = self._generation, self._readable_end()
        hidden, known = self.hidden_reign(position), self._state.damages.get(position)
        is_given_up = known is not None and known.is_given_up
        if mends.is_worn(position):
            return MendTry(Mended.NO)
        # What is given up is so on all copies of the storage.
        if not is_given_up and await mend_from_storage(self._log, position, end, salt=self.salt, offset=offset):
            tried = MendTry(Mended.YES, await mended_end(self._log, position, end, self.salt))
        elif not asks or self._good.ask is None:
            return MendTry(Mended.NO)
        elif (lately := mends.failed_lately(position)) is not None:
            return lately
        else:
            tried = await mend_batch(
                self._log, position, salt=self.salt, offset=offset, history=self.history, hidden=hidden,
                damage=known, good=self._good, is_same=lambda: generation == self._generation, report=self._report,
            )  # fmt: skip
        mends.note(position, tried)
        if generation == self._generation:
            if tried.hidden is not None:
                self._state.history.learn(*tried.hidden)
            if tried.outcome is Mended.YES:
                if hidden is not None:
                    await self._learn(hidden, position, tried.end)
                await self._put_right(position, tried.end)
        return tried

    async def _put_right(self, position: int, end: LogPoint) -> None:
        """Take in that batches stand from ``position`` to ``end`` again, those that are given up among them."""
        damages, generation = self._state.damages, self._generation
        for damage in self.damages:
            if position <= damage.position < end.position:
                del damages[damage.position]
                if damage.is_given_up:
                    self._state.producers.mark(damage.first_offset, damage.next_offset, is_given_up=False)
                if position < end.position < damage.end_position:
                    rest = damage._replace(position=end.position, first_offset=end.offset, is_given_up=False)
                    self._state.note_damage(rest)
        while position < end.position:
            header = await header_at(self._log, position, end.position, self.salt)
            if header is None or generation != self._generation:
                return
            if header.is_control:
                head = await read_exactly(self._log, position, min(header.size, LOST_BATCH_BYTES_MIN))
                if control_kind(head) == LOST:
                    self._state.give_up(position, header)
            position += header.size

    async def _damage(self, position: int, offset: int, text: str) -> Damage:
        """Find how far the damage at ``position`` reaches, and report it once."""
        state, self.may_be_damaged = self._state, True
        known = state.damages.get(position)
        if known is not None:
            if known.is_given_up and self._good.met is not None:
                self._good.met(self.name)  # a node that was away may have it
            return known
        boundary = state.index.after(position) or (state.end_offset, state.end_position)
        try:
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
        except ValueError:
            if state is self._state and position >= state.start_position:
                raise
            return Damage(position, state.start_position, offset, state.start_offset, "trimmed or cut meanwhile")
        if await self._is_lost(damage):
            damage = damage._replace(text=LOST_TEXT, is_given_up=True)
        if state.note_damage(damage):
            if self._good.met is not None and damage.position in state.damages:
                self._good.met(self.name)  # who reports it if it cannot be mended
            else:
                self._report(damage_notice(self.name, damage))
        return damage

    async def _is_lost(self, damage: Damage) -> bool:
        """Whether a lost batch, and nothing else, stands in what reads as damaged."""
        header = await header_at(self._log, damage.position, damage.end_position, self.salt)
        if header is None or not header.is_control or damage.position + header.size != damage.end_position:
            return False
        batch = await read_exactly(self._log, damage.position, header.size)
        return control_kind(batch) == LOST and body_checksum_of(batch) == header.body_checksum

    async def batch_of(self, offset: int, position: int | None = None) -> LogPoint | None:
        """Position and base offset of the batch that contains ``offset``, or of the last one; None where none is whole.

        ``position``: of a batch that is said to begin there, and is taken if it does: it may open a reign and hold no
        offset. Raises ``StorageError``, ``CorruptionError``. No effect if cancelled.
        """
        state = self._state
        if position is not None:
            with suppress(DamagedRangeError):
                if await self.begins_at(position) == offset:
                    return LogPoint(position, offset)
        # Asks no other node: it is needed while nothing else may be written.
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
            True,
        )
        return max(found[1].base_offset, state.start_offset) if found is not None else state.end_offset
