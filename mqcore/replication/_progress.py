"""How far one follower is with all logs of a set in one reign (rules R6, R9): what it lacks, and for how long.

Work is done per event and never per log of the set: an idle log costs nothing, however many there are. A follower that
is a batch behind at every moment of a busy log is not late; so goals are what count. A goal is where the log ended when
it was set; one that is not reached proves that the follower lacks a batch which is at least as old as the goal. Must
not know of sets, of their changes, or of what is acknowledged.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable

from mqcore.guarantees import Level, SyncReplication
from mqcore.replication._members import Member
from mqcore.replication._policy import CommitPolicy

__all__ = ["CountedLog", "FollowerProgress"]


class CountedLog:
    """One log of the reign: what a node has to hold of it before it joins, and where it ends now."""

    __slots__ = ("_floor", "committed_offset", "delay_us", "end", "is_held_by_all", "level")

    def __init__(self, policy: CommitPolicy, end: int, committed_offset: int) -> None:
        self.end = end
        self.committed_offset = committed_offset
        # Whatever the policy is now: what the reign began with may have been acknowledged under a stronger one.
        self._floor = end
        self.is_held_by_all = False
        """Whether every member holds all that is committed, as the policy asks."""
        self.set_policy(policy)

    def set_policy(self, policy: CommitPolicy) -> None:
        """Take over the policy of the topic."""
        if self.is_held_by_all:
            self._floor = self.target  # a lowered policy takes no copy back that a receipt has stated
        # What consumers were shown as stable must be on whichever member reigns next (G08), whatever is replicated.
        self.is_held_by_all = isinstance(policy.replication, SyncReplication) or policy.stable_only
        self.level = max(policy.level, Level.MEMORY)
        """Level at which a member holds it."""
        self.delay_us: int | None = None
        """How far a member may lag; None: not at all, or however far, by ``is_held_by_all``."""
        if not self.is_held_by_all and policy.max_delay_ms is not None:
            self.delay_us = policy.max_delay_ms * 1000

    @property
    def target(self) -> int:
        """What a node holds of it before it joins (R6)."""
        return max(self._floor, self.committed_offset) if self.is_held_by_all else self._floor

    @property
    def is_waited_for(self) -> bool:
        """Whether anything ever waits for a member that lacks its end."""
        return self.is_held_by_all or self.delay_us is not None


class _Goal:
    """An offset to be reached, and when it was set; ``is_first``: nothing was proved before of this log."""

    __slots__ = ("is_first", "offset", "since_us")

    def __init__(self, offset: int, since_us: int, *, is_first: bool) -> None:
        self.offset = offset
        self.since_us = since_us
        self.is_first = is_first


class FollowerProgress:
    """What ``member``, one incarnation of a node, has reported in this reign."""

    __slots__ = ("_behind", "_held", "_unproved", "level", "logs_short", "member")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.level = Level.NONE
        """Best level that it reported anything at."""
        self.logs_short = 0
        """Logs of which it has not what R6 asks for."""
        self._unproved: Counter[int | None] = Counter()
        self._held: dict[Hashable, list[int]] = {}
        # By the delay that is allowed; each in order of the time of the goal, so that the oldest is found at once.
        self._behind: dict[int | None, OrderedDict[Hashable, _Goal]] = {}

    # events

    def begin(self, key: Hashable, log: CountedLog, now_us: int) -> None:
        """Begin to count ``log``, or count it anew under its present policy after ``end``."""
        held = self._offset(key, log.level)
        if log.is_waited_for and held < log.end:
            self._behind.setdefault(log.delay_us, OrderedDict())[key] = _Goal(log.end, now_us, is_first=True)
            self._unproved[log.delay_us] += 1
        self.logs_short += held < log.target

    def end(self, key: Hashable, log: CountedLog) -> None:
        """Count ``log`` no more under the policy that it has; what was reported of it stays known."""
        behind = self._behind.get(log.delay_us)
        goal = behind.pop(key, None) if behind is not None else None
        self._unproved[log.delay_us] -= goal is not None and goal.is_first
        self.logs_short -= self._offset(key, log.level) < log.target

    def forget(self, key: Hashable) -> None:
        """Forget what was reported of a log that is no more."""
        self._held.pop(key, None)

    def appended(self, key: Hashable, log: CountedLog, now_us: int) -> None:
        """Take in that ``log`` has grown, to its new end."""
        behind = self._behind.setdefault(log.delay_us, OrderedDict())
        if key not in behind:
            behind[key] = _Goal(log.end, now_us, is_first=False)

    def target_moved(self, key: Hashable, log: CountedLog, before: int) -> None:
        """Take in that the target of ``log`` has risen from ``before``."""
        self.logs_short += before <= self._offset(key, log.level) < log.target

    def reported(self, key: Hashable, log: CountedLog, offset: int, level: Level, now_us: int) -> None:
        """Take in that everything of ``log`` below ``offset`` is held at ``level`` or better."""
        self.level = max(self.level, level)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = [0] * len(Level)
        before = held[log.level]
        for each in range(level + 1):
            if held[each] < offset:
                held[each] = offset
        if level < log.level:
            return
        offset = held[log.level]
        self.logs_short -= before < log.target <= offset
        behind = self._behind.get(log.delay_us)
        if behind is None or (goal := behind.get(key)) is None or offset < goal.offset:
            return
        self._unproved[log.delay_us] -= goal.is_first
        if offset >= log.end:
            del behind[key]
        else:
            goal.offset, goal.since_us, goal.is_first = log.end, now_us, False
            behind.move_to_end(key)

    def level_fell(self, logs: Iterable[tuple[Hashable, CountedLog]], level: Level, now_us: int) -> None:
        """Take in that nothing is held at more than ``level`` any more; work per log, for it is a rare event."""
        self.level = min(self.level, level)
        for key, log in logs:
            self.end(key, log)
            held = self._held.get(key)
            if held is not None:
                held[level + 1 :] = [0] * (len(Level) - level - 1)
            self.begin(key, log, now_us)

    def restart(self, now_us: int) -> None:
        """Count every delay from now."""
        for behind in self._behind.values():
            for goal in behind.values():
                goal.since_us = now_us

    # facts

    @property
    def logs_behind(self) -> int:
        """Counted logs of which it lacks the end."""
        return sum(map(len, self._behind.values()))

    @property
    def behind_since_us(self) -> int | None:
        """When the oldest goal was set that it has not reached; None: it has everything."""
        return min((_oldest(behind).since_us for behind in self._behind.values() if behind), default=None)

    def keeps_delays(self, now_us: int) -> bool:
        """Whether it lags, on every log that may lag, at most as much as that log's policy says (R9)."""
        return all(self._lags_at_most(delay_us, delay_us, now_us) for delay_us in self._behind if delay_us is not None)

    def keeps_up(self, delay_us: int, now_us: int) -> bool:
        """Whether it lags at most ``delay_us`` on the logs that a member has to hold in full, and as R9 says on others.

        Such a node is short of something at every moment only because those logs grow.
        """
        return self._lags_at_most(None, delay_us, now_us) and self.keeps_delays(now_us)

    def _lags_at_most(self, kind: int | None, delay_us: int, now_us: int) -> bool:
        behind = self._behind.get(kind)
        return not self._unproved[kind] and (not behind or now_us - _oldest(behind).since_us <= delay_us)

    def _offset(self, key: Hashable, level: Level) -> int:
        held = self._held.get(key)
        return held[level] if held is not None else 0


def _oldest(behind: OrderedDict[Hashable, _Goal]) -> _Goal:
    return next(iter(behind.values()))
