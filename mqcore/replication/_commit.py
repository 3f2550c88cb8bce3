"""The commit rule of one partition (guarantees, sections 1 and 6): what may be acknowledged, and what is committed.

Events go in (appended, flushed, held by another node, the set changed, the policy changed, a duplicate arrived, the
time), and each returns the replies that may go now with the copies that justify them. ``committed_offset`` and what is
wanted of the flusher are attributes, true after every event. There is one such machine a partition and no second
opinion anywhere. Must not know of tasks, clocks, sockets or bytes.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Copy, Level, NoFlush, NoReplication, SyncReplication
from mqcore.protocol import Code, SendPolicy
from mqcore.replication._lag import ReplicaLag
from mqcore.replication._members import UNBOUNDED, InSyncSet, Member
from mqcore.replication._policy import CommitPolicy
from mqcore.replication._window import AsyncWindow, UnflushedTotal

__all__ = ["Appended", "CommitRule", "LogEnd", "Released"]

ReplyT = TypeVar("ReplyT")

Appended: TypeAlias = tuple[int, int, int, ReplyT | None]
"""A batch in the log: end offset, end position, the send's own policy (``SendPolicy``), what waits for its reply."""

Released: TypeAlias = Sequence[tuple[ReplyT, tuple[Copy, ...]]]
"""Replies that may go, each with the copies that justify it; without any its outcome is unknown."""

_end_of = itemgetter(0)


class LogEnd(NamedTuple):
    """Where a log, or the durable part of it, ends."""

    offset: int
    position: int


class CommitRule(Generic[ReplyT]):
    """Decides for one partition in one reign.

    ``own``: this node. ``append_level``, ``flush_level``: what an append and a flush reach on it. ``total``: the
    broker's, shared by its logs. ``end``, ``durable``, ``committed_offset``: of the log when the reign began; what it
    holds then has to meet the policy before anything is acknowledged or the committed offset moves (R10), so call
    ``advance`` once everything is set up.
    """

    __slots__ = (
        "_append_level",
        "_began_at",
        "_confirms_by_flush",
        "_copies_appended",
        "_copies_flushed",
        "_flush_goal",
        "_flush_level",
        "_gate",
        "_gate_is_flushed",
        "_held_by_all",
        "_is_confirmed",
        "_lag",
        "_set",
        "_states_set",
        "_total",
        "_waiting",
        "_waits_for_flush",
        "_window",
        "_window_is_open",
        "committed_offset",
        "durable",
        "end",
        "is_stopped",
        "is_timed",
        "policy",
        "wants_flush_now",
    )

    def __init__(
        self,
        own: Member,
        policy: CommitPolicy,
        *,
        append_level: Level,
        flush_level: Level,
        total: UnflushedTotal,
        end: LogEnd,
        durable: LogEnd,
        committed_offset: int,
    ) -> None:
        self.end = end
        self.durable = durable
        self.committed_offset = committed_offset
        """Consumers see what lies below; moved by the topic's policy alone, never back but by ``stop``."""
        self.is_stopped = False
        self._append_level = append_level
        self._flush_level = flush_level
        self._total = total
        self._set = InSyncSet(own)
        self._began_at = end.offset
        self._is_confirmed = False
        self._flush_goal = 0
        self.wants_flush_now = False
        """Whether something waits that only a flush of this log lets go."""
        # by strength less one, each in order of the end offset that is waited for
        self._waiting: tuple[deque[tuple[int, ReplyT]], ...] = (deque(), deque(), deque())
        self._window: AsyncWindow | None = None
        self._window_is_open = False
        self._lag: ReplicaLag | None = None
        # One value a level, made once: a reply of a single node then allocates nothing.
        self._copies_appended: tuple[Copy, ...] = (Copy(*own, append_level),)
        self._copies_flushed: tuple[Copy, ...] = (Copy(*own, max(append_level, flush_level)),)
        self._adopt(policy)
        if self._window is not None:
            self._window.inherit(*end)

    # events

    def appended(self, batches: Iterable[Appended[ReplyT]], now_us: int) -> Released[ReplyT]:
        """Take in batches that were appended, in log order; ``now_us`` counts only while ``is_timed``.

        After ``stop`` every one of them ends unknown: it is in a log of which nothing is acknowledged any more.
        """
        if self.is_stopped:
            return [(reply, ()) for _, _, _, reply in batches if reply is not None]
        topic_strength = self.policy.strength
        window = self._window if self._window_is_open else None
        waits_for_flush = self._waits_for_flush
        moves = not waits_for_flush or window is not None
        end_offset, end_position = self.end
        for end_offset, end_position, own_policy, reply in batches:
            strength = own_policy or topic_strength
            if window is not None:
                window.appended(end_offset, end_position)
            elif strength == SendPolicy.ASYNC:
                strength = SendPolicy.SYNC  # the bounds went while the batch was on its way: flushed is never weaker
            if strength == SendPolicy.SYNC:
                waits_for_flush = True
            elif strength == SendPolicy.NONE:
                moves = True
            if reply is not None:
                self._waiting[strength - 1].append((end_offset, reply))
        self.end = LogEnd(end_offset, end_position)
        if waits_for_flush:
            self._flush_goal = end_offset
            if not moves and self.durable.offset < end_offset:
                # The usual case of a flushed topic: before the flush nothing can go, so that nothing is looked at.
                self.wants_flush_now = True
                return ()
        return self._advance(now_us)

    def flushed(self, offset: int, position: int, level: Level, now_us: int) -> Released[ReplyT]:
        """Take in that a completed flush covers everything below, at ``level`` now (it may fall and rise again)."""
        if self.is_stopped:
            return ()
        if offset > self.durable.offset:
            self.durable = LogEnd(offset, position)
        if level is not self._flush_level:
            self._flush_level = level
            self._copies_flushed = (Copy(*self._set.own, max(self._append_level, level)),)
            self._count_members()
        if self._window is not None:
            self._window.flushed(*self.durable)
            if not self._window_is_open and not self._window.unflushed_messages:
                self._window = None
        return self._advance(now_us)

    def held(
        self,
        member: Member,
        offset: int,
        position: int,
        level: Level,
        now_us: int,
        also: tuple[int, int, Level] | None = None,
    ) -> Released[ReplyT]:
        """Take in that ``member`` reported, in this epoch and history (R4), to hold everything below at ``level``.

        ``also``: offset, position and level of what the same report says at another level. Raises
        ``RemoteProtocolError`` for a report that cannot be true; what cannot be counts for nothing then.
        """
        if self.is_stopped:
            return ()
        self._report(member, offset, position, level)
        if also is not None:
            self._report(member, *also)
        self._count_members()
        return self._advance(now_us)

    def _report(self, member: Member, offset: int, position: int, level: Level) -> None:
        if offset > self.end.offset or position > self.end.position:
            text = f"a report of offset {offset}, position {position}, beyond the primary's end {tuple(self.end)}"
            raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
        self._set.report(member, offset, position, level)

    def level_fell(self, member: Member, level: Level) -> None:
        """Take in that nothing that ``member`` holds is at more than ``level`` any more (a device was ejected)."""
        self._set.level_fell(member, level)
        self._count_members()

    def set_changed(self, members: Iterable[Member], pending: Iterable[Member] | None, now_us: int) -> Released[ReplyT]:
        """Take over the in-sync set, and the one asked for as long as its outcome is not known (R7).

        Raises ``ValueError`` when the primary is not in them.
        """
        self._set.change(members, pending)
        self._count_members()
        return self._advance(now_us)

    def policy_changed(self, policy: CommitPolicy, now_us: int) -> Released[ReplyT]:
        """Take over a topic's policy.

        The flush policy holds for what is appended from now on. The replication policy holds for what waits, too: what
        a lowered one lets go states the copies that there are (R17).
        """
        self._adopt(policy)
        return self._advance(now_us)

    def duplicate(self, end_offset: int, own_policy: int, reply: ReplyT, now_us: int) -> Released[ReplyT]:
        """Answer a retry when the batch in the log, ending at ``end_offset``, meets what the retry asks for (R12).

        Not at once from the producer table: the original may still be lost, and this reply would be its receipt.
        """
        if self.is_stopped:
            return [(reply, ())]
        strength = own_policy or self.policy.strength
        if strength == SendPolicy.ASYNC and not self._window_is_open:
            strength = SendPolicy.SYNC
        if strength == SendPolicy.SYNC:
            self._flush_goal = max(self._flush_goal, end_offset)
        insort(self._waiting[strength - 1], (end_offset, reply), key=_end_of)
        return self._advance(now_us)

    def advance(self, now_us: int) -> Released[ReplyT]:
        """Take in the time. It lets nothing go by itself, but ends what only a flush or a replica can renew."""
        return () if self.is_stopped else self._advance(now_us)

    def stop(self) -> Released[ReplyT]:
        """Stop for good after a failed flush or append (G11): everything that waits ends unknown.

        What is not durable is committed no more.
        """
        if self.is_stopped:
            return ()
        self.is_stopped = True
        self.wants_flush_now = False
        self.committed_offset = min(self.committed_offset, self.durable.offset)
        unknown: list[tuple[ReplyT, tuple[Copy, ...]]] = []
        for queue in self._waiting:
            unknown += [(reply, ()) for _, reply in queue]
            queue.clear()
        return unknown

    def give_up(self) -> None:
        """Take this log's bytes out of the broker's total, for a log that is no more. The last call."""
        if self._window is not None:
            self._window.give_up()

    # what is asked of the surroundings

    @property
    def flush_due_us(self) -> int | None:
        """Monotonic time by which a flush should start, so that acknowledgements need not wait; None: no such time."""
        return self._window.flush_due_us if self._window is not None else None

    @property
    def missing(self) -> Literal["block", "reject"] | None:
        """What to do with a send before its append: nothing, or what ``on_missing`` says while the set is too small."""
        policy = self.policy
        if self._set.nodes >= policy.copies_min:
            return None
        return "block" if isinstance(policy.replication, NoReplication) else policy.replication.on_missing

    def refusal(self, own_policy: int) -> tuple[Code, str] | None:
        """Return why a send under its own policy cannot be taken, or None."""
        return self.policy.refusal(own_policy, self._flush_level) if own_policy else None

    # the rule

    def _adopt(self, policy: CommitPolicy) -> None:
        self.policy = policy
        self._states_set = isinstance(policy.replication, SyncReplication)
        bounds, window = policy.bounds, self._window
        if bounds is not None:
            if window is None:
                self._window = window = AsyncWindow(
                    bounds, self._total, offset=self.durable.offset, position=self.durable.position
                )
            window.set_policy(bounds)
            if not self._window_is_open and self.end.offset > self.durable.offset:
                window.appended(*self.end)  # what came without bounds is one batch to them
        elif self._window_is_open:
            # What waits in bounds that are gone waits for the flush instead: never weaker, and it ends.
            in_bounds, for_flush = self._waiting[SendPolicy.ASYNC - 1], self._waiting[SendPolicy.SYNC - 1]
            for waiting in in_bounds:
                insort(for_flush, waiting, key=_end_of)
            in_bounds.clear()
            self._flush_goal = self.end.offset
        self._window_is_open = bounds is not None
        delay_ms = policy.max_delay_ms
        if delay_ms is None:
            self._lag = None
        elif self._lag is None:
            self._lag = ReplicaLag(delay_ms * 1000)
        else:
            self._lag.delay_us = delay_ms * 1000
        self.is_timed = self._lag is not None or self._window_is_open
        """Whether the time that events are given makes a difference."""
        self._count_members()
        if self._waits_for_flush:
            self._flush_goal = self.end.offset  # what was appended under a weaker policy is what the new one waits for
        elif not self._is_confirmed and self._confirms_by_flush:
            self._flush_goal = max(self._flush_goal, self._began_at)

    def _count_members(self) -> None:
        """Work out anew what the other nodes hold up; on their events only, for on the others nothing changes."""
        policy = self.policy
        level = policy.level
        self._gate_is_flushed = level > self._append_level
        self._waits_for_flush = policy.strength == SendPolicy.SYNC or policy.stable_only or self._gate_is_flushed
        self._confirms_by_flush = self._gate_is_flushed or not isinstance(policy.flush, NoFlush)
        self._held_by_all = self._set.held_by_others(Level.MEMORY)  # at level none a batch is nowhere
        if self._set.nodes < policy.copies_min or level > max(self._append_level, self._flush_level):
            self._gate = 0  # nothing new is acknowledged; what was, stays
        elif self._states_set:
            self._gate = self._set.held_by_others(level)
        else:
            self._gate = UNBOUNDED

    def _advance(self, now_us: int) -> Released[ReplyT]:
        """Release what the policies, the set, the bounds and the time allow, and move the committed offset."""
        released: list[tuple[ReplyT, tuple[Copy, ...]]] = []
        lag, window = self._lag, self._window
        is_throttled = lag is not None and lag.is_exceeded(self._held_by_all, now_us)
        if not is_throttled and (self._is_confirmed or self._confirm()):
            durable = self.durable.offset
            held = min(self.end.offset, self._gate)
            if self._gate_is_flushed:
                held = min(held, durable)
            flushed = min(held, durable)
            acknowledged = held
            if window is not None and self._window_is_open:
                acknowledged = window.advance(now_us, held)
                # The window does not go back, but what the set holds may, and a retry states the copies that there are.
                acknowledged = flushed if window.is_over else max(min(acknowledged, held), flushed)
            newest = 0
            own = copies = self._copies_appended
            same_beyond = same_up_to = -1
            for queue, frontier in zip(self._waiting, (held, acknowledged, flushed), strict=True):
                while queue and queue[0][0] <= frontier:
                    end_offset, reply = queue.popleft()
                    newest = max(newest, end_offset)
                    before, own = own, self._copies_flushed if end_offset <= durable else self._copies_appended
                    if not self._states_set:
                        copies = own
                    elif own is not before or end_offset > same_up_to or end_offset <= same_beyond:
                        # Of many batches that go together nearly all have the same copies: worked out once for them.
                        copies, same_beyond, same_up_to = self._set.copies(end_offset, own[0])
                    released.append((reply, copies))
            if self.policy.stable_only:
                frontier = min(flushed, self._held_by_all)
            else:
                frontier = (held, acknowledged, flushed)[self.policy.strength - 1]
            if frontier > self.committed_offset:
                self.committed_offset = frontier
                newest = max(newest, frontier)
            if lag is not None:
                lag.acknowledged(newest, now_us)
        self.wants_flush_now = self.durable.offset < self._flush_goal or (
            window is not None and self._window_is_open and window.wants_flush_now
        )
        return released

    def _confirm(self) -> bool:
        """Whether what the log held when the reign began is held as the policy asks (R10).

        Before that a receipt of this reign could stand on a batch that the next reign does not have.
        """
        is_flushed = self._began_at <= self.durable.offset or not self._confirms_by_flush
        self._is_confirmed = is_flushed and self._began_at <= self._gate
        return self._is_confirmed
