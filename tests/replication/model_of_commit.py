"""The commit rule a second time, slow and obvious, written from guarantees.md (sections 1, 2, 6) and not from the code.

``CommitModel`` remembers every fact and judges, at each event, what the rule released and committed: it looks at the
whole past each time and keeps no frontier, queue or window. ``Play`` gives both the same events, as pairs of a word and
numbers, which is what the property tests, the search and the mutants have in common.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import attrs

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    Copy,
    FlushPolicy,
    Level,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.protocol import SendPolicy
from mqcore.replication import CommitPolicy, CommitRule, LogEnd, Member, UnflushedTotal

NODES = tuple(bytes([letter]) * 16 for letter in b"ABC")
OWN = Member(NODES[0], 1)
APPEND_LEVEL = Level.PAGE_CACHE

BOUNDS = AsyncFlush(max_messages=4, max_bytes=60, max_interval_ms=10)
FLUSHES: tuple[tuple[FlushPolicy, FlushPolicy | None, bool], ...] = (
    (SyncFlush(), None, False),
    (SyncFlush(), BOUNDS, False),
    (SyncFlush(), NoFlush(), False),
    (BOUNDS, None, False),
    (BOUNDS, NoFlush(), True),
    (AsyncFlush(max_messages=2), None, False),
    (AsyncFlush(max_interval_ms=5), None, False),
    (NoFlush(), None, False),
)
"""The topic's flush policy, its weakest send, and whether only what is stable is visible."""
REPLICATIONS: tuple[ReplicationPolicy, ...] = (
    NoReplication(),
    AsyncReplication(on_exceeded="report"),
    AsyncReplication(on_exceeded="throttle", max_delay_ms=8),
    SyncReplication(copies=2, level=Level.MEMORY),
    SyncReplication(copies=2, level=Level.DISK),
    SyncReplication(copies=3, level=Level.PAGE_CACHE),
)
POLICIES = tuple(
    CommitPolicy(flush=flush, weakest_send=weakest, stable_only=stable, replication=replication)
    for flush, weakest, stable in FLUSHES
    for replication in REPLICATIONS
)


class Violation(AssertionError):
    """What the rule did is not what the guarantees say."""


def demand(holds: object, clause: str, text: str) -> None:
    if not holds:
        raise Violation(f"{clause}: {text}")


@attrs.define
class CommitModel:
    """Every fact of one partition in one reign, and the judge over what follows from them."""

    policy: CommitPolicy
    total_bytes_max: int | None
    began_at: int
    batches: list[tuple[int, int]] = attrs.field(factory=list)  # end offset and end position of each, in order
    durable: int = 0
    flush_level: Level = Level.DISK
    now_us: int = 0
    members: frozenset[Member] = frozenset({OWN})
    pending: frozenset[Member] | None = None
    held: dict[tuple[Member, Level], int] = attrs.field(factory=dict)  # as reported; gone with a newer incarnation
    newest: dict[bytes, int] = attrs.field(factory=dict)  # incarnation that each node reported last
    waiting: dict[int, tuple[int, SendPolicy]] = attrs.field(factory=dict)  # reply: end offset, what it waits for
    answered: set[int] = attrs.field(factory=set)
    acknowledged: list[tuple[int, int]] = attrs.field(factory=list)  # unflushed ones: end offset and when
    throttled: list[tuple[int, int]] = attrs.field(factory=list)  # end offset and when, since the policy throttles
    committed: int = 0
    is_confirmed: bool = False
    is_stopped: bool = False

    # facts in the words of the specification

    @property
    def end(self) -> int:
        return self.batches[-1][0] if self.batches else 0

    def position(self, end_offset: int) -> int:
        return dict(self.batches)[end_offset] if end_offset else 0

    def sets(self) -> list[frozenset[Member]]:
        return [self.members] if self.pending is None else [self.members, self.pending]

    def level_of(self, member: Member, end_offset: int) -> Level:
        """The level at which ``member`` holds, now, the batch that ends at ``end_offset``."""
        if member == OWN:
            return max(APPEND_LEVEL, self.flush_level) if end_offset <= self.durable else APPEND_LEVEL
        reached = [level for level in Level if self.held.get((member, level), 0) >= end_offset]
        return max(reached, default=Level.NONE)

    def lacks(self, end_offset: int) -> bool:
        """Whether a member that counts does not hold the batch at all."""
        others = frozenset().union(*self.sets()) - {OWN}
        return any(self.level_of(member, end_offset) is Level.NONE for member in others)

    def is_large_enough(self) -> bool:
        replication = self.policy.replication
        needed = 1
        if isinstance(replication, SyncReplication):
            needed = replication.copies
        elif isinstance(replication, AsyncReplication) and replication.on_exceeded == "throttle":
            needed = 2
        return all(len({member.node_id for member in each}) >= needed for each in self.sets())

    def is_replicated(self, end_offset: int) -> bool:
        """Whether the replication policy lets a batch be acknowledged, as far as copies go."""
        replication = self.policy.replication
        if not self.is_large_enough():
            return False
        if not isinstance(replication, SyncReplication):
            return True
        counted = frozenset().union(*self.sets())
        return all(self.level_of(member, end_offset) >= replication.level for member in counted)

    def delay_is_over(self) -> bool:
        """Whether the oldest acknowledged batch that a member lacks is as old as ``max_delay``."""
        replication = self.policy.replication
        if not isinstance(replication, AsyncReplication) or replication.on_exceeded == "report":
            return False
        ages = [self.now_us - when for end_offset, when in self.throttled if self.lacks(end_offset)]
        return max(ages, default=-1) >= replication.max_delay_ms * 1000

    def needs_own_flush(self) -> bool:
        replication = self.policy.replication
        return isinstance(replication, SyncReplication) and replication.level > APPEND_LEVEL

    def confirm(self) -> None:
        """R10: what the log held when the reign began is flushed, unless never, and held as the policy asks."""
        flushes = not isinstance(self.policy.flush, NoFlush) or self.needs_own_flush()
        begin = self.began_at
        if (not flushes or begin <= self.durable) and (begin == 0 or self.is_replicated(begin)):
            self.is_confirmed = True

    # the judge

    def check_bounds(self, end_offset: int, what: str) -> None:
        """G03: acknowledging this much, unflushed, is within the bounds at this instant."""
        bounds = self.policy.bounds
        demand(bounds is not None, "G03", f"{what} without a flush, and there are no bounds")
        assert bounds is not None
        newest = max([end_offset, *(each for each, _ in self.acknowledged)])
        messages, size = newest - self.durable, self.position(newest) - self.position(self.durable)
        demand(bounds.max_messages is None or messages <= bounds.max_messages, "G03", f"{what}: {messages} messages")
        demand(bounds.max_bytes is None or size <= bounds.max_bytes, "G03", f"{what}: {size} bytes")
        demand(self.total_bytes_max is None or size <= self.total_bytes_max, "G03", f"{what}: {size} bytes in all")
        if bounds.max_interval_ms is not None and self.acknowledged:
            span_us = self.now_us - min(when for _, when in self.acknowledged)
            demand(span_us < bounds.max_interval_ms * 1000, "G03", f"{what}: within a span of {span_us} us")

    def judge_reply(self, reply: int, copies: tuple[Copy, ...]) -> None:
        demand(reply in self.waiting and reply not in self.answered, "R4", f"reply {reply} goes, which does not wait")
        end_offset, strength = self.waiting.pop(reply)
        self.answered.add(reply)
        what = f"the reply to the batch that ends at {end_offset} under {strength.name}"
        if not copies:
            demand(self.is_stopped, "G13", f"{what} is called unknown while the log goes on")
            return
        demand(not self.is_stopped, "G11", f"{what} goes after the log stopped")
        demand(self.is_confirmed, "R10", f"{what} goes before what was in the log is confirmed")
        demand(not self.delay_is_over(), "G03", f"{what} goes although a replica lags too far")
        demand(self.is_replicated(end_offset), "G14", f"{what} goes without the copies of its policy")
        demand(strength != SendPolicy.SYNC or end_offset <= self.durable, "G14", f"{what} goes before its flush")
        if strength == SendPolicy.ASYNC and end_offset > self.durable:
            self.check_bounds(end_offset, what)
        expected = [Copy(*OWN, self.level_of(OWN, end_offset))]
        if isinstance(self.policy.replication, SyncReplication):
            others = sorted(frozenset().union(*self.sets()) - {OWN})
            expected += [Copy(*member, self.level_of(member, end_offset)) for member in others]
        demand(list(copies) == expected, "G14", f"{what} states {copies}, not {expected}")

    def judge_committed(self, before: int, after: int) -> None:
        if self.is_stopped:
            demand(after == min(before, self.durable), "G11", f"committed {after} after the stop, not what is durable")
            return
        demand(after >= before, "R10", f"the committed offset goes back from {before} to {after}")
        demand(after <= self.end, "G08", f"the committed offset {after} is beyond the end {self.end}")
        if after == before:
            return
        what = f"the move of the committed offset from {before} to {after}"
        demand(self.is_confirmed, "R10", f"{what} comes before what was in the log is confirmed")
        demand(not self.delay_is_over(), "G03", f"{what} comes although a replica lags too far")
        demand(self.is_replicated(after), "G08", f"{what} comes without the copies of the topic's policy")
        if self.policy.stable_only:
            demand(after <= self.durable and not self.lacks(after), "G08", f"{what} shows what is not stable")
        elif isinstance(self.policy.flush, SyncFlush):
            demand(after <= self.durable, "G08", f"{what} comes before the flush")
        elif isinstance(self.policy.flush, AsyncFlush) and after > self.durable:
            self.check_bounds(after, what)

    def judge(self, released: Iterable[tuple[int, tuple[Copy, ...]]], committed: int) -> None:
        """Judge one event, whose facts are in: what it released, and the committed offset that it left."""
        if not self.is_stopped and not self.delay_is_over():
            self.confirm()
        released, replies = list(released), dict(self.waiting)
        before = self.committed
        self.judge_committed(before, committed)
        for reply, copies in released:
            self.judge_reply(reply, copies)
        if self.is_stopped:
            demand(not self.waiting, "G11", f"replies {sorted(self.waiting)} wait for ever on a log that stopped")
            self.committed = committed
            return
        self.judge_waiting()
        over = self.delay_is_over()
        if not over and self.is_confirmed:
            self.judge_frontier(committed)
        ends = [replies[reply][0] for reply, copies in released if replies[reply][1] == SendPolicy.ASYNC and copies]
        if committed > before and isinstance(self.policy.flush, AsyncFlush) and not self.policy.stable_only:
            ends.append(committed)
        self.acknowledged += [(end, self.now_us) for end in ends if end > self.durable]
        if self.policy.max_delay_ms is not None:
            ends = [replies[reply][0] for reply, _ in released] + ([committed] if committed > before else [])
            self.throttled += [(end, self.now_us) for end in ends]
        self.committed = committed

    def judge_waiting(self) -> None:
        """G13: nothing waits that need not: what has its flush and its copies goes at once."""
        if self.delay_is_over() or not self.is_confirmed:
            return
        for end_offset, strength in self.waiting.values():
            needless = self.is_replicated(end_offset) and (strength == SendPolicy.NONE or end_offset <= self.durable)
            demand(not needless, "G13", f"the batch that ends at {end_offset} under {strength.name} waits needlessly")

    def judge_frontier(self, committed: int) -> None:
        for end_offset, _ in self.batches:
            flushed = end_offset <= self.durable
            if self.policy.stable_only:
                meets = flushed and not self.lacks(end_offset)
            else:
                meets = flushed or isinstance(self.policy.flush, NoFlush)
            demand(
                end_offset <= committed or not (meets and self.is_replicated(end_offset)),
                "G13",
                f"committed is {committed}, and the batch that ends at {end_offset} meets the topic's policy",
            )


@attrs.define
class Play:
    """A commit rule and the model, driven by the same steps."""

    policy: CommitPolicy
    total: UnflushedTotal
    rule: CommitRule[int]
    model: CommitModel
    bounds: AsyncFlush | None
    replies: int = 0

    @classmethod
    def begin(
        cls, policy: CommitPolicy, *, total_bytes_max: int | None = None, batches: Sequence[tuple[int, int]] = ()
    ) -> Play:
        """Begin a reign over a log that holds ``batches``, of which nothing is known to be flushed or held."""
        total = UnflushedTotal(total_bytes_max)
        end = LogEnd(*batches[-1]) if batches else LogEnd(0, 0)
        rule: CommitRule[int] = CommitRule(
            OWN,
            policy,
            append_level=APPEND_LEVEL,
            flush_level=Level.DISK,
            total=total,
            end=end,
            durable=LogEnd(0, 0),
            committed_offset=0,
        )
        play = cls(policy, total, rule, CommitModel(policy, total_bytes_max, end.offset, list(batches)), policy.bounds)
        play._judge(rule.advance(0))
        return play

    def step(self, word: str, *numbers: int) -> None:
        """Play one step; numbers that stand for something that does not exist are taken modulo what does."""
        getattr(self, f"step_{word}")(*numbers)
        self._judge_wishes()

    def _judge(self, released: Iterable[tuple[int, tuple[Copy, ...]]]) -> None:
        self.model.judge(released, self.rule.committed_offset)

    def _judge_wishes(self) -> None:
        model, rule = self.model, self.rule
        strong = [end for end, strength in model.waiting.values() if strength == SendPolicy.SYNC]
        if any(end > model.durable for end in strong):
            demand(rule.wants_flush_now, "G13", "a reply waits for a flush, and none is wanted")
        if model.durable >= model.end:
            demand(not rule.wants_flush_now, "G13", "everything is flushed, and a flush is wanted still")
        if model.acknowledged and model.policy.bounds is not None and model.policy.bounds.max_interval_ms is not None:
            due = rule.flush_due_us is not None or rule.wants_flush_now
            demand(model.is_stopped or due, "G03", "acknowledged batches get old, and no flush is due")

    # steps

    def step_append(self, messages: int, size: int, send: int, wants_reply: int) -> None:
        model = self.model
        policy = SendPolicy(send)
        if self.rule.refusal(policy) is not None:
            policy = SendPolicy.TOPIC
        end_offset = model.end + messages
        end_position = model.position(model.end) + size
        model.batches.append((end_offset, end_position))
        reply = self._reply(end_offset, policy) if wants_reply else None
        self._judge(self.rule.appended([(end_offset, end_position, policy, reply)], model.now_us))

    def _reply(self, end_offset: int, policy: SendPolicy) -> int:
        self.replies += 1
        strength = (
            policy
            or {SyncFlush: SendPolicy.SYNC, AsyncFlush: SendPolicy.ASYNC, NoFlush: SendPolicy.NONE}[
                type(self.model.policy.flush)
            ]
        )
        self.model.waiting[self.replies] = (end_offset, strength)
        return self.replies

    def step_flush(self, spare: int, level: int) -> None:
        """A flush that covers all but the last ``spare`` batches, on a storage that is at ``level`` now."""
        model = self.model
        batches = [(0, 0), *model.batches]
        offset, position = batches[max(len(batches) - 1 - spare, 0)]
        if not model.is_stopped:
            model.durable = max(model.durable, offset)
            model.flush_level = Level.DISK if level < Level.MIRROR else Level.MIRROR
            model.acknowledged = [entry for entry in model.acknowledged if entry[0] > model.durable]
        self._judge(self.rule.flushed(offset, position, model.flush_level, model.now_us))

    def step_held(self, node: int, spare: int, level: int) -> None:
        """A replica reports, truly, that it holds all but the last ``spare`` batches."""
        model = self.model
        member = self._member(node)
        batches = [(0, 0), *model.batches]
        offset, position = batches[max(len(batches) - 1 - spare, 0)]
        if model.is_stopped or offset < model.held.get((member, Level(level)), 0):
            return
        model.newest[member.node_id] = member.incarnation
        for each in Level:
            if each <= level:
                model.held[member, each] = max(model.held.get((member, each), 0), offset)
        self._judge(self.rule.held(member, offset, position, Level(level), model.now_us))

    def _member(self, node: int) -> Member:
        node_id = NODES[1 + node % 2]
        return Member(node_id, self.model.newest.get(node_id, 1))

    def step_restart(self, node: int) -> None:
        """A replica comes back under a newer incarnation: what it held before may be lost (R2)."""
        member = self._member(node)
        self.model.newest[member.node_id] = member.incarnation + 1
        self.model.held = {key: end for key, end in self.model.held.items() if key[0] != member}
        if not self.model.is_stopped:
            self._judge(
                self.rule.held(Member(member.node_id, member.incarnation + 1), 0, 0, Level.NONE, self.model.now_us)
            )

    def step_fall(self, node: int) -> None:
        """A replica's storage falls to the level of one disk."""
        member = self._member(node)
        self.model.held.pop((member, Level.MIRROR), None)
        self.rule.level_fell(member, Level.DISK)

    def step_lie(self, node: int, kind: int) -> None:
        """A report that cannot be true is refused and counts for nothing (R4)."""
        model = self.model
        member = self._member(node)
        known = member.node_id in model.newest
        offset, position = model.end, model.position(model.end)
        if kind == 0:
            lie = (member, offset + 1, position, Level.DISK)
        elif kind == 1:
            lie = (member, offset, position + 1, Level.DISK)
        elif kind == 2 and known:
            lie = (member._replace(incarnation=member.incarnation - 1), offset, position, Level.DISK)
        elif kind == 3 and model.held.get((member, Level.MEMORY), 0) > 0:
            lie = (member, 0, 0, Level.MEMORY)
        else:
            lie = (Member(OWN.node_id, 2), offset, position, Level.DISK)
        if model.is_stopped:
            return
        try:
            self.rule.held(*lie, model.now_us)
        except RemoteProtocolError:
            self._judge(self.rule.advance(model.now_us))
        else:
            raise Violation(f"R4: the report {lie} is believed")

    def step_set(self, members: int, pending: int) -> None:
        """The set is changed: ``members`` and ``pending`` are masks of replicas; a pending of 4 and up is none."""
        model = self.model
        model.members = self._set_of(members)
        model.pending = None if pending > 3 else self._set_of(pending)
        if not model.is_stopped:
            self._judge(self.rule.set_changed(model.members, model.pending, model.now_us))

    def _set_of(self, mask: int) -> frozenset[Member]:
        chosen = {self._member(node) for node in (0, 1) if mask & (1 << node)}
        if mask == 3 and self._member(0).incarnation > 1:
            chosen.add(Member(NODES[1], self._member(0).incarnation - 1))  # the node under two incarnations
        return frozenset({OWN, *chosen})

    def step_wait(self, ms: int) -> None:
        self.model.now_us += ms * 1000
        self._judge(self.rule.advance(self.model.now_us))

    def step_policy(self, number: int) -> None:
        model = self.model
        # Bounds come and go, but are not narrowed: what is acknowledged under wider ones stays acknowledged.
        choice = [each for each in POLICIES if each.bounds in (None, model.policy.bounds or BOUNDS)]
        policy = choice[number % len(choice)]
        if model.is_stopped or self.bounds not in (None, BOUNDS):
            return
        if policy.max_delay_ms is None:
            model.throttled.clear()
        if policy.bounds is None:  # what waited in bounds that are gone waits for the flush instead
            model.waiting = {
                reply: (end, SendPolicy.SYNC if strength == SendPolicy.ASYNC else strength)
                for reply, (end, strength) in model.waiting.items()
            }
        elif model.policy.bounds is None:
            model.acknowledged.clear()  # what was acknowledged without bounds is in none
        model.policy = policy
        self._judge(self.rule.policy_changed(policy, model.now_us))

    def step_duplicate(self, batch: int, send: int) -> None:
        model = self.model
        policy = SendPolicy(send)
        if self.rule.refusal(policy) is not None:
            policy = SendPolicy.TOPIC
        if model.batches:
            end_offset = model.batches[batch % len(model.batches)][0]
            self._judge(self.rule.duplicate(end_offset, policy, self._reply(end_offset, policy), model.now_us))

    def step_stop(self) -> None:
        self.model.is_stopped = True
        self._judge(self.rule.stop())

    def finish(self) -> None:
        """G13: once everything is flushed and held by a set that is large enough, nothing waits; replies went once."""
        self.step("set", 3, 9)
        for member in sorted(self.model.members - {OWN}):
            if member == Member(member.node_id, self._member(0 if member.node_id == NODES[1] else 1).incarnation):
                continue
            self.model.members -= {member}  # the older incarnation of a node that came back has left by now
        if not self.model.is_stopped:
            self._judge(self.rule.set_changed(self.model.members, None, self.model.now_us))
        self.step("flush", 0, Level.MIRROR)
        for node in (0, 1):
            self.step("held", node, 0, Level.MIRROR)
        model = self.model
        demand(not model.waiting, "G13", f"replies {sorted(model.waiting)} are lost")
        demand(model.answered == set(range(1, self.replies + 1)), "G13", "not every reply went")
        if not model.is_stopped:
            demand(model.committed == model.end, "G13", f"committed is {model.committed} of {model.end}")
            demand(self.total.bytes_now == 0, "G20", f"{self.total.bytes_now} bytes are counted as unflushed for ever")


STEPS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("append", (3, 30, 4, 2)),
    ("append", (3, 30, 4, 2)),
    ("flush", (3, 5)),
    ("held", (2, 3, 5)),
    ("held", (2, 2, 5)),
    ("wait", (6,)),
    ("duplicate", (9, 4)),
    ("set", (4, 9)),
    ("restart", (2,)),
    ("fall", (2,)),
    ("lie", (2, 5)),
    ("policy", (len(POLICIES),)),
)
"""Words of the random steps, with how many values each number may take (the first two of an append begin at 1)."""


def random_steps(rng: random.Random, length: int) -> list[tuple[str, tuple[int, ...]]]:
    """Return steps drawn from ``rng``, for what is to be found by many short runs rather than to be shrunk."""
    steps = []
    for _ in range(length):
        word, ranges = rng.choice(STEPS)
        if word in ("policy", "restart", "set") and rng.random() < 0.5:
            word, ranges = "held", (2, 2, 5)
        low = 1 if word == "append" else 0
        numbers = [rng.randrange(each) + (low if index < 2 else 0) for index, each in enumerate(ranges)]
        steps.append((word, tuple(numbers)))
    return steps
