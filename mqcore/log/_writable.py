"""The writing half of a log, on bytes: one writer at a time, all of an append or nothing of it, closed with its term.

Knows nothing of what the bytes say: stamps, offsets and epochs are ``_partition_log``'s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import trio

from mqcore.abc import Log, Notice
from mqcore.batch import unpack_header
from mqcore.errors import OutcomeUnknownError, StorageError
from mqcore.limits import Limits
from mqcore.log._based import BasedLog
from mqcore.log._control import pack_producers_batch
from mqcore.log._ends import CleanEnds
from mqcore.log._flushing import SerialFlusher
from mqcore.log._mending import GoodCopies
from mqcore.log._missing import NOTED_EVERY_BYTES
from mqcore.log._names import is_partition_name
from mqcore.log._quarantine import Quarantine
from mqcore.log._readable import ReadableLog
from mqcore.log._state import KeptAt, LogState
from mqcore.log._term import Term
from mqcore.log._types import IncomingBatch, LogPoint
from mqcore.ports import Buffer

__all__ = ["LogContext", "WritableLog"]


class LogContext(NamedTuple):
    """What the logs of one store share in every term; ``wall_ms`` in ms since 1970 UTC."""

    wall_ms: Callable[[], int]
    limits: Limits
    report: Callable[[Notice], None]
    flusher: SerialFlusher
    ends: CleanEnds
    quarantine: Quarantine
    good: GoodCopies


class WritableLog(ReadableLog):
    """A log that takes appends of one ``term`` of its store."""

    __slots__ = ("_busy", "_context", "_idle", "_note_at", "term")

    def __init__(self, log: Log, state: LogState, *, salt: int, context: LogContext, term: Term) -> None:
        super().__init__(log, state, salt=salt, report=context.report, good=context.good)
        self.term = term
        """The only term in which it takes appends."""
        self._context = context
        self._busy = False
        self._idle: trio.Event | None = None
        self._note_at = 1 if is_partition_name(self.name) else sys.maxsize

    def close(self, error: StorageError) -> None:
        """Take no more appends and serve no more reads in this term, at once; idempotent. ``error`` says why."""
        self.failed = error
        self._generation += 1  # a read under way looks again, and finds it closed
        self._cursors = None

    def give_up(self, error: StorageError) -> None:
        """``close`` in every later term too: another log is to take its place."""
        self._fail(error)
        self.close(error)

    @property
    def is_begun_anew(self) -> bool:
        """Whether it was begun anew where another node's begins, and nothing of that has come yet."""
        return not self.bytes_total and isinstance(self._log, BasedLog)

    def producers_batches(self) -> list[IncomingBatch]:
        """Batches of the broker's own that say what is remembered of producers, to be appended before anything else."""
        batches = map(pack_producers_batch, self._state.producers.parts())
        return [IncomingBatch(unpack_header(each), each) for each in batches]

    def producers_kept(self, batches: Sequence[IncomingBatch]) -> None:
        """Take in that ``producers_batches`` were appended, and are the last that was."""
        state = self._state
        begin = state.end_position - sum(each.header.size for each in batches)
        state.kept_at = KeptAt(LogPoint(begin, state.end_offset), state.end_position)

    async def wait_idle(self) -> None:
        """Wait until no append, truncation, trim or checkpoint is under way."""
        while self._busy:
            self._idle = trio.Event()
            await self._idle.wait()

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

    async def _append_bytes(self, chunks: Sequence[Buffer]) -> None:
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
        if self.durable_position >= self._note_at and self.failed is None:
            await self._note_durable_end()

    async def _note_durable_end(self) -> None:
        """Have more than the log itself prove how far it came: what removes its end removes what it says of it."""
        self._note_at = self.durable_position + NOTED_EVERY_BYTES
        with trio.CancelScope(shield=True):  # the append is done, and must not look as if it were not
            await self._context.ends.note(self.name, LogPoint(self.durable_position, self.durable_offset))

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
