"""One partition on its primary: a log, the commit rule that decides what is acknowledged, and parked fetches.

The shell around ``mqcore.replication.CommitRule``: it appends, gives the rule its events, and carries out what comes of
them. Nothing here is per message, and an idle partition has no task and no timer. Must not know of sockets (replies go
to a ``ReplySink``), nor have an opinion of its own on what is committed.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from operator import attrgetter
from typing import Protocol, TypeAlias

import trio

from mqcore.abc import Notice
from mqcore.broker._claims import ClaimCheck
from mqcore.broker._group_commit import FlushRequests, Replying
from mqcore.broker._held_back import HeldBack
from mqcore.broker._parked import ParkedFetches, ParkedSink
from mqcore.broker._sends import ReplySink, Send, WaitingCaller, fail_by_verdict, fail_sends, refuse_degraded
from mqcore.broker._sends import fail_rotted as fail_as_rotted
from mqcore.broker._sends import storage_code as code_of_append
from mqcore.errors import CommandNotPossibleError, FlushFailedError, MqcoreError, OutcomeUnknownError, StorageError
from mqcore.guarantees import Level
from mqcore.log import ACCEPT, Duplicate, IncomingBatch, LogStart, PartitionLog, Verdict
from mqcore.protocol import Code, SendPolicy
from mqcore.replication import Appended, CommitPolicy, CommitRule, LogEnd, Member, Released, UnflushedTotal

__all__ = ["LogWatcher", "Partition"]

_Batches: TypeAlias = Callable[[], Sequence[IncomingBatch]]
_Reply: TypeAlias = tuple[ReplySink, int, int, bool]
"""What waits for the commit rule: sink, request id, base offset, whether it is a duplicate's. Plain, for it is hot."""

_header_of = attrgetter("batch.header")
_batch_of = attrgetter("batch")


class LogWatcher(Protocol):
    """Who follows a partition's log: the stream of one replica, and what keeps the set."""

    def moved(self, partition: Partition) -> None:
        """Take note that the log has grown, that more of it is committed, or that sends are held back."""


class Partition:
    """A partition that this broker is primary of, in one reign.

    ``own``: this node as receipts name it. ``append_level``, ``flush_level``: what its storage reaches. ``total``:
    bytes acknowledged and not flushed, of the whole broker. ``private_tags``: those that the topic names. ``may_reply``
    is asked before replies are handed over: whether the lease of the reign holds (R11); None where there is no lease.
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
        may_reply: Callable[[], bool] | None = None,
    ) -> None:
        self.log = log
        self.claims: ClaimCheck | None = None
        """What may be sent under names of producers; None for a log of no topic."""
        self.private_tags = frozenset(private_tags)
        self.known_age_ms, self.judged_epoch_max = None, sys.maxsize  # a primary's knowledge has no age, and no bound
        self.passed_bytes = 0
        self.epoch = epoch
        self.failure: MqcoreError | None = None
        self.closure: tuple[Code, str] | None = None
        """Why nothing is answered any more, with its code: the reign is over, or the topic was deleted."""
        self.committed_offset = log.committed_offset
        """A copy of the rule's, which a fetch looks at."""
        self.watchers: tuple[LogWatcher, ...] = ()
        """Replicas that get this log; each is called after every append, before anything waits for it."""
        self._report, self._may_reply, self._now_us = report, may_reply, now_us
        self._flusher, self.share = flusher, flusher.share
        self._appending, self.refusing = False, ""  # why sends are refused at the moment, the log being whole
        self._turns: deque[trio.Event] | None = None  # made when first waited: most partitions never are
        self._parked: ParkedFetches[tuple[ParkedSink, int]] = ParkedFetches()
        self._held_back = HeldBack()
        self._needs_others = policy.copies_min > 1
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
        self._needs_others = policy.copies_min > 1
        if self.failure is None:
            self._settle(self._rule.policy_changed(policy, self._now_us()))

    # appending

    def refusal(self, policy: int) -> tuple[Code, str] | None:
        """Why a send under ``policy`` cannot be taken, or None."""
        if self.failure is not None:
            return self._refusal_of_stop()
        if self._needs_others and self._rule.missing == "reject":
            return Code.TOO_FEW_COPIES, self._too_few()
        return self._rule.refusal(policy) if policy else None

    def _too_few(self) -> str:
        copies = self._rule.policy.copies_min
        return f"the in-sync set has too few nodes for {copies} copies: bring replicas back, or ask for fewer copies"

    def _refusal_of_stop(self) -> tuple[Code, str]:
        return self.closure or (Code.STORAGE_STOPPED, f"the log stopped after a failure: {self.failure}")

    async def append(self, sends: Sequence[Send]) -> None:
        """Append ``sends`` in order with one call of the log; every one gets its reply now or later, exactly once.

        If cancelled, some may have been appended: no reply is queued for them, their outcome is unknown.
        """
        if self._needs_others and sends and (self._held_back or self._rule.missing is not None):
            self._hold_back(sends)
            return
        if self._appending:
            await self._turn()
        self._appending = True
        try:
            if self.failure is not None:
                fail_sends(sends, *self._refusal_of_stop())
                return
            if self.claims is not None:
                sends = self.claims.admit(sends)
            for verdict in (verdicts := self.log.check(list(map(_header_of, sends)))):
                if verdict is not ACCEPT:
                    sends = self._deduplicate(sends, verdicts)
                    break
            if sends and self.log.least_level and self.log.level < self.log.least_level:
                refuse_degraded(sends, self.log)
            elif sends:
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

    @property
    def unflushed_bytes(self) -> int:
        """What no flush has covered yet."""
        return self.log.end_position - self.log.durable_position

    @property
    def is_over_share(self) -> bool:
        """Whether it has more unflushed than its share, and a flush of it comes."""
        return self._flusher.is_over(self)

    async def room(self) -> None:
        """Wait, before more is appended, until it is not over its share any more, or it has stopped."""
        await self._flusher.room(self)

    def _hold_back(self, sends: Sequence[Send]) -> None:
        """Keep ``sends`` un-appended until the set has enough nodes (guarantees, section 1, ``block``)."""
        if self.failure is not None:
            fail_sends(sends, *self._refusal_of_stop())
            return
        if not self._held_back:
            self._report(Notice("sends-blocked", f"log {self.log.name}: {self._too_few()}"))
        refused = self._held_back.keep(sends)
        for watcher in self.watchers:
            watcher.moved(self)
        fail_sends(refused, Code.TOO_FEW_COPIES, self._too_few())

    @property
    def end_position(self) -> int:
        """Position up to which replicas are fed: what the rule knows of, which the log may be an append ahead of."""
        return self._rule.end.position

    @property
    def holds_back(self) -> bool:
        """Whether sends wait for the set."""
        return bool(self._held_back)

    @property
    def may_append(self) -> bool:
        """Whether the set has as many nodes as the topic's policy asks for."""
        return self._rule.missing is None

    async def append_held_back(self) -> None:
        """Append what waited for the set, before anything that comes later. Not cancelled."""
        sends = self._held_back.take()
        # A task of the reign: cancelled with it, it would leave without an answer whom a closed partition gives one.
        with trio.CancelScope(shield=True):
            await self.append([send for send in sends if send.sink is not None and not send.sink.closed])

    async def commit(self, make: Callable[[], IncomingBatch], appended: Callable[[], None] = lambda: None) -> int:
        """Append a batch of the broker's own, made in its turn, and wait for its commit; return its base offset.

        ``appended`` is called before the wait, and before anything else is appended. Raises ``StorageError`` when it is
        not in the log, ``OutcomeUnknownError`` or what stopped the partition when it may be. If cancelled, likewise.
        """
        caller = WaitingCaller()
        base_offsets = await self.append_own(lambda: [make()], caller)
        appended()
        await caller.answered.wait()
        if not caller.is_committed:
            text = f"log {self.log.name} may hold the batch, it is not committed: {self.failure or 'it has rotted'}"
            raise self.failure if isinstance(self.failure, FlushFailedError) else OutcomeUnknownError(text)
        return base_offsets[0]

    async def append_own(self, make: _Batches, caller: WaitingCaller | None = None) -> list[int]:
        """``commit`` of what ``make`` returns when it may be appended, without a wait for the commit."""
        async with self._turn_taken():
            try:
                if self.failure is not None:
                    raise StorageError(f"log {self.log.name} takes no appends: {self.failure}", kind="closed")
                base_offsets = await self.log.append_control(batches) if (batches := make()) else []
                self._appended([Send(each, SendPolicy.TOPIC, 0, caller) for each in batches], base_offsets)
            except (StorageError, OutcomeUnknownError):
                if self.log.failed is not None:
                    self.stop(self.log.failed)
                raise
        return base_offsets

    def answer_when_committed(self, end_offset: int, policy: int, reply: _Reply) -> None:
        """Give ``reply`` once what ends at ``end_offset`` meets ``policy`` in this reign, or is known never to."""
        self._settle(self._rule.duplicate(end_offset, policy, reply, self._now_us()))

    async def trim(self, begins: LogStart) -> None:
        """Have the log begin at ``begins``, in steps between appends; not yet where that is past what is committed."""
        if begins.offset <= self.committed_offset:
            for offset, position in self.log.trim_steps(begins.offset, begins.position):
                await self.alone(partial(self.log.trim, offset, position))

    async def prepare_trim(self) -> None:
        """Make what a trim is recorded in, while there is space for it: on a full disk a trim is what makes some."""
        await self.alone(lambda: self.log.checkpoint(even_small=True))

    async def alone(self, act: Callable[[], Awaitable[object]]) -> None:
        """Do ``act`` between two appends, unless the partition has stopped."""
        async with self._turn_taken():
            if self.failure is None:
                await act()

    @asynccontextmanager
    async def _turn_taken(self) -> AsyncIterator[None]:
        if self._appending:
            await self._turn()
        self._appending = True
        try:
            yield
        finally:
            self._appending = False
            if self._turns:
                self._hand_on_turn()

    async def _turn(self) -> None:
        """Wait for the turn to append, which is handed on in the order of these calls.

        Not taken by the first that comes: who waits would stand behind it. No lock: it costs more than a small append.
        """
        turn = trio.Event()
        self._turns = self._turns or deque()
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
                    self.answer_when_committed(verdict.end_offset, send.policy, reply)
            else:
                fail_by_verdict(send, verdict)
        return accepted

    def _append_failed(self, sends: Sequence[Send], error: StorageError | OutcomeUnknownError) -> None:
        if self.log.failed is not None:
            self.stop(self.log.failed)
        elif not self.refusing:
            self.refusing = str(error)
            self._report(Notice("appends-refused", f"log {self.log.name} refuses what is sent: {error}"))
        refusal = code_of_append(error), str(error)
        if self.closure is not None and refusal[0] is not Code.APPEND_FAILED:
            refusal = self.closure  # not the storage's fault: the reign ended, or the topic, before a byte was written
        fail_sends(sends, *refusal)

    def _appended(self, sends: Sequence[Send], base_offsets: Sequence[int]) -> None:
        if self.refusing:
            self.refusing = ""
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
        for watcher in self.watchers:  # first of all, so that replicas append while this node flushes
            watcher.moved(self)
        batches.reverse()
        released = rule.appended(batches, self._now_us() if rule.is_timed else 0)
        if released or rule.is_timed or rule.committed_offset != self.committed_offset:
            self._settle(released)
        elif rule.wants_flush_now:  # all there is to do for a topic that is flushed, until it is
            self._flusher.flush_soon(self)

    # what the commit rule decides

    def _settle(self, released: Released[_Reply], replied: dict[Replying, None] | None = None) -> None:
        """Carry out what an event of the rule brought about. After every one of its events.

        ``replied``: takes the sinks that got replies, for a caller that has them sent.
        """
        rule = self._rule
        if released and self._may_reply is not None and not self._may_reply():
            # A stall may have outlived the lease: what the next reign has not got may not be acknowledged (R11, G09).
            released = [(reply, ()) for reply, _ in released]
            self.close(Code.NOT_PRIMARY, CommandNotPossibleError("the lease of this reign is over"))
        rotten = self.log if self.log.may_be_damaged else None
        for (sink, request_id, base_offset, duplicate), copies in released:
            if copies and rotten is not None and rotten.damage_of(base_offset) is not None:
                fail_as_rotted(sink, request_id, base_offset)
            elif copies:
                # A retry's batch may be of an earlier reign: an offset is what it is in the epoch that appended it.
                epoch = self.log.epoch_at(base_offset) if duplicate else self.epoch
                sink.produced(request_id, base_offset, epoch, copies, duplicate)
                if replied is None:
                    sink.replied(now=False)
                else:
                    replied[sink] = None
            else:
                sink.failed(request_id, Code.FLUSH_FAILED, f"the outcome is unknown: {self.failure}")
        if rule.wants_flush_now:
            self._flusher.flush_soon(self)
        elif rule.is_timed and (due_us := rule.flush_due_us) is not None:
            self._flusher.flush_by(self, due_us)
        if rule.committed_offset != self.committed_offset:
            self.committed_offset = rule.committed_offset
            for watcher in self.watchers:
                watcher.moved(self)
            if self._parked.number_of:
                for reader, request_id in self._parked.wake(self.committed_offset):
                    reader.unpark(request_id)

    def flushed(self, replied: dict[Replying, None] | None = None) -> None:
        """Take in that a group commit covered this log, or left it out because it has failed; see ``_settle``."""
        log, rule = self.log, self._rule
        if log.failed is not None:
            self.stop(log.failed)  # else it would be flushed again, at once and for ever
            return
        now_us = self._now_us() if rule.is_timed else 0
        self._settle(rule.flushed(log.durable_offset, log.durable_position, log.durable_level, now_us), replied)

    def held(
        self,
        member: Member,
        offset: int,
        position: int,
        level: Level,
        also: tuple[int, int, Level] | None = None,
        *,
        replied: dict[Replying, None] | None = None,
    ) -> None:
        """Take in that ``member`` reported, in this reign and history (R4), to hold everything below at ``level``.

        ``also``: what the same report says of another level. ``replied``: see ``_settle``. Raises
        ``RemoteProtocolError`` for a report that cannot be true.
        """
        now_us = self._now_us() if self._rule.is_timed else 0
        self._settle(self._rule.held(member, offset, position, level, now_us, also), replied)

    def level_fell(self, member: Member, level: Level) -> None:
        """Take in that nothing ``member`` holds of this log is at more than ``level`` any more."""
        self._rule.level_fell(member, level)

    def set_changed(self, members: Iterable[Member], pending: Iterable[Member] | None) -> None:
        """Take over the in-sync set, and the one asked for while its outcome is not known (R7)."""
        self._settle(self._rule.set_changed(members, pending, self._now_us()))

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
        fail_sends(self._held_back.take(), code, str(error))
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
