"""Groups of a broker and its members over a network that delays, loses and repeats, by virtual clocks that differ.

What is held against them at every step: no partition is read by two members at a time, what is committed late is
fenced, every partition is read again once everything is calm, and nothing moves that need not.
"""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.groups import Grant, GroupMachine, GroupSession, MemberInUseError, MemberSync, StaleSyncError
from mqcore_assignors import RangeAssignor, RoundRobinAssignor, StickyAssignor

SESSION_US = 1_000_000
REBALANCE_US = 3_000_000
ASSIGNORS = {each.name: each for each in (RangeAssignor, RoundRobinAssignor, StickyAssignor)}


class World:
    """One group on brokers that follow each other, and members whose clocks run a little fast or slow."""

    def __init__(self, seed, assignor, partitions):
        self.random = random.Random(seed)
        self.now = 0
        self.assign = ASSIGNORS[assignor]().assign
        self.partitions = list(range(partitions))
        self.events = []
        self.order = itertools.count()
        self.machine = None
        self.epoch = 0
        self.members = {}
        self.calm = False
        self.busy = set()
        """Partitions of which something is on its way into the log."""
        self.begin_reign(first=True)

    def begin_reign(self, *, first=False):
        self.epoch += 1
        hold = 0 if first else self.now + SESSION_US
        self.machine = GroupMachine(
            self.assign, self.partitions, generation=self.epoch << 32, holds_until_us=hold, gather_us=10_000
        )
        self.parked = {}
        self.schedule(0, self.tick, self.epoch)

    def schedule(self, delay, action, *arguments):
        heapq.heappush(self.events, (self.now + delay, next(self.order), action, arguments))

    def run(self, duration):
        end = self.now + duration
        while self.events and self.events[0][0] <= end:
            self.now, _, action, arguments = heapq.heappop(self.events)
            action(*arguments)
            self.check()
        self.now = end

    def delay(self):
        if self.calm:
            return 1_000
        return self.random.choice((500, 2_000, 50_000, 400_000, 1_500_000))

    def is_lost(self):
        return not self.calm and self.random.random() < 0.1

    # the broker

    def tick(self, epoch):
        if epoch == self.epoch:
            busy = () if self.calm else self.partitions
            self.busy = {number for number in busy if self.random.random() < 0.3}
            self.advance()
            self.answer_changed()
            self.schedule(30_000, self.tick, epoch)

    def advance(self):
        before = {number: self.machine.owner_of(number) for number in self.busy}
        self.machine.advance(self.now, busy=self.busy)
        assert all(self.machine.owner_of(number) in (None, owner) for number, owner in before.items())

    def answer_changed(self):
        changed, self.machine.changed = self.machine.changed, set()
        for name in sorted(changed & self.parked.keys()):
            self.answer(name)

    def answer(self, name):
        sync, member = self.parked.pop(name)
        view = self.machine.view(name)
        granted = {number: Grant(by, 0, 0) for number, by in view.granted.items()}
        same = None if dict(view.granted) == dict(sync.held) and not sync.is_fresh else granted
        if not self.is_lost():
            self.schedule(self.delay(), member.answered, sync.sequence, view.generation, same)

    def arrive(self, sync, member):
        self.advance()
        try:
            self.machine.synced(sync, self.now)
        except StaleSyncError:
            return
        except MemberInUseError:
            return
        self.advance()
        if sync.member in self.parked:
            self.answer(sync.member)
        self.parked[sync.member] = (sync, member)
        if dict(self.machine.view(sync.member).granted) != dict(sync.held):
            self.answer(sync.member)
        else:
            self.schedule(SESSION_US // 3, self.end_wait, self.epoch, sync)
        self.answer_changed()

    def end_wait(self, epoch, sync):
        if epoch == self.epoch and self.parked.get(sync.member, (None,))[0] is sync:
            self.advance()
            if self.machine.is_member(sync.member):
                self.answer(sync.member)

    # members

    def join(self, name):
        self.members[name] = Reader(self, name)

    def check(self):
        readers = {}
        for member in self.members.values():
            for partition in member.reads():
                assert partition not in readers, f"{partition} is read by {readers[partition]} and {member.name}"
                readers[partition] = member.name
        return readers


class Reader:
    """A member: reads what its session lets it, finishes with what it has to give up after a while."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.rate = world.random.uniform(0.96, 1.04)
        self.session = GroupSession(name, name.encode().ljust(16), session_us=SESSION_US, rebalance_us=REBALANCE_US)
        self.is_stopped = self.is_gone = False
        self.sent_at = 0
        self.step()

    @property
    def clock(self):
        return int(self.world.now * self.rate)

    def reads(self):
        """What it reads at this moment: what has ended by its own clock is not asked for any more."""
        due = self.session.due_us
        if self.is_gone or due is None or self.clock >= due:
            return set()
        return self.session.held.keys() | self.session.ending.keys()

    def step(self):
        if self.is_gone:
            return
        if not self.is_stopped:
            self.session.advance(self.clock)
            for partition in list(self.session.ending):
                if self.world.calm or self.world.random.random() < 0.2:
                    self.session.finished(partition)
            if self.session.must_sync or self.clock >= self.sent_at + SESSION_US // 4:
                self.send()
        self.world.schedule(60_000, self.step)

    def send(self):
        self.sent_at = self.clock
        sync = self.session.next_sync(self.clock)
        if not self.world.is_lost():
            self.world.schedule(self.world.delay(), self.world.arrive, sync, self)

    def answered(self, sequence, generation, granted):
        if not self.is_stopped and not self.is_gone:
            self.session.advance(self.clock)
            self.session.answered(sequence, generation, granted, self.clock)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from(sorted(ASSIGNORS)), st.integers(1, 9))
def test_no_partition_has_two_readers_and_all_are_read_once_it_is_calm(seed, assignor, partitions):
    world = World(seed, assignor, partitions)
    names = [f"m{number}" for number in range(4)]
    world.join(names[0])
    for _ in range(15):
        world.run(world.random.choice((30_000, 200_000, 900_000)))
        name = world.random.choice(names)
        member = world.members.get(name)
        action = world.random.random()
        if member is None:
            world.join(name)
        elif action < 0.3:
            member.is_stopped = not member.is_stopped
        elif action < 0.4:
            world.begin_reign()
        elif action < 0.5:
            member.is_gone = True
            del world.members[name]
            names[names.index(name)] = name + "x"
    world.calm = True
    for member in world.members.values():
        member.is_stopped = False
    world.run(2 * REBALANCE_US)
    if world.members:
        assert world.check().keys() == set(range(partitions))
        assert world.machine.is_settled


def test_an_answer_to_an_earlier_sync_is_not_followed_once_a_fresh_one_was_sent():
    """The fresh one has the broker give away what the late answer grants."""
    session = GroupSession("a", b"a".ljust(16), session_us=SESSION_US, rebalance_us=REBALANCE_US)
    early, fresh = session.next_sync(0), session.next_sync(10)
    assert (early.is_fresh, fresh.is_fresh) == (True, True)
    session.answered(early.sequence, 5, {0: Grant(5, 0, 0)}, 20)
    assert session.held == {}
    session.answered(fresh.sequence, 6, {0: Grant(6, 0, 0)}, 20)
    assert session.held == {0: 6}


def member_of(name, *, held=(), seen=0, sequence=1, fresh=True, session_us=SESSION_US):
    return MemberSync(name, name.encode().ljust(16), sequence, fresh, seen, session_us, REBALANCE_US, dict(held))


def machine_of(assignor="sticky", partitions=6, **options):
    return GroupMachine(ASSIGNORS[assignor]().assign, range(partitions), generation=1 << 32, **options)


def settled(machine, names, *, now=0):
    """Have ``names`` join and take what they get, until nothing moves any more; return the owners."""
    sequence = itertools.count(1)
    for name in names:
        if name not in machine.members:
            machine.synced(member_of(name), now)
    for _ in range(20):
        machine.advance(now)
        if machine.is_settled:
            break
        for name in names:
            view = machine.view(name)
            held = view.granted
            number = 1 + next(sequence)
            machine.synced(member_of(name, held=held, seen=view.generation, sequence=number, fresh=False), now)
    assert machine.is_settled
    return {partition: machine.owner_of(partition) for partition in range(6)}


def test_a_member_that_leaves_disturbs_its_partitions_only():
    machine = machine_of()
    before = settled(machine, ["a", "b", "c"])
    machine.left("b", b"b".ljust(16), 0)
    after = settled(machine, ["a", "c"])
    assert {number for number in before if before[number] != after[number]} == {
        number for number, owner in before.items() if owner == "b"
    }


def test_a_member_that_comes_gets_its_share_and_nothing_else_moves():
    machine = machine_of()
    before = settled(machine, ["a", "b"])
    machine.synced(member_of("c"), 0)
    machine.advance(0)
    # Nothing is given before it is given up.
    assert machine.view("c").granted == {}
    machine.synced(member_of("a", held=machine.view("a").granted, seen=1 << 40, sequence=50, fresh=False), 0)
    machine.synced(member_of("b", held=machine.view("b").granted, seen=1 << 40, sequence=50, fresh=False), 0)
    machine.advance(0)
    moved = {number for number in before if machine.owner_of(number) != before[number]}
    assert machine.is_settled
    assert len(moved) == 2
    assert {machine.owner_of(number) for number in moved} == {"c"}


def test_a_commit_under_the_grant_of_an_earlier_owner_is_fenced():
    machine = machine_of(partitions=1)
    machine.synced(member_of("a"), 0)
    machine.advance(0)
    generation = machine.view("a").granted[0]
    assert machine.may_commit("a", b"a".ljust(16), 0, generation)
    machine.synced(member_of("b"), SESSION_US // 2)
    machine.advance(SESSION_US)
    assert machine.owner_of(0) == "b"
    assert not machine.may_commit("a", b"a".ljust(16), 0, generation)
    machine.left("b", b"b".ljust(16), SESSION_US)
    machine.synced(member_of("a", sequence=2), SESSION_US)
    machine.advance(SESSION_US)
    assert machine.owner_of(0) == "a"
    assert not machine.may_commit("a", b"a".ljust(16), 0, generation)


def test_a_stopped_member_loses_what_it_has_when_its_session_is_over_and_not_before():
    machine = machine_of(partitions=2)
    machine.synced(member_of("a"), 0)
    machine.synced(member_of("b"), 0)
    machine.advance(0)
    number = next(each for each in (0, 1) if machine.owner_of(each) == "a")
    machine.synced(member_of("b", held=machine.view("b").granted, sequence=2, fresh=False), SESSION_US - 1)
    machine.advance(SESSION_US - 1)
    assert machine.owner_of(number) == "a"
    machine.advance(SESSION_US)
    machine.advance(SESSION_US)
    assert machine.owner_of(number) == "b"


def test_a_member_that_does_not_give_up_is_put_out_when_its_time_to_is_over():
    machine = machine_of(partitions=2)
    machine.synced(member_of("a", session_us=10 * REBALANCE_US), 0)
    machine.advance(0)
    machine.synced(member_of("b", session_us=10 * REBALANCE_US), 0)
    machine.advance(0)
    machine.advance(REBALANCE_US - 1)
    assert machine.view("b").granted == {}
    machine.advance(REBALANCE_US)
    machine.advance(REBALANCE_US)
    assert machine.members == ["b"]
    assert machine.view("b").granted.keys() == {0, 1}


def test_two_members_of_one_name_the_second_is_refused_until_the_first_is_gone():
    machine = machine_of()
    machine.synced(member_of("a"), 0, "first")
    other = member_of("a")._replace(token=b"another".ljust(16))
    with pytest.raises(MemberInUseError) as caught:
        machine.synced(other, SESSION_US - 1)
    assert (caught.value.client, caught.value.heard_us) == ("first", SESSION_US - 1)
    machine.synced(other, SESSION_US)
    assert machine.members == ["a"]


def test_a_sync_that_was_overtaken_changes_nothing():
    machine = machine_of()
    settled(machine, ["a"])
    with pytest.raises(StaleSyncError):
        machine.synced(member_of("a", sequence=1), 0)
    assert len(machine.view("a").granted) == 6


def test_what_is_claimed_in_the_next_reign_stays_and_the_rest_waits_for_the_last_session():
    machine = machine_of(holds_until_us=SESSION_US)
    machine.synced(member_of("a", held={0: 7, 1: 7}, fresh=False), 0)
    machine.synced(member_of("b", held={1: 9, 2: 9}, fresh=False), 0)
    machine.synced(member_of("c"), 0)
    machine.advance(SESSION_US - 1)
    # The later grant is the true one: who had the earlier one has ended its session before that was made.
    assert [machine.owner_of(number) for number in range(4)] == ["a", "b", "b", None]
    assert machine.view("b").granted == {1: 9, 2: 9}
    for name in "abc":
        held = machine.view(name).granted
        machine.synced(member_of(name, held=held, sequence=2, fresh=False), SESSION_US - 1)
    machine.advance(SESSION_US)
    machine.advance(SESSION_US)
    assert {machine.owner_of(number) for number in range(6)} == {"a", "b", "c"}
    assert machine.owner_of(0) == "a"


def test_a_claim_counts_although_an_older_sync_of_the_member_came_first():
    machine = machine_of(holds_until_us=SESSION_US)
    machine.synced(member_of("a", sequence=1), 0)
    machine.synced(member_of("a", held={0: 7}, sequence=5, fresh=False), 10)
    machine.synced(member_of("b"), 20)
    machine.advance(SESSION_US - 1)
    assert machine.view("a").granted == {0: 7}


def test_a_claim_of_a_grant_of_this_reign_or_after_the_wait_is_not_followed():
    machine = machine_of(holds_until_us=SESSION_US)
    machine.synced(member_of("a", held={0: (1 << 32) + 5}, fresh=False), 0)
    assert machine.owner_of(0) is None
    machine.advance(SESSION_US)
    machine.synced(member_of("b", held={0: 7}, fresh=False), SESSION_US)
    assert machine.owner_of(0) is None


@pytest.mark.parametrize(
    "wrong",
    [lambda *_: {}, lambda *_: dict.fromkeys(range(6), "nobody"), lambda *_: 1 / 0, lambda *_: {"x": "a"}],
    ids=["none", "unknown member", "raises", "unknown partition"],
)
def test_an_assignor_that_is_wrong_is_reported_and_equal_shares_take_its_place(wrong):
    said = []
    machine = GroupMachine(wrong, range(6), generation=1, complain=said.append)
    owners = settled(machine, ["a", "b"])
    assert sorted(owners.values()) == ["a"] * 3 + ["b"] * 3
    assert all(text.startswith("the assignor") for text in said)
    assert said


def test_partitions_that_are_added_get_owners():
    machine = machine_of()
    settled(machine, ["a", "b"])
    machine.partitions_changed(range(9), 0)
    machine.advance(0)
    assert all(machine.owner_of(number) is not None for number in range(9))


def test_nothing_is_given_that_is_busy_and_nothing_to_a_member_of_a_session_that_is_too_long():
    machine = machine_of(partitions=4)
    machine.synced(member_of("a"), 0)
    machine.synced(member_of("b", session_us=2 * SESSION_US), 0)
    machine.advance(0, busy={0, 1, 2}, session_us_max=SESSION_US)
    given_to = [machine.owner_of(number) for number in range(4)]
    assert given_to.count(None) >= 3
    assert "b" not in given_to
    assert not machine.is_settled
    machine.advance(0, busy={0}, session_us_max=2 * SESSION_US)
    assert machine.owner_of(0) is None
    assert None not in [machine.owner_of(number) for number in range(1, 4)]
    # What is given already stays, whatever is on its way.
    machine.advance(0, busy=range(4), session_us_max=0)
    assert None not in [machine.owner_of(number) for number in range(1, 4)]


def test_a_member_that_comes_again_is_not_said_to_be_gone():
    machine = machine_of()
    settled(machine, ["a", "b"])
    machine.expire(SESSION_US)
    assert (machine.gone, machine.is_empty, machine.session_us_max) == ({"a", "b"}, True, 0)
    machine.synced(member_of("a", session_us=5), SESSION_US)
    assert (machine.gone, machine.session_us_max) == ({"b"}, 5)


def test_machines_that_share_their_generations_give_none_twice():
    generations = itertools.count((1 << 32) + 1)
    given = []
    for _ in range(3):
        machine = machine_of(generations=generations)
        settled(machine, ["a"])
        given.append(set(machine.view("a").granted.values()))
    assert len(set().union(*given)) == sum(map(len, given)) == 3
