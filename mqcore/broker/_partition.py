"""One partition on its primary: a log, the commit rule that decides what is acknowledged, and parked fetches.

The shell around ``mqcore.replication.CommitRule``: it appends, gives the rule its events, and carries out what comes of
them. Nothing here is per message, and an idle partition has no task and no timer. Must not know of sockets (replies go
to a ``ReplySink``), nor have an opinion of its own on what is committed.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol, TypeAlias

import trio

from mqcore.abc import Notice
from mqcore.broker._parked import ParkedFetches
from mqcore.errors import FlushFailedError, MqcoreError, OutcomeUnknownError, StorageError
from mqcore.guarantees import Copy, Level
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
from mqcore.protocol import Code, SendPolicy
from mqcore.replication import Appended, CommitPolicy, CommitRule, LogEnd, Member, Released, UnflushedTotal

__all__ = ["ParkedSink", "Partition", "ReplySink", "Send"]


class ReplySink(Protocol):
    """Where replies go: the outbox of one connection."""

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Queue the acknowledgement of one batch."""

    def failed(self, request_id: int, code: int, text: str, facts: dict[str, object] | None = None) -> None:
        """Queue a failure."""


class ParkedSink(Protocol):
    """Who is waiting to read: the outbox of one connection."""

    def unpark(self, request_id: int) -> None:
        """Take note that a parked fetch may have something to read now."""


class _Caller:
    """The ``ReplySink`` of a task that waits for the commit of one batch."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.is_committed = False

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Wake the task: the batch is committed."""
        self.is_committed = True
        self.answered.set()

    def failed(self, request_id: int, code: int, text: str, facts: dict[str, object] | None = None) -> None:
        """Wake the task: whether the batch will be committed is unknown."""
        self.answered.set()


class Send(NamedTuple):
    """One batch to append, checked, with where its reply goes (``sink`` None: one-way)."""

    batch: IncomingBatch
    policy: int
    request_id: int
    sink: ReplySink | None


_Reply: TypeAlias = tuple[ReplySink, int, int, bool]
"""What waits for the commit rule: sink, request id, base offset, whether it is a duplicate's. Plain, for it is hot."""

_header_of = attrgetter("batch.header")
_batch_of = attrgetter("batch")


class FlushRequests(Protocol):
    """What a partition asks of the flusher."""

    def flush_soon(self, partition: Partition) -> None:
        """Flush the partition's log with the next group commit."""

    def flush_by(self, partition: Partition, due_us: int) -> None:
        """Flush it at that monotonic time at the latest."""


class Partition:
    """A partition that this broker is primary of, in one reign.

    ``own``: this node as receipts name it. ``append_level``, ``flush_level``: what its storage reaches. ``total``:
    bytes acknowledged and not flushed, of the whole broker. ``private_tags``: those that the topic names.
    """

    def __init__(
        self,
        log: PartitionLog,
        *,
        own: Member,
        policy: CommitPolicy,
        append_level: Level,
        flush_level: Level,
        total: UnflushedTotal,
        flusher: FlushRequests,
        now_us: Callable[[], int],
        epoch: int,
        report: Callable[[Notice], None],
        private_tags: Iterable[int] = (),
    ) -> None:
        self.log = log
        self.private_tags = frozenset(private_tags)
        self.epoch = epoch
        self.failure: MqcoreError | None = None
        self.closure: tuple[Code, str] | None = None
        """Why nothing is answered any more, with its code: the reign is over, or the topic was deleted."""
        self.committed_offset = log.committed_offset
        """A copy of the rule's, which a fetch looks at."""
        self._report = report
        self._is_refusing = False
        self._flusher = flusher
        self._now_us = now_us
        self._appending = False
        self._turns: deque[trio.Event] | None = None  # made when first waited: most partitions never are
        self._parked: ParkedFetches[tuple[ParkedSink, int]] = ParkedFetches()
        self._rule: CommitRule[_Reply] = CommitRule(
            own,
            policy,
            append_level=append_level,
            flush_level=flush_level,
            total=total,
            end=LogEnd(log.end_offset, log.end_position),
            durable=LogEnd(log.durable_offset, log.durable_position),
            committed_offset=log.committed_offset,
        )
        if log.failed is not None:
            self.stop(log.failed)  # in an earlier reign: no flush would ever let anything go
        else:
            self._settle(self._rule.advance(now_us()))

    def set_policy(self, policy: CommitPolicy) -> None:
        """Take over a topic's policy; it holds for batches appended from now on."""
        if self.failure is None:
            self._settle(self._rule.policy_changed(policy, self._now_us()))

    # appending

    def refusal(self, policy: int) -> tuple[Code, str] | None:
        """Why a send under ``policy`` cannot be taken, or None."""
        if self.failure is not None:
            return self._refusal_of_stop()
        return self._rule.refusal(policy) if policy else None

    def _refusal_of_stop(self) -> tuple[Code, str]:
        return self.closure or (Code.STORAGE_STOPPED, f"the log stopped after a failure: {self.failure}")

    async def append(self, sends: Sequence[Send]) -> None:
        """Append ``sends`` in order with one call of the log; every one gets its reply now or later, exactly once.

        If cancelled, some may have been appended: no reply is queued for them, their outcome is unknown.
        """
        if self._appending:
            await self._turn()
        self._appending = True
        try:
            if self.failure is not None:
                refusal = self._refusal_of_stop()
                for send in sends:
                    _fail(send, *refusal)
                return
            for verdict in (verdicts := self.log.check(list(map(_header_of, sends)))):
                if verdict is not ACCEPT:
                    sends = self._deduplicate(sends, verdicts)
                    break
            if sends:
                try:
                    base_offsets = await self.log.append(list(map(_batch_of, sends)))
                except (StorageError, OutcomeUnknownError) as error:
                    self._append_failed(sends, error)
                else:
                    self._appended(sends, base_offsets)
        finally:
            self._appending = False
            if self._turns:
                self._hand_on_turn()

    async def commit(self, batch: IncomingBatch) -> int:
        """Append a batch of the broker's own and wait until it is committed; return its base offset.

        Raises ``StorageError`` when nothing of it is in the log, ``OutcomeUnknownError`` or what stopped the partition
        when it may be. If cancelled, it may be committed, now or later.
        """
        if self._appending:
            await self._turn()
        self._appending = True
        caller = _Caller()
        try:
            if self.failure is not None:
                raise StorageError(f"log {self.log.name} takes no appends: {self.failure}", kind="closed")
            base_offsets = await self.log.append_control([batch])
            self._appended([Send(batch, SendPolicy.TOPIC, 0, caller)], base_offsets)
        except (StorageError, OutcomeUnknownError):
            if self.log.failed is not None:
                self.stop(self.log.failed)
            raise
        finally:
            self._appending = False
            if self._turns:
                self._hand_on_turn()
        await caller.answered.wait()
        if not caller.is_committed:
            assert self.failure is not None
            if isinstance(self.failure, FlushFailedError):
                raise self.failure
            raise OutcomeUnknownError(f"log {self.log.name} may hold the batch, it is not committed: {self.failure}")
        return base_offsets[0]

    async def _turn(self) -> None:
        """Wait for the turn to append, which is handed on in the order of these calls.

        Handed on and not taken by the first that comes: a task that waits would else stand behind all that do not have
        to. No lock: it costs more than the rest of a small append.
        """
        turn = trio.Event()
        if self._turns is None:
            self._turns = deque()
        self._turns.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            self._turns.remove(turn)  # it has not come: what is woken by its event is not cancelled any more
            raise

    def _hand_on_turn(self) -> None:
        assert self._turns
        self._appending = True
        self._turns.popleft().set()

    def _deduplicate(self, sends: Sequence[Send], verdicts: Sequence[Verdict]) -> list[Send]:
        """Answer retries and what the producer table refuses; return what is to be appended."""
        accepted: list[Send] = []
        for send, verdict in zip(sends, verdicts, strict=True):
            if verdict is ACCEPT:
                accepted.append(send)
            elif isinstance(verdict, Duplicate):
                if send.sink is not None:
                    reply = (send.sink, send.request_id, verdict.base_offset, True)
                    now_us = self._now_us()
                    self._settle(self._rule.duplicate(verdict.end_offset, send.policy, reply, now_us))
            else:
                _fail(send, *_refusal_of(verdict))
        return accepted

    def _append_failed(self, sends: Sequence[Send], error: StorageError | OutcomeUnknownError) -> None:
        if self.log.failed is not None:
            self.stop(self.log.failed)
        elif not self._is_refusing:
            self._is_refusing = True
            self._report(Notice("appends-refused", f"log {self.log.name} refuses what is sent: {error}"))
        refusal = _storage_code(error), str(error)
        if self.closure is not None and refusal[0] is not Code.APPEND_FAILED:
            refusal = self.closure  # not the storage's fault: the reign ended, or the topic, before a byte was written
        for send in sends:
            _fail(send, *refusal)

    def _appended(self, sends: Sequence[Send], base_offsets: Sequence[int]) -> None:
        if self._is_refusing:
            self._is_refusing = False
            self._report(Notice("appends-go-on", f"log {self.log.name} takes what is sent again"))
        rule = self._rule
        batches: list[Appended[_Reply]] = []
        # From the last to the first: the log may have written an epoch batch before the first, which is in no send.
        position = self.log.end_position
        for send, base_offset in zip(reversed(sends), reversed(base_offsets), strict=True):
            header, sink = send.batch.header, send.sink
            reply = None if sink is None else (sink, send.request_id, base_offset, False)
            batches.append((base_offset + header.count, position, send.policy, reply))
            position -= header.size
        batches.reverse()
        released = rule.appended(batches, self._now_us() if rule.is_timed else 0)
        if released or rule.is_timed or rule.committed_offset != self.committed_offset:
            self._settle(released)
        elif rule.wants_flush_now:  # all there is to do for a topic that is flushed, until it is
            self._flusher.flush_soon(self)

    # what the commit rule decides

    def _settle(self, released: Released[_Reply]) -> None:
        """Carry out what an event of the rule brought about. After every one of its events."""
        rule = self._rule
        for (sink, request_id, base_offset, duplicate), copies in released:
            if copies:
                # A retry's batch may be of an earlier reign: an offset is what it is in the epoch that appended it.
                epoch = self.log.epoch_at(base_offset) if duplicate else self.epoch
                sink.produced(request_id, base_offset, epoch, copies, duplicate)
            else:
                sink.failed(request_id, Code.FLUSH_FAILED, f"the outcome is unknown: {self.failure}")
        if rule.wants_flush_now:
            self._flusher.flush_soon(self)
        elif rule.is_timed and (due_us := rule.flush_due_us) is not None:
            self._flusher.flush_by(self, due_us)
        if rule.committed_offset != self.committed_offset:
            self.committed_offset = rule.committed_offset
            if self._parked.number_of:
                for reader, request_id in self._parked.wake(self.committed_offset):
                    reader.unpark(request_id)

    def flushed(self) -> None:
        """Take in that a group commit covered this log, or left it out because it has failed."""
        log, rule = self.log, self._rule
        if log.failed is not None:
            self.stop(log.failed)  # else it would be flushed again, at once and for ever
            return
        now_us = self._now_us() if rule.is_timed else 0
        self._settle(rule.flushed(log.durable_offset, log.durable_position, log.durable_level, now_us))

    def stop(self, error: MqcoreError) -> None:
        """Stop for good after a failed flush or append (G11).

        What waits ends unknown; what is not durable is not served any more.
        """
        if self.failure is None:
            self.failure = error
            self._settle(self._rule.stop())

    def close(self, code: Code, error: MqcoreError) -> None:
        """Serve nothing any more: what waits for a policy ends unknown, what waits to read is told ``code`` at once."""
        if self.closure is None:
            # For the next reign, before ``stop`` lowers it: what is not flushed is still there, the process lives on.
            self.log.committed_offset = self.committed_offset
        self.closure = code, str(error)
        self.stop(error)
        for sink, request_id in self._parked.wake(sys.maxsize):
            sink.unpark(request_id)

    async def retire(self) -> None:
        """Wait for the append that is under way, after ``close``, for a log that is about to be deleted."""
        await self.append(())  # takes its turn, and appends nothing
        self._rule.give_up()

    # reading

    def park(self, offset: int, sink: ParkedSink, request_id: int) -> None:
        """Wake ``sink`` once the committed offset is beyond ``offset``."""
        self._parked.park(offset, (sink, request_id))

    def forget_parked(self, sink: ParkedSink, request_id: int) -> None:
        """Drop one parked fetch of ``sink``."""
        self._parked.forget((sink, request_id))


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
