"""Who is in the in-sync set during one reign, and which change of it is wanted (rules R6, R7, R8, R9, R16).

Events go in: logs, sessions, reports, the time, and how a change that was sent has ended. Out come the sets that every
commit rule has to wait for, the next record that is wanted, and facts for a status. One change is under way at a time.
Times are monotonic microseconds. Must not know of the coordinator or metadata log that carries a change, nor of leases.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType

import attrs

from mqcore.errors import CommandNotPossibleError, RemoteProtocolError
from mqcore.guarantees import Level
from mqcore.protocol import Code
from mqcore.replication._members import Member
from mqcore.replication._policy import CommitPolicy
from mqcore.replication._progress import CountedLog, FollowerProgress
from mqcore.replication._record import SetRecord

__all__ = ["FollowerFacts", "Membership", "WantedChange"]


@attrs.frozen
class WantedChange:
    """The record that the primary wants instead of the present one, and why, in words."""

    record: SetRecord
    reason: str


@attrs.frozen(kw_only=True)
class FollowerFacts:
    """One other node of the set as a status shows it. ``None`` times: not so.

    ``logs_behind``: logs of which it lacks the end, ``behind_since_us`` the oldest such lack; ``logs_short``: those
    that keep it from joining (R6). ``gone_since_us``: since when it has no session under ``member``. ``level``: the
    best that it reported anything at.
    """

    member: Member
    name: str
    is_in_sync: bool
    gone_since_us: int | None
    logs_behind: int
    behind_since_us: int | None
    logs_short: int
    level: Level


class Membership:
    """Decides for the primary ``own`` in the reign that ``record`` names.

    ``replica_timeout_us``: how long a member may be silent or behind while something waits for it. ``hold_us``: how
    long acknowledgements may be held up for a node that keeps up, so that it can join a busy set. ``is_manual``: the
    set is the configured one and never shrinks by itself (R16). ``silent_us``: by node, for how long it had been silent
    when the reign began, 0 where it is not in it. Raises ``ValueError`` unless ``own`` reigns in ``record``.
    """

    def __init__(
        self,
        own: Member,
        record: SetRecord,
        now_us: int,
        *,
        replica_timeout_us: int,
        hold_us: int,
        is_manual: bool = False,
        silent_us: Mapping[bytes, int] = MappingProxyType({}),
    ) -> None:
        if record.primary != own.node_id or own not in record.members:
            raise ValueError(f"{own} does not reign in {record}")
        self.own = own
        self.record = record
        """The newest record of this reign whose outcome is known."""
        self.is_over = False
        """Whether another reign is in the record: nothing more is wanted, and what waits is not let go."""
        self._timeout_us = replica_timeout_us
        self._hold_us = hold_us
        self._is_manual = is_manual
        self._is_ready = False
        self._unopened = 0
        self._copies_min = record.copies_min
        self.copies_cap = record.copies_cap
        """What the operator asked for last (R17), in the record or not yet."""
        self._names = dict(record.names)
        self._sent: SetRecord | None = None
        self._held_up_for: Member | None = None
        self._held_up_until_us = 0
        self._hold_again_us = 0
        self._looked_us = now_us
        self._logs: dict[Hashable, CountedLog] = {}
        self._followers: dict[bytes, FollowerProgress] = {}
        self._sessions: dict[bytes, bytes] = {}
        self._gone_since_us: dict[Member, int] = {}
        for member in record.members - {own}:
            self._followers[member.node_id] = FollowerProgress(member)
            self._gone_since_us[member] = now_us - silent_us.get(member.node_id, 0)

    # events: logs

    def log_began(self, key: Hashable, policy: CommitPolicy, end: int, committed_offset: int, now_us: int) -> None:
        """Take in a log: with its end and committed offset at the beginning of the reign, or a new one, with zeros."""
        log = self._logs[key] = CountedLog(policy, end, committed_offset)
        for follower in self._followers.values():
            follower.begin(key, log, now_us)

    def log_ended(self, key: Hashable) -> None:
        """Take in that a log is no more."""
        log = self._logs.pop(key)
        for follower in self._followers.values():
            follower.end(key, log)
            follower.forget(key)

    def policy_changed(self, key: Hashable, policy: CommitPolicy, now_us: int) -> None:
        """Take over the policy of a log's topic."""
        log = self._logs[key]
        for follower in self._followers.values():
            follower.end(key, log)
        log.set_policy(policy)
        for follower in self._followers.values():
            follower.begin(key, log, now_us)

    def appended(self, key: Hashable, end: int, now_us: int) -> None:
        """Take in that a log has grown to ``end``."""
        log = self._logs[key]
        if end <= log.end:
            return  # a control batch takes no offset, and a reign that wrote only such has nothing to lose
        log.end = end
        if log.is_waited_for:
            for follower in self._followers.values():
                follower.appended(key, log, now_us)

    def committed(self, key: Hashable, offset: int) -> None:
        """Take in that a log's committed offset has moved."""
        log = self._logs[key]
        before = log.target
        log.committed_offset = offset
        if log.target > before:
            for follower in self._followers.values():
                follower.target_moved(key, log, before)

    def unopened_changed(self, number: int) -> None:
        """Take in how many logs of the set this node could not open: what a node has to hold of them is not known."""
        self._unopened = number

    def copies_min_changed(self, copies_min: int) -> None:
        """Take in the largest ``copies`` of the set's topics (R8). Before the first call it is what the record says."""
        self._copies_min = copies_min

    def ready(self) -> None:
        """Take in that every log of the set has begun: before that nothing is wanted, for nobody can hold them all."""
        self._is_ready = True

    # events: followers

    def session_opened(self, member: Member, session: bytes, now_us: int, name: str = "NODE") -> None:
        """Take in a follower's session; it replaces the node's older one. ``name``: what the node calls itself.

        Raises ``RemoteProtocolError`` for the primary itself, an incarnation that is over (R4), and a node that is not
        of the set.
        """
        known = self._followers.get(member.node_id)
        if member.node_id == self.own.node_id or (known and member.incarnation < known.member.incarnation):
            raise RemoteProtocolError(
                f"a session of {member}, which is the primary or an incarnation that is over",
                code=Code.UNEXPECTED_FRAME,
            )
        if member.node_id not in self._names:
            raise RemoteProtocolError(
                f"node {name}, of the id {member.node_id.hex()}, is not in the set: `mqcore replica add {name} --wait` "
                "takes it in, also in place of a lost one of that name",
                code=Code.WRONG_SET,
            )
        if known is None or known.member != member:
            if known is not None:
                # What it held under the old incarnation may be lost, which is what the new one says (R2).
                self._gone_since_us.setdefault(known.member, now_us)
            known = self._followers[member.node_id] = FollowerProgress(member)
            for key, log in self._logs.items():
                known.begin(key, log, now_us)
        self._gone_since_us.pop(member, None)
        self._sessions[member.node_id] = session

    def session_ended(self, member: Member, session: bytes, now_us: int) -> None:
        """Take in that a session is over; of one that was replaced it says nothing about the node."""
        if self._sessions.get(member.node_id) == session:
            del self._sessions[member.node_id]
            self._gone_since_us[member] = now_us
            self._forget_strangers()

    def reported(self, member: Member, key: Hashable, offset: int, level: Level, now_us: int) -> None:
        """Take in that ``member`` reported, in this epoch and history (R4), to hold everything below ``offset``.

        Reports at other levels than a log needs are welcome: its policy may change. One of an incarnation that is over
        counts for nothing.
        """
        follower = self._followers.get(member.node_id)
        if follower is not None and follower.member == member:
            follower.reported(key, self._logs[key], offset, level, now_us)

    def level_fell(self, member: Member, level: Level, now_us: int) -> None:
        """Take in that nothing ``member`` holds is at more than ``level`` any more."""
        follower = self._followers.get(member.node_id)
        # Each log tells its own fall: all are counted anew with the first, and again only if one was reported since.
        if follower is not None and follower.member == member and follower.level > level:
            follower.level_fell(self._logs.items(), level, now_us)

    def advance(self, now_us: int) -> None:
        """Take in the time; call it at least by ``due_us``."""
        if now_us - self._looked_us > self._timeout_us // 2:
            # This node itself was stopped: how long the others were silent, it does not know.
            for follower in self._followers.values():
                follower.restart(now_us)
            self._gone_since_us = dict.fromkeys(self._gone_since_us, now_us)
        self._looked_us = now_us
        if self._held_up_for is not None:
            if now_us >= self._held_up_until_us or self._is_gone(self._held_up_for):
                # In vain: acknowledgements have waited. Not tried again at once, or they would wait nearly always.
                self._held_up_for = None
                self._hold_again_us = now_us + self._timeout_us
        elif self._is_ready and self._sent is None and not self.is_over and now_us >= self._hold_again_us:
            # A node that is short of something at every moment, though never for long, joins when commits wait for it:
            # the sets then agree as soon as its next reports have come (a stricter reading of R7, and a safe one).
            for follower in self._outsiders():
                if follower.logs_short and follower.keeps_up(self._hold_us, now_us):
                    self._held_up_for = follower.member
                    self._held_up_until_us = now_us + self._hold_us
                    break

    # events: orders of the operator (R16)

    def node_added(self, node_id: bytes, name: str) -> None:
        """Take in ``replica add``: the node is one of the set and joins as soon as R6 allows it.

        A node of a name that is known comes with an empty storage, and so with another id: it takes the place of the
        old one when it has joined. Raises ``CommandNotPossibleError`` while the node that has the name is here.
        """
        old = next((other for other, known in self._names.items() if known == name), None)
        if node_id in self._names or old == self.own.node_id or old in self._sessions:
            raise CommandNotPossibleError(f"node {name} is in the set already; two nodes cannot have one name")
        if old is not None:
            del self._names[old]
        self._names[node_id] = name

    def is_waited_for(self, key: Hashable) -> bool:
        """Whether anything ever waits for a member that lacks the end of a log."""
        return self._logs[key].is_waited_for

    def name_of(self, node_id: bytes) -> str | None:
        """Return the name of a node that is of the set or was added to it; None for any other."""
        return self._names.get(node_id)

    @property
    def names(self) -> Mapping[bytes, str]:
        """Names of the nodes of the set by id, those included that an operator has added and that are still to join."""
        return self._names

    def node_removed(self, node_id: bytes) -> None:
        """Take in ``replica remove``. Raises ``CommandNotPossibleError`` where the rules keep the node in the set."""
        names = {other: name for other, name in self._names.items() if other != node_id}
        if len(names) == len(self._names):
            raise CommandNotPossibleError(f"node {node_id.hex()} is not in the set")
        self.record.with_members(
            [member for member in self.record.members if member.node_id != node_id], copies_min=self._copies_min
        )
        self._names = names

    def capped(self, copies_cap: int | None) -> None:
        """Take in ``cluster cap`` (R17). Raises ``CommandNotPossibleError`` for a cap that lowers nothing."""
        self.record.capped(copies_cap)
        self.copies_cap = copies_cap

    # events: changes

    def change_sent(self, record: SetRecord) -> None:
        """Take in that ``record`` is about to be written; from now on both sets are waited for (R7).

        Raises ``CommandNotPossibleError`` when a node would join that lacks what is committed by now (R6).
        """
        for member in record.members - self.record.members:
            follower = self._followers.get(member.node_id)
            if follower is None or follower.member != member or follower.logs_short or self._unopened:
                raise CommandNotPossibleError(
                    f"R6: {record.name_of(member.node_id)} cannot join: it lacks what is committed, or is not here"
                )
        self._sent = record
        self._held_up_for = None

    def settled(self, record: SetRecord, now_us: int) -> None:
        """Take in the record that stands after a change whose outcome is known, applied or not.

        Until then nothing is to be called: an outcome that is unknown keeps both sets. A record of another reign ends
        this one, and both sets stay, so that nothing is acknowledged without the members of either.
        """
        if (record.epoch, record.reign_id) != (self.record.epoch, self.record.reign_id):
            self.is_over = True
            return
        for member in record.members - self.record.members:
            follower = self._followers.get(member.node_id)
            if follower is not None:
                follower.restart(now_us)  # what it lacked as an outsider nobody waited for
        self.record, self._sent = record, None
        self._forget_strangers()

    def _forget_strangers(self) -> None:
        """Forget followers that are not of the set and not here.

        One that was removed and still follows is remembered: when it is added again it has its session already.
        """
        for node_id in self._followers.keys() - self._names.keys() - _by_node(self.record.members).keys():
            if node_id not in self._sessions:
                del self._followers[node_id]

    # what follows

    @property
    def members(self) -> frozenset[Member]:
        """The in-sync set, for ``CommitRule.set_changed``."""
        return self.record.members

    @property
    def pending(self) -> frozenset[Member] | None:
        """The set that is waited for besides, for ``CommitRule.set_changed``; None: none."""
        if self._sent is not None:
            return self._sent.members
        if self._held_up_for is None:
            return None
        return frozenset({**_by_node(self.record.members), self._held_up_for.node_id: self._held_up_for}.values())

    def wanted(self, now_us: int) -> WantedChange | None:
        """Return the change that is wanted now; work per node, none per log. None while one is under way."""
        if self._sent is not None or self.is_over or not self._is_ready:
            return None
        record, reasons = self.record, []
        members = _by_node(record.members)
        names = {**self._names}
        if self._copies_min != record.copies_min:
            reasons.append(f"the topics ask for {self._copies_min} copies")
        if self.copies_cap != record.copies_cap:
            cap = "is taken away" if self.copies_cap is None else f"of {self.copies_cap} is set"
            reasons.append(f"the operator's cap on copies {cap} (R17)")
        for follower in self._outsiders():
            if not follower.logs_short and follower.keeps_delays(now_us):
                members[follower.member.node_id] = follower.member
                reasons.append(f"{self._names[follower.member.node_id]} joins: it holds what is committed (R6)")
        floor = attrs.evolve(record, copies_min=self._copies_min, copies_cap=self.copies_cap).floor
        for member, reason in self._leaving(now_us):
            if members.get(member.node_id) == member and len(members) > floor:
                del members[member.node_id]
                reasons.append(f"{record.name_of(member.node_id)} leaves: {reason}")
            elif member.node_id not in names:
                # It stays until another node takes its place, which is the one of its name if it was replaced.
                kept = record.names[member.node_id]
                names = {other: name for other, name in names.items() if name != kept} | {member.node_id: kept}
        if names != record.names and not reasons:
            reasons.append("the nodes of the set are others")
        if not reasons:
            return None
        # The cap first, for it is what lets a set shrink that could acknowledge nothing any more.
        capped = record if self.copies_cap == record.copies_cap else record.capped(self.copies_cap)
        changed = capped.with_members(frozenset(members.values()), names=names, copies_min=self._copies_min)
        return WantedChange(changed, "; ".join(reasons))

    def due_us(self, now_us: int) -> int:
        """Return when ``advance`` and ``wanted`` have to be called at the latest."""
        times = [now_us + self._timeout_us // 4]
        if self._held_up_for is not None:
            times.append(self._held_up_until_us)
        elif any(follower.logs_short for follower in self._outsiders()):
            times.append(now_us + self._hold_us)
        times += [due for member in self.record.members if (due := self._overdue_us(member)) and due > now_us]
        return min(times)

    def facts(self) -> list[FollowerFacts]:
        """Return what is known of every other node of the set that is in sync or has had a session, by name."""
        return sorted(
            (
                FollowerFacts(
                    member=follower.member,
                    name=self._names.get(node_id) or self.record.name_of(node_id),
                    is_in_sync=follower.member in self.record.members,
                    gone_since_us=self._gone_since_us.get(follower.member),
                    logs_behind=follower.logs_behind,
                    behind_since_us=follower.behind_since_us,
                    logs_short=follower.logs_short,
                    level=follower.level,
                )
                for node_id, follower in self._followers.items()
                if node_id in self._names or node_id in self.record.names
            ),
            key=lambda facts: facts.name,
        )

    def _outsiders(self) -> list[FollowerProgress]:
        """Followers that may join: of the set, here, and not in sync under the incarnation that they have."""
        if self._unopened:
            return []  # none is known to hold what was acknowledged of those logs: as a member it might reign next (R6)
        return [
            follower
            for node_id, follower in self._followers.items()
            if node_id in self._names and node_id in self._sessions and follower.member not in self.record.members
        ]

    def _leaving(self, now_us: int) -> list[tuple[Member, str]]:
        """Members that are to leave, the most urgent first, each with the reason."""
        ordered = [member for member in self.record.members if member.node_id not in self._names]
        leaving = [(member, "the operator has removed it") for member in sorted(ordered)]
        overdue = sorted((due, member) for member in self.record.members if (due := self._overdue_us(member)))
        for due, member in overdue:
            if due <= now_us and not self._is_manual and member not in ordered:
                late_ms = (now_us - due + self._timeout_us) // 1000
                silent = "no session" if member in self._gone_since_us else "it lacks what the set waits for"
                leaving.append((member, f"{silent} for {late_ms} ms (R7)"))
        return leaving

    def _overdue_us(self, member: Member) -> int | None:
        """When ``member`` has been silent or behind for too long; None: nothing waits for it."""
        follower = self._followers.get(member.node_id)
        behind_since_us = follower.behind_since_us if follower is not None else None
        if behind_since_us is None:
            return None
        return min(behind_since_us, self._gone_since_us.get(member, behind_since_us)) + self._timeout_us

    def _is_gone(self, member: Member) -> bool:
        follower = self._followers[member.node_id]
        return follower.member != member or member.node_id not in self._sessions


def _by_node(members: frozenset[Member]) -> dict[bytes, Member]:
    return {member.node_id: member for member in members}
