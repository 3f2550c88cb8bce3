"""One log of batches on one ``Log`` of bytes, for one term of its store: append, truncation, trimming.

Knows nothing of topics, requests or flush policies. One task appends, truncates or trims at a time; reads run beside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, NoReturn

import trio

from mqcore.abc import Log, Notice
from mqcore.batch import ATTRIBUTE_CONTROL, HEADER_BYTES, BatchHeader, stamp, unpack_header
from mqcore.errors import CorruptionError, OutcomeUnknownError, StorageError
from mqcore.limits import Limits
from mqcore.log._control import EpochFacts, pack_epoch_batch
from mqcore.log._flushing import SerialFlusher
from mqcore.log._producers import Verdict
from mqcore.log._readable import ReadableLog
from mqcore.log._recovery import rebuild
from mqcore.log._scan import header_at
from mqcore.log._sidecar import Sidecar
from mqcore.log._state import LogState
from mqcore.log._term import Term
from mqcore.log._types import IncomingBatch

__all__ = ["LogContext", "PartitionLog"]

CHECKPOINT_FIRST_BYTES = 1024 * 1024
"""A log has no sidecar before it holds more than this."""

CHECKPOINT_SPACING_BYTES = 16 * 1024 * 1024
"""Growth between checkpoints; more if they are large."""

CHECKPOINT_SHARE = 16
"""The log grows by so many times the size of a checkpoint before the next."""

HISTORY_KEPT_MAX = 256
"""Reigns kept that lie wholly below the log's start."""


class LogContext(NamedTuple):
    """What the logs of one store share in every term: the clock (ms since 1970 UTC), limits, where notices go."""

    wall_ms: Callable[[], int]
    limits: Limits
    report: Callable[[Notice], None]
    flusher: SerialFlusher


class PartitionLog(ReadableLog):
    """Batches in order, with offsets. Made by ``LogStore.open_log``, for the store's present ``term``.

    ``append``, ``truncate``, ``trim`` and ``checkpoint`` exclude each other: a second one raises
    ``trio.BusyResourceError``. Once ``failed`` is set nothing is appended; after a failure nothing beyond
    ``durable_offset`` is served, after the end of the term nothing at all (``StorageError``, kind ``closed``).
    """

    __slots__ = ("_busy", "_checkpoint_at", "_context", "_idle", "_make_sidecar", "_reign_open", "_sidecar", "term")

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
        super().__init__(log, state, salt=salt, report=context.report)
        self.term = term
        """The only term in which it takes appends."""
        self._context = context
        self._sidecar = sidecar
        self._make_sidecar = make_sidecar
        self._busy = False
        self._idle: trio.Event | None = None
        self._reign_open = False
        self._plan_checkpoint(0)

    # terms

    def close(self, error: StorageError) -> None:
        """Take no more appends and serve no more reads in this term, at once; idempotent. ``error`` says why."""
        self.failed = error
        self._generation += 1  # a read under way looks again, and finds it closed
        self._cursors = None

    async def wait_idle(self) -> None:
        """Wait until no append, truncation, trim or checkpoint is under way."""
        while self._busy:
            self._idle = trio.Event()
            await self._idle.wait()

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
        heir._checkpoint_at = self._checkpoint_at
        heir._failure = heir.failed = self._failure
        return heir

    def _begin(self) -> None:
        """Begin what excludes everything else. Raises ``StorageError`` (kind ``closed``)."""
        if self.failed is not None:
            self._refuse_failed()
        if self._busy:
            self._refuse_busy()
        self._busy = True

    def _end(self) -> None:
        self._busy = False
        if self._idle is not None:
            self._idle.set()

    # appending

    def check(self, headers: Sequence[BatchHeader]) -> list[Verdict]:
        """Verdicts of the producer table for batches about to be appended in this order.

        They hold if ``append`` follows without a checkpoint. Raises ``trio.BusyResourceError`` during an append.
        """
        if self._busy:
            self._refuse_busy()
        producers = self._state.producers
        return [producers.check(headers[0])] if len(headers) == 1 else producers.check_many(headers)

    async def append(self, batches: Sequence[IncomingBatch]) -> list[int]:
        """Append ``batches`` with one append of the backend; return their base offsets.

        Headers are stamped in a copy; bodies go down as they are. The first append of a reign is preceded by its
        epoch batch. Bodies, sizes and sequences have been checked by the caller (``check``).

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
        """``append`` for the broker's own batches too: control batches, which nobody is served."""
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

    async def open_reign(self) -> None:
        """Append the epoch batch of this reign if it is not in the log yet. Raises as ``append``."""
        if not self._reign_open:
            await self.append_control(())

    def _epoch_batch(self, reign: EpochFacts, now_ms: int) -> bytearray:
        """The batch that opens ``reign`` at the log's end."""
        batch = pack_epoch_batch(reign)
        head = memoryview(batch)[:HEADER_BYTES]
        stamp(
            head, base_offset=self._state.end_offset, epoch=reign.number, appended_ms=now_ms, salt=self.salt
        )
        return batch

    def _enter_reign(self, reign: EpochFacts, opening: bytearray, now_ms: int) -> None:
        state = self._state
        state.open_epoch(reign.number, reign.reign_id, state.end_position, state.end_offset)
        state.apply(state.end_position, unpack_header(opening), state.end_offset, now_ms)
        self._reign_open = True

    async def _append_bytes(self, chunks: Sequence[bytearray | memoryview]) -> None:
        expected = self._state.end_position
        try:
            position = await self._log.append(chunks)
        except StorageError as error:
            if error.appended:
                await self._undo(error)
                raise StorageError(
                    f"log {self.name}: append failed and was undone: {error}",
                    kind=error.kind,
                    retryable=error.retryable,
                    path=error.path,
                    position=error.position,
                ) from error
            self._readable_end()  # notes a log that the storage has stopped
            raise
        except BaseException as error:  # cancelled, which is cheaper to undo than to shield every append from
            await self._undo(error)
            raise
        if position != expected:
            text = f"log {self.name}: the storage appended at {position}, not at {expected}; it breaks its contract"
            self._fail(StorageError(text, kind="io", position=position))
            raise OutcomeUnknownError(text)

    async def _undo(self, error: BaseException) -> None:
        """Cut off what an append may have left, so that it may be called rejected; else the log stops."""
        position = self._state.end_position
        try:
            with trio.CancelScope(shield=True):
                await self._context.flusher.truncate(self._log, position)
        except BaseException as second:
            storage = error if isinstance(error, StorageError) else None
            text = f"log {self.name}: an append failed ({error!r}) and could not be undone ({second!r}); "
            text += "restart the broker"
            self._fail(
                StorageError(
                    text,
                    kind=storage.kind if storage else "io",
                    path=storage.path if storage else None,
                    position=position,
                    appended=True,
                )
            )
            if not isinstance(second, Exception):
                raise
            raise OutcomeUnknownError(text) from second

    def _refuse_failed(self) -> NoReturn:
        raise StorageError(f"log {self.name} takes no appends: {self.failed}", kind="closed")

    def _refuse_busy(self) -> NoReturn:
        raise trio.BusyResourceError(f"log {self.name} is being appended to, truncated or trimmed by another task")

    # retention, truncation, checkpoints

    async def trim(self, offset: int) -> int:
        """Give up what lies below the batch that contains ``offset``, durably; return the new ``start_offset``.

        The storage behind it is freed by whole segments. The last batch always stays. Reigns and producers are
        remembered. Raises ``StorageError``. Not cancelled once begun.
        """
        self._begin()
        try:
            with trio.CancelScope(shield=True):
                await self._trim(min(offset, self._state.end_offset))
        finally:
            self._end()
        return self._state.start_offset

    async def _trim(self, offset: int) -> None:
        state = self._state
        if offset <= state.start_offset:
            await trio.lowlevel.checkpoint()
            return
        found = await self._walk(state.index.floor(offset), lambda header: header.end_offset > offset, None)
        position, start_offset = (found[0], found[1].base_offset) if found else (state.last_position, -1)
        if position >= state.last_position:
            position = state.last_position
            last = await header_at(self._log, position, state.end_position, self.salt)
            if last is None:
                return
            start_offset = last.base_offset
        old = state.start_position, state.start_offset
        state.start_position, state.start_offset = position, start_offset
        state.history.trim(position, HISTORY_KEPT_MAX)
        sidecar = await self._checkpoint()
        if sidecar is None:
            state.start_position, state.start_offset = old
            return
        await self._context.flusher.flush([sidecar.log])
        sidecar.dirty = False
        state.index.trim(position)
        await self._log.trim(position)

    async def truncate(self, offset: int) -> None:
        """Cut every batch from the one that contains ``offset`` on, durably; producers and epochs roll back with it.

        Raises ``ValueError`` below ``start_offset``, ``StorageError`` (then the log has failed). Not cancelled once
        begun.
        """
        state = self._state
        if offset < state.start_offset:
            raise ValueError(f"log {self.name}: cannot truncate at {offset}, it begins at {state.start_offset}")
        self._begin()
        try:
            with trio.CancelScope(shield=True):
                begin = state.index.floor(offset - 1)
                found = await self._walk(
                    begin, lambda header: header.end_offset > offset or header.base_offset >= offset, None
                )
                if found is not None:
                    await self._truncate_bytes(found[0])
        finally:
            self._end()

    async def _truncate_bytes(self, position: int) -> None:
        context = self._context
        sidecar = self._sidecar
        try:
            await context.flusher.truncate(self._log, position)
            state, _ = await rebuild(
                self._log, sidecar, salt=self.salt, limits=context.limits, durable_end=position, report=context.report
            )
        except StorageError as error:
            self._fail(error)
            raise
        self._state = state
        self._generation += 1
        self._cursors = None
        self._reign_open = self.term.reign is not None and state.epoch == self.term.reign.number
        self.durable_offset = min(self.durable_offset, state.end_offset)
        self.durable_position = min(self.durable_position, state.end_position)
        self._plan_checkpoint(0)

    async def checkpoint(self) -> None:
        """Write a checkpoint if the log is large enough for one and has grown since the last. Reports, never raises."""
        if self._busy:
            self._refuse_busy()
        if self._state.end_position >= CHECKPOINT_FIRST_BYTES and self.failed is None:
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
            return [self._log, self._sidecar.log]
        return [self._log]

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

