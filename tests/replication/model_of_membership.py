"""Membership a second time, slow and obvious: every fact is kept and everything is worked out anew after each step.

``MembershipPlay`` gives the machine events, plays the commit rule and the coordinator that it works with, and demands
after each step what the rules R6 to R9 and R16 promise. Steps are words with numbers, for property tests and mutants.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from mqcore.guarantees import AsyncReplication, Level, NoFlush, ReplicationPolicy, SyncReplication
from mqcore.replication import CommitPolicy, Member, Membership, SetRecord

NODES = tuple(bytes([letter]) * 16 for letter in b"ABCD")
OWN = Member(NODES[0], 1)
TIMEOUT_MS, HOLD_MS = 20, 4
REIGN = b"r" * 16

REPLICATIONS: tuple[tuple[ReplicationPolicy, bool], ...] = (
    (SyncReplication(copies=2, level=Level.DISK), False),
    (SyncReplication(copies=2, level=Level.MEMORY), False),
    (AsyncReplication(on_exceeded="throttle", max_delay_ms=6), False),
    (AsyncReplication(), False),
    (AsyncReplication(), True),
)
"""Each with whether only what is stable is visible."""
POLICIES = tuple(
    CommitPolicy(flush=NoFlush(), replication=replication, stable_only=stable) for replication, stable in REPLICATIONS
)
LOGS = ("one", "two", "three")


class SetViolation(AssertionError):
    """What the machine wants or waits for is not what the rules say."""


def demand_rule(holds: object, rule: str, text: str) -> None:
    if not holds:
        raise SetViolation(f"{rule}: {text}")


@attrs.define
class LogModel:
    """Facts of one log; ``stable``: up to where a commit has waited for every member, or may have before the reign."""

    policy: CommitPolicy
    began_end: int
    end: int
    committed: int
    stable: int = 0
    lowered_at: int = 0

    @property
    def waits_for_all(self) -> bool:
        return isinstance(self.policy.replication, SyncReplication) or self.policy.stable_only

    @property
    def counts(self) -> bool:
        return self.waits_for_all or self.policy.max_delay_ms is not None

    @property
    def level(self) -> Level:
        return max(self.policy.level, Level.MEMORY)


@attrs.define
class MembershipPlay:
    """One reign: the machine, and the facts that it was given."""

    machine: Membership
    logs: dict[str, LogModel]
    is_manual: bool
    copies_min: int
    now_us: int = 1_000_000
    present: dict[bytes, Member] = attrs.field(factory=dict)  # newest incarnation of each node that was here
    sessions: dict[bytes, bytes] = attrs.field(factory=dict)
    held: dict[tuple[Member, str, Level], int] = attrs.field(factory=dict)
    complete_us: dict[Member, int] = attrs.field(factory=dict)  # when it last lacked nothing, or began to count
    here_us: dict[Member, int] = attrs.field(factory=dict)  # when it last had a session
    sent: SetRecord | None = None
    sessions_made: int = 0

    @classmethod
    def begin(cls, policies: Sequence[int], *, copies_min: int, is_manual: bool = False) -> MembershipPlay:
        now_us = 1_000_000
        record = SetRecord(
            set_id=b"s" * 16,
            epoch=3,
            reign_id=REIGN,
            primary=OWN.node_id,
            members=[Member(node, 1) for node in NODES[:3]],
            names=dict(zip(NODES, "abcd", strict=True)),
            copies_min=copies_min,
        )
        machine = Membership(
            OWN, record, now_us, replica_timeout_us=TIMEOUT_MS * 1000, hold_us=HOLD_MS * 1000, is_manual=is_manual
        )
        play = cls(machine, {}, is_manual, copies_min)
        for key, number in zip(LOGS, policies, strict=True):
            log = play.logs[key] = LogModel(POLICIES[number], 5, 5, 3)
            machine.log_began(key, log.policy, log.end, log.committed, now_us)
        machine.ready()
        for member in record.members:
            play.complete_us[member] = play.here_us[member] = now_us
            play.present[member.node_id] = member
        return play

    def step(self, word: str, *numbers: int) -> None:
        getattr(self, f"_{word}")(*numbers)
        for member in self.machine.members | (self.machine.pending or frozenset()):
            if self._lacks_nothing(member):
                self.complete_us[member] = self.now_us
        for member in self.present.values():
            if member.node_id in self.sessions:
                self.here_us[member] = self.now_us
        self._judge()

    # facts

    def holds(self, member: Member, key: str, level: Level = Level.MEMORY) -> int:
        return self.logs[key].end if member == OWN else self.held.get((member, key, level), 0)

    def target(self, key: str) -> int:
        log = self.logs[key]
        return max(log.began_end, log.lowered_at, log.committed if log.waits_for_all else 0)

    def short(self, member: Member) -> list[str]:
        """Logs that keep a node from joining (R6)."""
        return [key for key, log in self.logs.items() if self.holds(member, key, log.level) < self.target(key)]

    def behind(self, member: Member) -> list[str]:
        return [key for key, log in self.logs.items() if log.counts and self.holds(member, key, log.level) < log.end]

    def _lacks_nothing(self, member: Member) -> bool:
        return member == OWN or not self.behind(member)

    # steps

    def _append(self, log: int, messages: int) -> None:
        key = LOGS[log]
        self.logs[key].end += messages
        self.machine.appended(key, self.logs[key].end, self.now_us)

    def _commit(self, log: int) -> None:
        """As the commit rule does: a log that waits for all is committed up to what both sets hold."""
        key = LOGS[log]
        model, machine = self.logs[key], self.machine
        if model.waits_for_all:
            counted = machine.members | (machine.pending or frozenset())
            held = min(self.holds(member, key, model.level) for member in counted)
            if held > model.committed and held >= model.began_end:
                model.committed = model.stable = held
                machine.committed(key, held)
        elif model.end > model.committed:
            model.committed = model.end
            machine.committed(key, model.end)

    def _session(self, node: int, incarnations: int) -> None:
        known = self.present.get(NODES[node], Member(NODES[node], 1))
        member = known._replace(incarnation=known.incarnation + incarnations)
        self.sessions_made += 1
        session = bytes([self.sessions_made % 256]) * 16
        self.machine.session_opened(member, session, self.now_us)
        self.present[NODES[node]] = member
        self.sessions[NODES[node]] = session

    def _leave(self, node: int) -> None:
        if (session := self.sessions.pop(NODES[node], None)) is not None:
            self.machine.session_ended(self.present[NODES[node]], session, self.now_us)

    def _report(self, node: int, log: int, back: int, level: int) -> None:
        if NODES[node] not in self.sessions:
            return
        member, key = self.present[NODES[node]], LOGS[log]
        offset = max(self.logs[key].end - back, self.holds(member, key, Level(level)))
        for each in range(level + 1):
            self.held[member, key, Level(each)] = max(self.holds(member, key, Level(each)), offset)
        self.machine.reported(member, key, offset, Level(level), self.now_us)

    def _wait(self, ms: int) -> None:
        self.now_us += ms * 1000
        self.machine.advance(self.now_us)

    def _policy(self, log: int, number: int) -> None:
        model = self.logs[LOGS[log]]
        if model.waits_for_all:
            model.lowered_at = self.target(LOGS[log])
        model.policy = POLICIES[number]
        self.machine.policy_changed(LOGS[log], POLICIES[number], self.now_us)

    def _floor(self, copies_min: int) -> None:
        self.copies_min = copies_min
        self.machine.copies_min_changed(copies_min)

    def _decide(self) -> None:
        wanted = self.machine.wanted(self.now_us)
        if self.sent is not None or self.machine.is_over:
            demand_rule(wanted is None, "R7", "a change is wanted while the outcome of another is not known")
        if wanted is None:
            return
        now, then = self.machine.members, wanted.record.members
        demand_rule(wanted.reason, "status", "a change without a reason")
        demand_rule(OWN in then, "R7", "the primary leaves its own set")
        demand_rule(len(then) >= min(len(now), self.copies_min), "R8", f"{len(then)} members, not {self.copies_min}")
        for member in then - now:
            demand_rule(self.present.get(member.node_id) == member, "R2", f"{member} joins, which is no more")
            demand_rule(not self.short(member), "R6", f"{member} joins and is short of {self.short(member)}")
        replaced = {member.node_id for member in then}
        for member in now - then:
            if member.node_id in replaced:
                continue
            demand_rule(not self.is_manual, "R16", "the set shrinks by itself")
            present = self.present.get(member.node_id, member)
            demand_rule(self.behind(present), "R8", f"{member} leaves and nothing waits for it")
            silent = self.now_us - self.here_us.get(member, 0)
            late = self.now_us - self.complete_us.get(present, 0)
            demand_rule(max(silent, late) >= TIMEOUT_MS * 1000, "R7", f"{member} leaves after {silent}, {late} us")
        self.sent = wanted.record
        self.machine.change_sent(wanted.record)

    def _answer(self, kind: int) -> None:
        """0: applied, 1: not applied, 2: another reign."""
        if self.sent is None:
            return
        if kind == 2:
            self.machine.settled(self.sent.promoted(self._other(), epoch=9, reign_id=b"n" * 16, unclean=True), 0)
            return
        for member in (self.sent.members - self.machine.members) if kind == 0 else ():
            self.complete_us[member] = self.now_us
        self.machine.settled(self.sent if kind == 0 else self.machine.record, self.now_us)
        self.sent = None

    def _other(self) -> Member:
        return Member(NODES[1], 1)

    # what has to hold

    def _judge(self) -> None:
        machine = self.machine
        electable = machine.members if self.sent is None else machine.members | self.sent.members
        for key, log in self.logs.items():
            for member in electable:
                held = self.holds(member, key)
                demand_rule(held >= log.stable, "G01", f"{member} may reign, holds {held} of {key}, not {log.stable}")
        if self.sent is not None:
            demand_rule(machine.pending == self.sent.members, "R7", "the set that was asked for is not waited for")
        for facts in machine.facts():
            member = facts.member
            demand_rule(member == self.present.get(member.node_id, member), "R2", f"{member} is no more")
            demand_rule(facts.logs_short == len(self.short(member)), "R6", f"{facts}: short of {self.short(member)}")
            demand_rule(facts.logs_behind == len(self.behind(member)), "R9", f"{facts}: lacks {self.behind(member)}")
            demand_rule((facts.behind_since_us is None) == (not facts.logs_behind), "R9", f"{facts}")


STEPS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("append", (3, 3)),
    ("append", (3, 3)),
    ("commit", (3,)),
    ("commit", (3,)),
    ("commit", (3,)),
    ("session", (4, 2)),
    ("leave", (4,)),
    ("report", (4, 3, 2, 5)),
    ("report", (4, 3, 1, 5)),
    ("report", (4, 3, 1, 5)),
    ("report", (4, 3, 1, 5)),
    ("report", (4, 3, 1, 5)),
    ("wait", (12,)),
    ("wait", (30,)),
    ("decide", ()),
    ("decide", ()),
    ("answer", (2,)),
    ("answer", (2,)),
    ("policy", (3, len(POLICIES))),
    ("floor", (4,)),
)
"""Words, and below what each of their numbers stays."""


def random_set_steps(rng: random.Random, count: int) -> list[tuple[str, tuple[int, ...]]]:
    steps = []
    for _ in range(count):
        word, ranges = rng.choice(STEPS)
        numbers = [rng.randrange(each) for each in ranges]
        if word in ("session", "leave", "report"):
            numbers[0] = max(numbers[0], 1)  # the primary follows nobody
        if word == "floor":
            numbers[0] = max(numbers[0], 1)
        if word == "session" and rng.random() < 0.7:
            numbers[1] = 0  # most nodes come back as they were
        steps.append((word, tuple(numbers)))
    return steps
