"""A replica set of the real machines and nothing else: no tasks, no sockets, no disks; every event is traced.

Each node has a toy log; its commit rule, membership, judgements of reports and candidates, and the record are those of
``mqcore.replication``. The shell between them is the shortest that obeys their documentation.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import attrs
from set_traces import SetTrace

from mqcore import replication
from mqcore.guarantees import Level, NoFlush, SyncReplication
from mqcore.log import EpochEntry
from mqcore.protocol import SendPolicy
from mqcore.replication import (
    CommitPolicy,
    CommitRule,
    Counts,
    Held,
    LogEnd,
    LogTip,
    Member,
    Membership,
    NodeState,
    Released,
    SetRecord,
    UnflushedTotal,
)

BATCH_BYTES = 10
POLICY = CommitPolicy(flush=NoFlush(), replication=SyncReplication(copies=2, level=Level.MEMORY))
TIMEOUT_US, HOLD_US = 20_000, 4_000


class ToyBatch(NamedTuple):
    """A batch of one message, or the epoch batch of a reign, which has no value."""

    epoch: int
    reign_id: bytes
    value: str


@attrs.define(eq=False)
class MachineNode:
    """One node: what its disk keeps, and what its process has while it runs."""

    name: str
    incarnation: int = 0
    log: list[ToyBatch] = attrs.field(factory=list)
    committed: int = 0
    is_up: bool = True
    role: str = "idle"
    epoch: int = 0
    seen_epoch: int = 0
    session: bytes = b""
    is_reconciled: bool = False
    rule: CommitRule[str] | None = None
    membership: Membership | None = None
    sets: object = None

    @property
    def member(self) -> Member:
        return Member(self.name.encode() * 16, self.incarnation)

    @property
    def history(self) -> list[EpochEntry]:
        found: list[EpochEntry] = []
        offset = 0
        for place, batch in enumerate(self.log):
            if not found or found[-1].number != batch.epoch:
                found.append(EpochEntry(batch.epoch, batch.reign_id, place * BATCH_BYTES, offset))
            offset += bool(batch.value)
        return found

    @property
    def end(self) -> LogEnd:
        return LogEnd(sum(bool(batch.value) for batch in self.log), len(self.log) * BATCH_BYTES)

    @property
    def held(self) -> Held:
        if not self.log:
            return Held(0, bytes(16), 0, 0)
        return Held(self.log[-1].epoch, self.log[-1].reign_id, self.end.position - BATCH_BYTES, self.end.position)

    @property
    def state(self) -> NodeState:
        tip = LogTip(self.log[-1].epoch, self.end.position) if self.log else LogTip(0, 0)
        return NodeState(
            member=self.member, seen_epoch=self.seen_epoch, tips={"metadata": LogTip(self.epoch, 1), "log": tip}
        )

    def leave(self) -> None:
        self.role, self.rule, self.membership, self.is_reconciled, self.sets = "idle", None, None, False, None


class ChangeOnItsWay(NamedTuple):
    """A conditional write of a primary; ``answer`` is there once the coordinator has served it."""

    node: MachineNode
    epoch: int
    base: SetRecord
    record: SetRecord
    answer: bool | None = None


class MachineSet:
    """Nodes A, B and C, of which A and B are in sync; A reigns in epoch 1. ``run`` does random events."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_us = 0
        self.values = self.reigns = self.commits = 0
        self.nodes = [MachineNode(name) for name in "ABC"]
        self.trace = SetTrace("ABC", "AB")
        self.change: ChangeOnItsWay | None = None
        first = self.nodes[0]
        self.record = SetRecord(
            set_id=b"s" * 16,
            epoch=1,
            reign_id=self.new_id(),
            primary=first.member.node_id,
            members=[node.member for node in self.nodes[:2]],
            names={node.member.node_id: node.name for node in self.nodes},
            copies_min=2,
        )
        first.log.append(ToyBatch(1, self.record.reign_id, ""))
        self.reign(first)
        for node in self.nodes[1:]:
            node.role, node.epoch, node.seen_epoch = "follower", 1, 1

    def run(self, events: int) -> None:
        for _ in range(events):
            (word,) = self.rng.choices(list(WEIGHTS), WEIGHTS.values())
            getattr(self, word)(self.rng.choice(self.nodes))

    def new_id(self) -> bytes:
        self.reigns += 1
        return self.reigns.to_bytes(16, "big")

    def primary_of(self, node: MachineNode) -> MachineNode | None:
        """The primary of the epoch that a follower follows, if it can be reached."""
        if not node.is_up or node.role != "follower":
            return None
        return next((each for each in self.nodes if each.role == "primary" and each.epoch == node.epoch), None)

    # reigns

    def reign(self, node: MachineNode) -> None:
        node.leave()
        node.role, node.epoch = "primary", self.record.epoch
        node.seen_epoch = max(node.seen_epoch, node.epoch)
        node.rule = CommitRule(
            node.member,
            POLICY,
            append_level=Level.PAGE_CACHE,
            flush_level=Level.DISK,
            total=UnflushedTotal(),
            end=node.end,
            durable=LogEnd(0, 0),
            committed_offset=node.committed,
        )
        node.membership = Membership(
            node.member, self.record, self.now_us, replica_timeout_us=TIMEOUT_US, hold_us=HOLD_US
        )
        node.membership.log_began("log", POLICY, node.end.offset, node.committed, self.now_us)
        node.membership.ready()
        self.carry_out(node, [])

    def carry_out(self, node: MachineNode, released: Released[str]) -> None:
        """Give the rule the sets that the membership says, and note what is committed and acknowledged."""
        rule, membership = node.rule, node.membership
        assert rule is not None
        assert membership is not None
        sets = (membership.members, membership.pending)
        if sets != node.sets:
            node.sets = sets
            released = [*released, *rule.set_changed(*sets, self.now_us)]
        if rule.committed_offset > node.committed:
            node.committed = rule.committed_offset
            self.commits += 1
            self.trace.take("commit", node.name, number=self.trace.batches_below(node.name, node.committed))
            membership.committed("log", node.committed)
        visible = {value for _, value in self.trace.state.visible}
        for value, copies in released:
            assert not copies or value in visible, f"G01: {value} is acknowledged and not committed"

    def elect(self, node: MachineNode) -> None:
        if not node.is_up or (node.role == "primary" and node.epoch == self.record.epoch):
            return
        others = [each.state for each in self.nodes if each.is_up and each is not node and self.rng.random() < 0.8]
        candidacy = replication.judge_candidacy(self.record, node.state, others)
        if candidacy.rank is None or candidacy.unclean:
            return
        epoch = self.record.epoch + 1
        self.record = self.record.promoted(node.member, epoch=epoch, reign_id=self.new_id())
        self.trace.take("elect", node.name, number=epoch)
        self.reign(node)

    def follow(self, node: MachineNode) -> None:
        named = self.record.primary == node.member.node_id
        if node.is_up and not named and (node.role == "idle" or node.epoch < self.record.epoch):
            node.leave()
            node.role, node.epoch = "follower", self.record.epoch
            node.seen_epoch = max(node.seen_epoch, node.epoch)
            node.session = self.new_id()
            self.trace.take("follow", node.name)

    # data

    def append(self, node: MachineNode) -> None:
        if node.rule is None or node.membership is None or len(node.log) > 12:
            return
        # Not the record's reign id: a zombie writes under its own, and no other reign has it.
        reign_id = node.membership.record.reign_id
        if not node.log or node.log[-1].epoch != node.epoch:
            node.log.append(ToyBatch(node.epoch, reign_id, ""))
        self.values += 1
        value = f"v{self.values}"
        node.log.append(ToyBatch(node.epoch, reign_id, value))
        self.trace.take("append", node.name, value=value)
        released = node.rule.appended([(*node.end, SendPolicy.TOPIC, value)], self.now_us)
        node.membership.appended("log", node.end.offset, self.now_us)
        self.carry_out(node, released)

    def report(self, node: MachineNode) -> None:
        primary = self.primary_of(node)
        if primary is None or primary.rule is None or primary.membership is None:
            return
        judgement = replication.judge_report(primary.history, 0, primary.end.position, node.held)
        if not isinstance(judgement, Counts):
            cut = replication.cut_of_divergence(node.history, node.end.position, judgement) // BATCH_BYTES
            node.log = node.log[:cut]
            self.trace.take("cut", node.name, primary.name, cut)
            return
        if not node.is_reconciled:
            primary.membership.session_opened(node.member, node.session, self.now_us)
        node.is_reconciled = True
        self.trace.take("report", node.name, primary.name, len(node.log))
        released = primary.rule.held(node.member, *node.end, Level.MEMORY, self.now_us)
        primary.membership.reported(node.member, "log", node.end.offset, Level.MEMORY, self.now_us)
        self.carry_out(primary, released)

    def receive(self, node: MachineNode) -> None:
        primary = self.primary_of(node)
        if primary is not None and node.is_reconciled and len(node.log) < len(primary.log):
            node.log.append(primary.log[len(node.log)])
            self.trace.take("receive", node.name, primary.name, len(node.log))

    def learn(self, node: MachineNode) -> None:
        primary = self.primary_of(node)
        if primary is not None and node.is_reconciled:
            committed = min(primary.committed, node.end.offset)
            if committed > node.committed:
                node.committed = committed
                batches = self.trace.batches_below(node.name, committed)
                self.trace.take("learn", node.name, primary.name, batches)

    # changes of the set

    def decide(self, node: MachineNode) -> None:
        if node.membership is None or self.change is not None:
            return
        wanted = node.membership.wanted(self.now_us)
        if wanted is not None:
            self.change = ChangeOnItsWay(node, node.epoch, node.membership.record, wanted.record)
            node.membership.change_sent(wanted.record)
            members = frozenset((member.node_id[:1].decode(), member.incarnation) for member in wanted.record.members)
            self.trace.take("send", node.name, members=members)
            self.carry_out(node, [])

    def serve(self, _: MachineNode) -> None:
        change = self.change
        if change is not None and change.answer is None:
            applies = self.record == change.base
            if applies:
                self.record = change.record
                self.trace.take("apply", change.node.name)
            self.change = change._replace(answer=applies)

    def answered(self, _: MachineNode) -> None:
        """The sender learns what became of its change: by the answer, or by reading after it was lost."""
        change = self.change
        if change is None or change.answer is None:
            return
        self.change = None
        node, membership = change.node, change.node.membership
        if membership is None or node.epoch != change.epoch or membership.is_over or membership.pending is None:
            return
        if change.answer and self.record == change.record:
            self.trace.take("settle", node.name)
        membership.settled(self.record, self.now_us)
        self.carry_out(node, [])

    # faults and time

    def passes(self, _: MachineNode) -> None:
        self.now_us += self.rng.randrange(1, 8_000)
        for node in self.nodes:
            if node.membership is not None and node.rule is not None:
                node.membership.advance(self.now_us)
                self.carry_out(node, node.rule.advance(self.now_us))

    def kill(self, node: MachineNode) -> None:
        if node.is_up:
            self.goes(node)
            self.trace.take("kill", node.name)

    def cut(self, node: MachineNode) -> None:
        if node.is_up and node.log:
            self.goes(node)
            keeps = self.rng.randrange(len(node.log))
            node.log = node.log[:keeps]
            node.incarnation += 1
            node.committed = min(node.committed, node.end.offset)
            self.trace.take("power-cut", node.name, number=keeps)

    def goes(self, node: MachineNode) -> None:
        for primary in self.nodes:
            if primary.membership is not None and primary is not node:
                primary.membership.session_ended(node.member, node.session, self.now_us)
        node.leave()
        node.is_up = False

    def start(self, node: MachineNode) -> None:
        if not node.is_up:
            node.is_up = True
            self.trace.take("start", node.name)


WEIGHTS: dict[str, int] = {
    "append": 8,
    "report": 30,
    "receive": 24,
    "learn": 6,
    "decide": 10,
    "serve": 10,
    "answered": 8,
    "passes": 8,
    "elect": 3,
    "follow": 10,
    "kill": 1,
    "cut": 1,
    "start": 12,
}
"""Each event and how often it comes. A change that is never answered any more holds nothing up: its reign is over."""
