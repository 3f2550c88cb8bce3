"""One log of batches on one ``Log`` of bytes, for one term of its store: append, truncation, trimming.

Knows nothing of topics, requests or flush policies. One task appends, truncates or trims at a time; reads run beside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from mqcore.abc import Log, Notice
from mqcore.batch import ATTRIBUTE_CONTROL, HEADER_BYTES, BatchHeader, PlainRun, stamp, unpack_header
from mqcore.errors import CorruptionError, StorageError
from mqcore.log._based import stored
from mqcore.log._control import EPOCH_BATCH_BYTES, EpochFacts, ProducerEnd, pack_ends_batch, pack_epoch_batch
from mqcore.log._foreign import check_foreign
from mqcore.log._quarantine import PARTED
from mqcore.log._recovery import rebuild
from mqcore.log._repaired import RepairedLog
from mqcore.log._scan import header_at
from mqcore.log._sidecar import Sidecar
from mqcore.log._state import LogState
from mqcore.log._term import Term
from mqcore.log._types import IncomingBatch
from mqcore.log._verdicts import Verdict
from mqcore.log._writable import LogContext
from mqcore.ports import Buffer

__all__ = ["PartitionLog"]

CHECKPOINT_FIRST_BYTES = 1024 * 1024
"""A log has no sidecar before it holds more than this."""

CHECKPOINT_SPACING_BYTES = 16 * 1024 * 1024
"""Growth between checkpoints; more if they are large."""

CHECKPOINT_SHARE = 16
"""The log grows by so many times the size of a checkpoint before the next."""

UNUSED_OPENINGS_MAX = 64
"""Reigns in a row that wrote nothing but their epoch batches, before they give way to the next one's."""

HISTORY_KEPT_MAX = 256
"""Reigns kept that lie wholly below the log's start."""


class PartitionLog(RepairedLog):
    """Batches in order, with offsets. Made by ``LogStore.open_log``, for the store's present ``term``.

    ``append``, ``truncate``, ``trim`` and ``checkpoint`` exclude each other: a second one raises
    ``trio.BusyResourceError``. Once ``failed`` is set nothing is appended; after a failure nothing beyond
    ``durable_offset`` is served, after the end of the term nothing at all (``StorageError``, kind ``closed``).
    """

    __slots__ = ("_checkpoint_at", "_make_sidecar", "_reign_open", "_sidecar", "_stored")

    def __init__(
        self,
        log: Log,
        state: LogState,
        *,
        salt: int,
        context: LogContext,
        term: Term,
        sidecar: Sidecar | None,
        make_sidecar: Callable[[], Awaitable[Sidecar]],
    ) -> None:
        super().__init__(log, state, salt=salt, context=context, term=term)
        self._stored = stored(log)
        self._sidecar = sidecar
        self._make_sidecar = make_sidecar
        self._reign_open = False
        self._plan_checkpoint(0)

    # terms

    def successor(self, term: Term) -> PartitionLog:
        """The same log for another term, once this one is closed and idle; nothing is recovered again."""
        heir = PartitionLog(
            self._log,
            self._state,
            salt=self.salt,
            context=self._context,
            term=term,
            sidecar=self._sidecar,
            make_sidecar=self._make_sidecar,
        )
        heir.flushed(self.durable_offset, self.durable_position)
        heir.committed_offset = max(self.committed_offset, heir.start_offset)
        heir._checkpoint_at = self._checkpoint_at
        heir._failure = heir.failed = self._failure
        return heir

    # appending

    def check(self, headers: Sequence[BatchHeader]) -> list[Verdict]:
        """Verdicts of the producer table for batches about to be appended in this order.

        They hold if ``append`` follows without a checkpoint. Raises ``trio.BusyResourceError`` during an append.
        """
        if self._busy:
            self._refuse_busy()
        producers = self._state.producers
        return [producers.check(headers[0])] if len(headers) == 1 else producers.check_many(headers)

    def note_end(self, end: ProducerEnd) -> bool:
        """Note that a producer says it has ended, to be written before messages of others; False if it has not.

        It costs no append of its own, and so no flush: who ends last before a stop is remembered as if it had died.
        """
        return self._state.producers.note_end(end)

    async def append(self, batches: Sequence[IncomingBatch]) -> list[int]:
        """Append ``batches`` with one append of the backend; return their base offsets.

        Headers are stamped in a copy; bodies go down as they are. The first append of a reign is preceded by its
        epoch batch, any by an ends batch that is due. Bodies, sizes and sequences have been checked by the caller
        (``check``).

        Raises ``StorageError`` with ``appended`` False when nothing is in the log: before any byte (kind ``closed``
        after the reign has ended), or after a durable truncation to where it began; the log and its producers are as
        before. Raises ``OutcomeUnknownError`` when even that failed, and sets ``failed``. If cancelled, nothing is in
        the log either (it was cut off again).
        """
        for header, data in batches:
            if header.attributes & ATTRIBUTE_CONTROL or header.size != len(data) or header.count < 1:
                raise ValueError(f"log {self.name}: not a batch of a producer, or not all of it: {header}")
        return await self.append_control(batches)

    async def append_control(self, batches: Sequence[IncomingBatch]) -> list[int]:
        """``append`` for the broker's own batches too: control batches, which no consumer is served."""
        reign = self.term.reign
        if reign is None:
            raise StorageError(f"log {self.name}: nothing can be appended while {self.term.text} lasts", kind="closed")
        if self.failed is not None:
            self._refuse_failed()
        if self._busy:
            self._refuse_busy()
        state = self._state
        epoch, salt, now_ms = reign.number, self.salt, self._context.wall_ms()
        opening = None if self._reign_open else self._epoch_batch(reign, now_ms)
        chunks: list[bytearray | memoryview] = [] if opening is None else [opening]
        ends = state.producers.ends_due(len(batches)) if state.producers.ending else []
        ending = self._stamped(pack_ends_batch(ends), epoch, now_ms) if ends else bytearray()
        if ends:
            chunks.append(ending)
        base_offset = state.end_offset
        base_offsets: list[int] = []
        for header, data in batches:
            view = memoryview(data)
            head = bytearray(view[:HEADER_BYTES])
            stamp(head, base_offset=base_offset, epoch=epoch, appended_ms=now_ms, salt=salt)
            chunks.append(head)
            chunks.append(view[HEADER_BYTES:])
            base_offsets.append(base_offset)
            base_offset += header.count
        self._busy = True
        try:
            await self._append_bytes(chunks)
            if opening is not None:
                self._enter_reign(reign, opening, now_ms)
            if ends:
                state.apply(state.end_position, unpack_header(ending), state.end_offset, now_ms)
                state.producers.end(ends)
            position = state.end_position
            for (header, _), base_offset in zip(batches, base_offsets, strict=True):
                state.apply(position, header, base_offset, now_ms)
                position += header.size
            if position >= self._checkpoint_at:
                await self._checkpoint()
        finally:
            self._busy = False
            if self._idle is not None:
                self._idle.set()
        return base_offsets

    async def append_foreign(self, batches: Sequence[Buffer], *, position: int) -> None:
        """Append what the primary of the reign that is followed has stamped, unchanged, with one append of the backend.

        Each item of ``batches`` holds whole batches, one after the other, control batches included; the first byte of
        all stands at ``position`` of the primary's log, which must be this log's end. Index, history and producers
        become what a recovery would make of the bytes.

        Raises ``CorruptionError`` when a batch is not intact, not of this log, or does not follow what is here (offset,
        position, epoch); else as ``append``. Then nothing is in the log, and it is as before; so if cancelled.
        """
        followed = self.term.followed
        if followed is None:
            raise StorageError(f"log {self.name}: nothing is followed while {self.term.text} lasts", kind="closed")
        self._begin()
        try:
            state = self._state
            if position != state.end_position:
                raise CorruptionError(
                    "batches of another position",
                    where=f"log {self.name}",
                    expected=str(state.end_position),
                    found=str(position),
                )
            checked = check_foreign(batches, state, followed=followed, salt=self.salt, where=f"log {self.name}")
            await self._append_bytes(batches)
            damages = len(state.damages)
            for each in checked:
                state.apply_run(each) if isinstance(each, PlainRun) else state.apply_stored(*each)
            if len(state.damages) > damages:
                self.seek_lost()
            if state.end_position >= self._checkpoint_at:
                await self._checkpoint()
        finally:
            self._end()

    async def open_reign(self) -> None:
        """Append the epoch batch of this reign if it is not in the log yet. Raises as ``append``.

        Earlier reigns that wrote nothing here but their epoch batches give way to it where they are many, or where
        there is no space for one more: else a log would grow with every restart, and on a full disk one would be the
        last. Nothing is lost with them, and their numbers are not used again: the identity knows them.
        """
        if len(self._unused_openings()) >= UNUSED_OPENINGS_MAX:
            await self._cut_unused_openings()
        try:
            await self.append_control(())
        except StorageError as error:
            if error.kind != "full" or not self._unused_openings():
                raise
            await self._cut_unused_openings()
            await self.append_control(())

    def _unused_openings(self) -> list[int]:
        """Positions of the epoch batches behind the last batch that takes an offset, but for the log's first batch."""
        state = self._state
        found: list[int] = []
        position = state.end_position
        for entry in reversed(state.history.entries()):
            position -= EPOCH_BATCH_BYTES
            if entry.start_position != position or position <= state.start_position:
                break
            found.append(position)
        return found

    async def _cut_unused_openings(self) -> None:
        self._begin()
        try:
            with trio.CancelScope(shield=True):
                await self._truncate_bytes(self._unused_openings()[-1])
        finally:
            self._end()

    def _epoch_batch(self, reign: EpochFacts, now_ms: int) -> bytearray:
        """The batch that opens ``reign`` at the log's end."""
        return self._stamped(pack_epoch_batch(reign), reign.number, now_ms)

    def _stamped(self, batch: bytearray, epoch: int, now_ms: int) -> bytearray:
        """``batch``, which takes no offset, as it stands at the log's end."""
        head = memoryview(batch)[:HEADER_BYTES]
        stamp(head, base_offset=self._state.end_offset, epoch=epoch, appended_ms=now_ms, salt=self.salt)
        return batch

    def _enter_reign(self, reign: EpochFacts, opening: bytearray, now_ms: int) -> None:
        state = self._state
        state.open_epoch(reign.number, reign.reign_id, state.end_position, state.end_offset)
        state.apply(state.end_position, unpack_header(opening), state.end_offset, now_ms)
        self._reign_open = True

    # retention, truncation, checkpoints

    async def trim(self, offset: int, position: int | None = None) -> int:
        """Give up what lies below the batch that contains ``offset``, durably; return the new ``start_offset``.

        ``position``: where that begins, as in ``batch_of``. The storage frees whole segments. The last batch always
        stays. Reigns and producers are remembered. Raises ``StorageError``. Not cancelled once begun.
        """
        self._begin()
        try:
            with trio.CancelScope(shield=True):
                await self._trim(min(offset, self._state.end_offset), position)
        finally:
            self._end()
        return self._state.start_offset

    async def _trim(self, offset: int, at: int | None) -> None:
        state = self._state
        if offset <= state.start_offset:
            await trio.lowlevel.checkpoint()
            return
        found = await self.batch_of(offset, at)
        if found is None:
            return
        # First what records the trim, flushed, then the trim: bytes that are gone without a record are damage.
        old = state.start_position, state.start_offset
        state.start_position, state.start_offset = found
        state.history.trim(found.position, HISTORY_KEPT_MAX)
        sidecar = await self._checkpoint()
        if sidecar is None:
            state.start_position, state.start_offset = old
            return
        # The log too: a checkpoint of more than is durable counts for nothing after a power cut.
        await self._context.flusher.flush([self._stored, sidecar.log])
        sidecar.dirty = False
        state.forget_below(found.position)
        await self._log.trim(found.position)

    async def truncate(self, offset: int, position: int | None = None) -> None:
        """Cut every batch from the one that contains ``offset`` on, durably; producers and epochs roll back with it.

        ``position``: where that batch begins, such as a point of divergence: several batches begin at one offset where
        epoch batches, which take none, stand before it; without it all of them are cut. Raises ``ValueError`` below
        ``start_offset``, or if no batch begins at ``position``; ``StorageError`` (then the log has failed). Not
        cancelled once begun.
        """
        state = self._state
        if offset < state.start_offset:
            raise ValueError(f"log {self.name}: cannot truncate at {offset}, it begins at {state.start_offset}")
        self._begin()
        try:
            with trio.CancelScope(shield=True):
                found = await self._walk(
                    state.index.floor(offset - 1),
                    lambda header: header.end_offset > offset or header.base_offset >= offset,
                    None,
                )
                at = found[0] if found is not None else state.end_position
                while position is not None and at < position:
                    header = await header_at(self._log, at, state.end_position, self.salt)
                    if header is None or header.count:
                        break
                    at += header.size
                if position not in (None, at):
                    raise ValueError(f"log {self.name}: no batch of offset {offset} begins at {position}")
                if at < state.end_position:
                    await self._truncate_bytes(at)
        finally:
            self._end()

    async def part_at(self, position: int) -> str | None:
        """Give up what is from ``position`` on, which another reign does not have (R5): kept aside, then cut, durably.

        Returns the name of the side file; None when no message was there. A crash at any point leaves all of it in one
        place or in both, and doing it again ends the same. Raises ``CorruptionError`` if no batch begins there (it is a
        peer that says so; ``DamagedRangeError`` where rot hides it), ``StorageError``. Not cancelled once begun.
        """
        if position >= self._state.end_position:
            return None
        header = await self.batch_at(position)
        if header is None and await self.begins_at(position) is None:
            raise CorruptionError(f"told to part at {position}, where no batch begins", where=f"log {self.name}")
        self._begin()
        name: str | None = None
        try:
            with trio.CancelScope(shield=True):
                # What only opened reigns is no loss: kept aside, it would use up the side files of a log that is idle.
                if header is None or header.base_offset < self.end_offset:
                    name = await self.keep_aside(position, epoch=self.term.epoch, reason=PARTED)
                await self._truncate_bytes(position)
        finally:
            self._end()
        return name

    async def _truncate_bytes(self, position: int) -> None:
        context = self._context
        sidecar = self._sidecar
        try:
            if position < context.ends.of(self.name).position:
                await context.ends.forget(self.name)
            await context.flusher.truncate(self._log, position)
            state, _ = await rebuild(
                self._log, sidecar, salt=self.salt, limits=context.limits, durable_end=position, report=context.report
            )
        except StorageError as error:
            self._fail(error)
            raise
        self._state, self.may_be_damaged = state, self.may_be_damaged or bool(state.damages)
        self._generation += 1
        self._cursors = None
        self._reign_open = self.term.reign is not None and state.epoch == self.term.reign.number
        self.durable_offset = min(self.durable_offset, state.end_offset)
        self.durable_position = min(self.durable_position, state.end_position)
        self.committed_offset = min(self.committed_offset, state.end_offset)
        self._plan_checkpoint(0)

    async def checkpoint(self, *, even_small: bool = False) -> None:
        """Write one if the log is large (or ``even_small``) and has grown since the last. Reports, never raises."""
        if self._busy:
            self._refuse_busy()
        end_position = self._state.end_position
        if not self.bytes_total or (self._sidecar is not None and self._sidecar.last_position == end_position):
            return  # one more would say the same, and stops alone would fill the disk; of nothing it would miss bytes
        if (even_small or end_position >= CHECKPOINT_FIRST_BYTES) and self.failed is None:
            self._begin()
            try:
                await self._checkpoint()
            finally:
                self._end()

    async def _checkpoint(self) -> Sidecar | None:
        """Write one; a failure is reported only: what was appended before it stays appended."""
        size = 0
        with trio.CancelScope(shield=True):
            try:
                if self._sidecar is None:
                    self._sidecar = await self._make_sidecar()
                size = await self._sidecar.write(self._state)
            except (StorageError, CorruptionError) as error:
                text = f"log {self.name}: no sidecar, the next start scans more of it: {error}"
                self._report(Notice("checkpoint-not-written", text, {"log": self.name}))
        self._plan_checkpoint(size)
        return self._sidecar if size else None

    def _plan_checkpoint(self, size: int) -> None:
        spacing = max(CHECKPOINT_SPACING_BYTES, CHECKPOINT_SHARE * size)
        if size == 0 and self._sidecar is None:
            spacing = CHECKPOINT_FIRST_BYTES
        self._checkpoint_at = self._state.end_position + spacing

    # what the store does with it

    def flush_targets(self) -> list[Log]:
        """Logs of bytes that a flush of this log takes in."""
        if self._sidecar is not None and self._sidecar.dirty:
            return [self._stored, self._sidecar.log]
        return [self._stored]

    def flushed(self, offset: int, position: int) -> None:
        """Take in that everything below was flushed."""
        if position > self.durable_position:
            self.durable_position = position
            self.durable_offset = max(offset, self.durable_offset)

    def sidecar_flushed(self) -> None:
        """Take in that the checkpoints were flushed."""
        if self._sidecar is not None:
            self._sidecar.dirty = False

    def flush_failed(self, error: StorageError, names: frozenset[str]) -> bool:
        """Stop if a failed flush covered this log, and return whether it did.

        Stop writing checkpoints if it covered the sidecar only.
        """
        if self._sidecar is not None and self._sidecar.log.name in names:
            self._sidecar.stop()
        if self.name not in names:
            return False
        self._fail(error)
        return True
