"""One partition on its primary: appends, the committed offset, replies that wait for a policy, parked fetches.

The committed offset is moved by the topic's policy alone; a send's own policy decides only when its reply goes out
(guarantees, section 1). Nothing here is per message, and an idle partition has no task and no timer. Must not know of
sockets: replies go to a ``ReplySink``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import trio

from mqcore.abc import Notice
from mqcore.batch import BatchHeader
from mqcore.broker._window import AsyncWindow, UnflushedTotal
from mqcore.errors import MqcoreError, OutcomeUnknownError, StorageError
from mqcore.guarantees import AsyncFlush, Copy, FlushPolicy, Level, NoFlush, SyncFlush
from mqcore.log import (
    ACCEPT,
    Conflict,
    Duplicate,
    Fenced,
    Forgotten,
    Gap,
    IncomingBatch,
    PartitionLog,
    TableFull,
    TooOld,
    Verdict,
)
from mqcore.ports import Buffer
from mqcore.protocol import Code, SendPolicy

__all__ = ["Partition", "ReplySink", "Send"]


class ReplySink(Protocol):
    """Where replies go: the outbox of one connection."""

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Queue the acknowledgement of one batch."""

    def failed(self, request_id: int, code: int, text: str, facts: dict[str, object] | None = None) -> None:
        """Queue a failure."""

    def unpark(self, partition: Partition, request_id: int) -> None:
        """Tell that a parked fetch may have something to read now."""


class Send(NamedTuple):
    """One batch to append, checked, with where its reply goes (``sink`` None: one-way)."""

    header: BatchHeader
    data: Buffer
    policy: int
    request_id: int
    sink: ReplySink | None


class _Waiting(NamedTuple):
    end_offset: int
    base_offset: int
    request_id: int
    sink: ReplySink
    duplicate: bool


class FlushRequests(Protocol):
    """What a partition asks of the flusher."""

    def flush_soon(self, partition: Partition) -> None:
        """Flush the partition's log with the next group commit."""

    def flush_by(self, partition: Partition, due_us: int) -> None:
        """Flush it at that monotonic time at the latest."""


class Partition:
    """A partition that this broker is primary of.

    ``policy`` is the topic's flush policy, ``weakest`` the weakest one that a send may ask for (None: the topic's).
    ``stable_only``: consumers see flushed messages only. ``private_tags``: those that the topic names.
    """

    def __init__(
        self,
        log: PartitionLog,
        *,
        policy: FlushPolicy,
        weakest: FlushPolicy | None,
        stable_only: bool,
        append_level: Level,
        flush_level: Level,
        total: UnflushedTotal,
        flusher: FlushRequests,
        now_us: Callable[[], int],
        epoch: int,
        node_id: bytes,
        incarnation: int,
        report: Callable[[Notice], None],
        private_tags: Iterable[int] = (),
    ) -> None:
        self.log = log
        self.private_tags = frozenset(private_tags)
        self._report = report
        self._is_refusing = False
        self.epoch = epoch
        self.failure: MqcoreError | None = None
        self._append_level = append_level
        self._flush_level = flush_level
        # Made once: each reply states one of these two.
        self.copies_appended = (Copy(node_id, incarnation, append_level),)
        self.copies_flushed = (Copy(node_id, incarnation, flush_level),)
        self._flusher = flusher
        self._now_us = now_us
        self._total = total
        self._appending = False
        self._turns: deque[trio.Event] = deque()
        self._waiting_async: deque[_Waiting] = deque()
        self._waiting_sync: deque[_Waiting] = deque()
        self._parked: dict[tuple[ReplySink, int], int] = {}  # offset that each parked fetch waits beyond
        self._window: AsyncWindow | None = None
        self._window_ends = False  # the policy has no window any more; what waits in it keeps the bounds it came under
        self.committed_offset = log.end_offset
        self.set_policy(policy, weakest, stable_only)

    def set_policy(self, policy: FlushPolicy, weakest: FlushPolicy | None, stable_only: bool) -> None:
        """Take over a topic's policy; it holds for batches appended from now on."""
        self.policy = policy
        self._strength = _strength(policy)
        self.weakest = weakest if weakest is not None else policy
        self.stable_only = stable_only
        bounds = next((each for each in (policy, self.weakest) if isinstance(each, AsyncFlush)), None)
        window, log, was_ending = self._window, self.log, self._window_ends
        self._window_ends = bounds is None and window is not None
        if bounds is None:
            if window is not None:
                self._flusher.flush_soon(self)
            return
        if window is None:
            window = AsyncWindow(bounds, self._total, offset=log.durable_offset, position=log.durable_position)
            self._window = window
            was_ending = log.end_offset > log.durable_offset
        window.policy = bounds
        if was_ending:
            window.appended(log.end_offset, log.end_position)

    # appending

    def refusal(self, policy: int) -> tuple[Code, str] | None:
        """Why a send under ``policy`` cannot be taken, or None."""
        if self.failure is not None:
            return Code.STORAGE_STOPPED, f"the log stopped after a failure: {self.failure}"
        if policy == SendPolicy.TOPIC:
            return None
        if policy == SendPolicy.SYNC and self._flush_level < Level.DISK:
            return Code.POLICY_TOO_STRONG, "the storage cannot flush to disk; send with the topic's policy"
        if policy < _strength(self.weakest):
            return (
                Code.POLICY_TOO_WEAK,
                f"the topic takes no sends weaker than {_name(self.weakest)}; its weakest_send would have to allow it",
            )
        if policy == SendPolicy.ASYNC and (self._window is None or self._window_ends):
            return Code.POLICY_TOO_STRONG, "the topic has no asynchronous bounds: send with its own policy"
        return None

    async def append(self, sends: Sequence[Send]) -> None:
        """Append ``sends`` in order with one call of the log; every one gets its reply now or later, exactly once.

        If cancelled, some may have been appended: no reply is queued for them, their outcome is unknown.
        """
        while self._appending:
            await self._turn()
        self._appending = True
        try:
            accepted = self._deduplicate(sends)
            if accepted:
                await self._append_accepted(accepted)
        finally:
            self._end_turn()

    async def _turn(self) -> None:
        """Wait until the append that is under way has ended. No lock: it costs more than the rest of a small append."""
        turn = trio.Event()
        self._turns.append(turn)
        await turn.wait()

    def _end_turn(self) -> None:
        self._appending = False
        while self._turns:
            self._turns.popleft().set()

    def _deduplicate(self, sends: Sequence[Send]) -> list[Send]:
        """Answer retries and what the producer table refuses; return what is to be appended."""
        if self.failure is not None:
            for send in sends:
                _fail(send, Code.STORAGE_STOPPED, f"the log stopped after a failure: {self.failure}")
            return []
        accepted: list[Send] = []
        for send, verdict in zip(sends, self.log.check([send.header for send in sends]), strict=True):
            if verdict is ACCEPT:
                accepted.append(send)
            elif isinstance(verdict, Duplicate):
                self._answer_duplicate(send, verdict)
            else:
                _fail(send, *_refusal_of(verdict))
        return accepted

    async def _append_accepted(self, sends: list[Send]) -> None:
        try:
            base_offsets = await self.log.append([IncomingBatch(send.header, send.data) for send in sends])
        except (StorageError, OutcomeUnknownError) as error:
            if self.log.failed is not None:
                self.stop(self.log.failed)
            elif not self._is_refusing:
                self._is_refusing = True
                self._report(Notice("appends-refused", f"log {self.log.name} refuses what is sent: {error}"))
            for send in sends:
                _fail(send, _storage_code(error), str(error))
        else:
            if self._is_refusing:
                self._is_refusing = False
                self._report(Notice("appends-go-on", f"log {self.log.name} takes what is sent again"))
            if self.failure is None:
                self._appended(sends, base_offsets)
                return
            for send in sends:
                _fail(send, Code.FLUSH_FAILED, f"the outcome is unknown: {self.failure}")

    def _appended(self, sends: list[Send], base_offsets: list[int]) -> None:
        window = None if self._window_ends else self._window
        wants_sync = self.stable_only or isinstance(self.policy, SyncFlush)
        position = self.log.end_position - sum([send.header.size for send in sends])
        for send, base_offset in zip(sends, base_offsets, strict=True):
            end_offset = base_offset + send.header.count
            position += send.header.size
            if window is not None:
                window.appended(end_offset, position)
            if send.sink is None:
                continue
            strength = send.policy or self._strength
            if strength == SendPolicy.NONE:
                send.sink.produced(send.request_id, base_offset, self.epoch, self.copies_appended, False)
                continue
            waiting = _Waiting(end_offset, base_offset, send.request_id, send.sink, False)
            if strength == SendPolicy.SYNC:
                wants_sync = True
                self._waiting_sync.append(waiting)
            else:
                self._waiting_async.append(waiting)
        if wants_sync:
            self._flusher.flush_soon(self)
        self.advance()

    def _answer_duplicate(self, send: Send, original: Duplicate) -> None:
        """A retry is answered when the original batch meets the policy that the retry asks for (R12)."""
        if send.sink is None:
            return
        end_offset = original.end_offset
        strength = send.policy or self._strength
        waiting = _Waiting(end_offset, original.base_offset, send.request_id, send.sink, True)
        if strength == SendPolicy.SYNC and end_offset > self.log.durable_offset:
            _insert(self._waiting_sync, waiting)
            self._flusher.flush_soon(self)
        elif strength == SendPolicy.ASYNC and end_offset > self._async_frontier():
            _insert(self._waiting_async, waiting)
        else:
            self._reply(waiting)

    # the committed offset

    def _async_frontier(self) -> int:
        return self._window.acknowledged_offset if self._window is not None else self.log.end_offset

    def advance(self) -> None:
        """Move the committed offset and send the replies that its move, a flush or the time allow.

        Nothing moves once the log has stopped: what was appended last is in its end offset, and is not served.
        """
        if self.failure is not None:
            return
        window = self._window
        frontier = self.log.end_offset
        if window is not None:
            frontier = window.advance(self._now_us())
            if window.wants_flush_now:
                self._flusher.flush_soon(self)
            elif (due := window.flush_due_us) is not None:
                self._flusher.flush_by(self, due)
        while self._waiting_async and self._waiting_async[0].end_offset <= frontier:
            self._reply(self._waiting_async.popleft())
        durable = self.log.durable_offset
        while self._waiting_sync and self._waiting_sync[0].end_offset <= durable:
            self._reply(self._waiting_sync.popleft())
        if isinstance(self.policy, SyncFlush) or self.stable_only:
            frontier = durable
        elif isinstance(self.policy, NoFlush):
            frontier = self.log.end_offset
        if frontier > self.committed_offset:
            self.committed_offset = frontier
            if self._parked:
                self._unpark()

    def flushed(self) -> None:
        """Tell that a group commit covered this log."""
        if self._window is not None:
            self._window.flushed(self.log.durable_offset, self.log.durable_position)
        self.advance()
        if self._window_ends and self._window is not None and self._window.is_empty:
            self._window, self._window_ends = None, False

    def stop(self, error: MqcoreError) -> None:
        """Stop for good after a failed flush or append (G11).

        What waits ends unknown; what is not durable is not served any more.
        """
        if self.failure is not None:
            return
        self.failure = error
        self.committed_offset = min(self.committed_offset, self.log.durable_offset)
        for waiting in (*self._waiting_async, *self._waiting_sync):
            waiting.sink.failed(waiting.request_id, Code.FLUSH_FAILED, f"the outcome is unknown: {error}")
        self._waiting_async.clear()
        self._waiting_sync.clear()

    async def retire(self, error: MqcoreError) -> None:
        """Stop after the append that is under way, for a log that is about to be deleted."""
        while self._appending:
            await self._turn()
        self.stop(error)
        if self._window is not None:
            self._window.give_up()

    def _reply(self, waiting: _Waiting) -> None:
        copies = self.copies_flushed if waiting.end_offset <= self.log.durable_offset else self.copies_appended
        waiting.sink.produced(waiting.request_id, waiting.base_offset, self.epoch, copies, waiting.duplicate)

    # reading

    def park(self, offset: int, sink: ReplySink, request_id: int) -> None:
        """Wake ``sink`` once the committed offset is beyond ``offset``."""
        self._parked[sink, request_id] = offset

    def forget_parked(self, sink: ReplySink, request_id: int) -> None:
        """Drop one parked fetch of ``sink``."""
        self._parked.pop((sink, request_id), None)

    def _unpark(self) -> None:
        ready = [key for key, offset in self._parked.items() if offset < self.committed_offset]
        for sink, request_id in ready:
            del self._parked[sink, request_id]
            sink.unpark(self, request_id)


def _strength(policy: FlushPolicy) -> SendPolicy:
    if isinstance(policy, SyncFlush):
        return SendPolicy.SYNC
    return SendPolicy.ASYNC if isinstance(policy, AsyncFlush) else SendPolicy.NONE


def _name(policy: FlushPolicy) -> str:
    return _strength(policy).name.lower()


def _insert(queue: deque[_Waiting], waiting: _Waiting) -> None:
    position = len(queue)
    while position and queue[position - 1].end_offset > waiting.end_offset:
        position -= 1
    queue.insert(position, waiting)


def _fail(send: Send, code: Code, text: str, facts: dict[str, object] | None = None) -> None:
    if send.sink is not None:
        send.sink.failed(send.request_id, code, text, facts)


def _refusal_of(verdict: Verdict) -> tuple[Code, str, dict[str, object]]:
    """Code, text and facts for a batch that the producer table does not take."""
    facts: dict[str, object] = {}
    match verdict:
        case Gap(expected):
            code, text = Code.SEQUENCE_GAP, f"the producer's next sequence in this partition is {expected}"
            facts["expected_sequence"] = expected
        case TooOld(oldest):
            code, text = Code.SEQUENCE_TOO_OLD, f"only sequences from {oldest} on are remembered: outcome unknown"
        case Forgotten():
            code, text = Code.SEQUENCE_TOO_OLD, "the producer is not remembered any more: outcome unknown"
        case Fenced(epoch):
            code, text = Code.SEQUENCE_FENCED, f"the producer went on under epoch {epoch}"
        case Conflict(base_offset):
            code, text = Code.SEQUENCE_CONFLICT, f"these sequences belong to another batch, at offset {base_offset}"
        case TableFull(limit):
            code, text = Code.TOO_MANY_PRODUCERS, f"{limit} producers are remembered already (limit producers_max)"
        case _:
            raise AssertionError(verdict)
    return code, text, facts


def _storage_code(error: StorageError | OutcomeUnknownError) -> Code:
    if isinstance(error, OutcomeUnknownError) or error.appended:
        return Code.APPEND_FAILED
    if error.kind == "full":
        return Code.STORAGE_FULL
    if error.kind == "too-many-files":
        return Code.TOO_MANY_FILES
    if error.kind == "limit":
        return Code.BATCH_TOO_LARGE
    return Code.STORAGE_STOPPED
