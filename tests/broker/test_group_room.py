"""Groups of a broker whose log of cursors is slow, fails or has stopped, and what is left of the reign before."""

from __future__ import annotations

import errno
from functools import partial

import pytest
import trio
from group_members import SEGMENTS, DirectMember, broker_of_groups, until

import mqcore
from mqcore.protocol import Code, Committed
from mqcore.testing import ModelDisk, run_simulation


def simulated(test):
    def run():
        run_simulation(test, ModelDisk())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def joined(broker, topic_id, name, partitions=4, **options):
    """A member that reads all partitions, and lets no sync wait."""
    member = DirectMember(broker, topic_id, name, **options)
    while len(member.reads) < partitions:
        member.sync(wait_ms=0)
        await trio.sleep(0.05)
    member.sync(wait_ms=0)
    return member


def life_of(member):
    """What the log says of how long the members of a group may read after this reign."""
    known = member.room.cursors.table.topics.get(member.key)
    return None if known is None else known.session_ms


# a log that fails


@simulated
async def test_g11_a_last_member_that_leaves_once_the_log_has_stopped_stops_nothing_else(disk):
    async with broker_of_groups(disk) as (broker, client, topic_id):
        member = await joined(broker, topic_id, "a")
        disk.fail_next_flush(path=SEGMENTS)
        answers = member.commit(0, 3)
        await until(lambda: answers)
        assert isinstance(answers[0], mqcore.MqcoreError)
        assert member.room.cursors.has_stopped
        count, write = 0, member.room.cursors.write

        def counted(record, done):
            nonlocal count
            count += 1
            assert count < 100, "the log is written to again and again"
            write(record, done)

        member.room.cursors.write = counted
        member.sync(leaves=True)
        await trio.sleep(60)
        assert not member.room.groups
        assert (await client.admin.resolve_topic("lines")).name == "lines"


@simulated
async def test_a_group_that_comes_once_the_log_has_stopped_is_given_nothing_and_told_to_ask_again(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id):
        first = await joined(broker, topic_id, "a")
        disk.fail_next_flush(path=SEGMENTS)
        answers = first.commit(0, 3)
        await until(lambda: answers)
        first.sync(leaves=True)
        # The log may say by now that there are no members: one of another reign would not wait for these.
        for group in ("g1", "g2"):
            second = DirectMember(broker, topic_id, "b", group=group)
            for _ in range(20):
                second.sync()
                await trio.sleep(1)
                assert second.reads == []
            assert Code.CURSORS_NOT_READY in second.failures
            assert Code.CURSORS_NOT_READY.retryable


@simulated
async def test_nothing_is_given_before_the_log_says_how_long_it_may_be_read_and_that_is_tried_again(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id):
        await joined(broker, topic_id, "a", group="g2")
        disk.fail_next("pwritev", errno.ENOSPC, path=SEGMENTS)
        member = DirectMember(broker, topic_id, "a")
        while life_of(member) is None:
            assert member.reads == []
            member.sync(wait_ms=0)
            await trio.sleep(0.05)
        assert set(member.failures) == {Code.CURSORS_NOT_READY}
        member.sync(wait_ms=0)
        await until(lambda: len(member.reads) == 4, seconds=5)
        assert life_of(member) == 10_000


@simulated
async def test_the_end_of_a_group_that_is_not_written_is_written_later(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id):
        member = await joined(broker, topic_id, "a")
        disk.fail_next("pwritev", errno.ENOSPC, path=SEGMENTS)
        member.sync(leaves=True)
        await trio.sleep(0.5)
        assert life_of(member) == 10_000
        await until(lambda: life_of(member) == 0)
        assert not member.room.groups


# a group that ends and one that follows it


@pytest.mark.parametrize("assignor", ["", "range"])
def test_a_member_that_comes_while_the_end_of_the_group_is_written_is_given_what_there_is(assignor):
    async def main(disk):
        async with broker_of_groups(disk) as (broker, _, topic_id):
            first = await joined(broker, topic_id, "a")
            newest = max(first.session.held.values())
            disk.stall_next("flush", 3, path=SEGMENTS)
            first.sync(leaves=True)
            await trio.sleep(1)
            second = DirectMember(broker, topic_id, "b")
            second.sync(wait_ms=0, assignor=assignor)
            second.sync(wait_ms=20_000)
            await until(lambda: len(second.reads) == 4, seconds=10)
            # What is handed out again is newer, and the next reign waits for this member as for every other.
            assert min(second.session.held.values()) > newest
            await trio.sleep(1)
            assert life_of(second) == 10_000

    run_simulation(main, ModelDisk())


@simulated
async def test_a_group_that_begins_anew_repeats_no_generation(disk):
    """A member does not follow a grant that is older than what it has given up."""
    async with broker_of_groups(disk) as (broker, _, topic_id):
        member = await joined(broker, topic_id, "a")
        for _ in range(3):
            before = max(member.session.held.values())
            await trio.sleep(30)  # silent for longer than its session
            assert not member.room.groups
            member.session.begin_anew()
            await until(lambda: not member.reads)
            while not member.reads:
                member.sync(wait_ms=0)
                await trio.sleep(0.05)
            assert min(member.session.held.values()) > before


@simulated
async def test_a_member_that_is_refused_leaves_no_group_behind(disk):
    async with broker_of_groups(disk) as (broker, client, topic_id):
        member = DirectMember(broker, topic_id, "a", session_ms=1)
        member.sync()
        assert member.failures == [Code.INVALID_REQUEST]
        assert not member.room.groups
        assert await client.groups.list_groups() == []


# what is left of the last reign


async def next_reign(broker):
    last = broker.reign
    broker.leave_reign()
    await until(lambda: broker.reign is not None and broker.reign is not last and broker.reign.groups.cursors.is_ready)


@pytest.mark.parametrize("visit", ["a short one", "a leave alone", "a member that is refused"])
def test_g16_what_a_member_of_the_last_reign_may_still_read_is_given_to_nobody_after_a_visit(visit):
    async def main(disk):
        async with broker_of_groups(disk) as (broker, _, topic_id):
            silent = await joined(broker, topic_id, "a")
            await next_reign(broker)
            visitor = DirectMember(broker, topic_id, "v", session_ms=1 if "refused" in visit else 10_000)
            if "leave" not in visit:
                visitor.sync(wait_ms=0)
            visitor.sync(leaves=True)
            await trio.sleep(1)
            other = DirectMember(broker, topic_id, "b")
            while not other.reads:
                assert life_of(silent) == 10_000
                other.sync(wait_ms=0)
                await trio.sleep(0.05)
            assert silent.reads == []
            await until(lambda: len(other.reads) == 4)

    run_simulation(main, ModelDisk())


@simulated
async def test_g16_a_visit_while_the_last_reign_is_waited_for_does_not_have_the_next_one_forget_it(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id):
        silent = await joined(broker, topic_id, "a")
        await next_reign(broker)
        visitor = DirectMember(broker, topic_id, "v")
        visitor.sync(wait_ms=0)
        visitor.sync(leaves=True)
        await trio.sleep(0.5)
        await next_reign(broker)
        other = DirectMember(broker, topic_id, "b")
        while not other.reads:
            other.sync(wait_ms=0)
            await trio.sleep(0.05)
            assert not silent.reads or not other.reads


@simulated
async def test_a_group_that_the_last_reign_had_members_of_is_neither_reset_nor_deleted_while_they_may_read(disk):
    async with broker_of_groups(disk) as (broker, client, topic_id):
        silent = await joined(broker, topic_id, "a")
        await next_reign(broker)
        for change in (partial(client.groups.delete, "g1"), partial(client.groups.reset, "g1", "lines", "start")):
            with pytest.raises(mqcore.RejectedError, match="may still read") as caught:
                await change()
            assert caught.value.code == Code.GROUP_IN_USE
        assert life_of(silent) == 10_000
        await trio.sleep(10)
        assert len(await client.groups.reset("g1", "lines", "start")) == 4
        assert await client.groups.delete("g1") == ["lines"]


@simulated
async def test_members_of_a_group_that_is_deleted_as_they_come_are_waited_for_by_the_next_reign(disk):
    async with broker_of_groups(disk) as (broker, client, topic_id):
        first = await joined(broker, topic_id, "a")
        await next_reign(broker)
        await trio.sleep(11)
        assert life_of(first) == 10_000  # its member never came back
        async with trio.open_nursery() as nursery:
            disk.stall_next("flush", 3, path=SEGMENTS)
            nursery.start_soon(client.groups.delete, "g1")
            await trio.sleep(1)
            second = DirectMember(broker, topic_id, "b")
            while not second.reads:
                second.sync(wait_ms=0)
                await trio.sleep(0.05)
        assert life_of(second) == 10_000


@simulated
async def test_a_group_of_short_sessions_is_not_held_by_a_long_one_of_this_reign(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id):
        long = await joined(broker, topic_id, "a", session_ms=600_000)
        long.sync(leaves=True)
        await until(lambda: not long.room.groups)
        short = DirectMember(broker, topic_id, "b")
        for _ in range(40):
            short.sync(wait_ms=0)
            await trio.sleep(0.05)
        assert len(short.reads) == 4


# a log that is slow


@simulated
async def test_g13_members_go_on_reading_while_the_log_holds_up_what_is_to_become_theirs(disk):
    async with broker_of_groups(disk, partitions=6) as (broker, _, topic_id), trio.open_nursery() as nursery:
        members = [DirectMember(broker, topic_id, name) for name in "abc"]
        for member in members:
            nursery.start_soon(member.stay)
        await until(lambda: all(len(member.reads) == 2 for member in members))
        a, b, c = members
        reads = {member: set(member.reads) for member in members}
        disk.stall_next("flush", 60, path=SEGMENTS)
        answers = c.commit(c.reads[0], 5)
        await trio.sleep(0.1)
        c.sync(leaves=True)
        for _ in range(50):
            await trio.sleep(1)
            assert not answers
            for member in (a, b):
                assert reads[member] <= set(member.reads), "what need not move is read no more"
        # What nothing is on its way of is given at once, the other partition when its commit is in the log.
        assert len(a.reads) + len(b.reads) == 5
        await until(lambda: len(a.reads) + len(b.reads) == 6)
        assert isinstance(answers[0], Committed)
        nursery.cancel_scope.cancel()


@simulated
async def test_g13_members_go_on_reading_while_the_log_does_not_take_a_longer_session(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id), trio.open_nursery() as nursery:
        first = await joined(broker, topic_id, "a")
        nursery.start_soon(first.stay)
        disk.stall_next("flush", 60, path=SEGMENTS)
        second = DirectMember(broker, topic_id, "b", session_ms=20_000)
        nursery.start_soon(second.stay)
        for _ in range(50):
            await trio.sleep(1)
            assert len(first.reads) >= 2
            assert second.reads == []
        await until(lambda: len(second.reads) == 2)
        assert life_of(first) == 20_000
        nursery.cancel_scope.cancel()


# topics that go


@simulated
async def test_groups_of_a_topic_that_was_deleted_count_no_more_and_who_waits_is_told(disk):
    limits = {"groups_max": 2, "cursors_max": 8}
    async with broker_of_groups(disk, limits=limits) as (broker, client, topic_id):
        member = await joined(broker, topic_id, "a")
        answers = member.commit(0, 3)
        await until(lambda: answers)
        idle = await joined(broker, topic_id, "a", group="g2")
        idle.commit(1, 3)
        idle.sync(leaves=True)
        await until(lambda: life_of(idle) == 0)
        member.sync()
        await client.admin.delete_topic("lines")
        assert member.failures == [Code.UNKNOWN_TOPIC]
        room = broker.reign.groups
        assert (room.groups, room.cursors.table.topics, room.cursors.table.count) == ({}, {}, 0)
        other = await client.admin.create_topic("other", partitions=1)
        await joined(broker, bytes.fromhex(other.id), "a", 1)
        await next_reign(broker)
        assert [key[1].hex() for key in broker.reign.groups.cursors.table.topics] == [other.id]


@simulated
async def test_commits_that_are_on_their_way_when_the_topic_is_deleted_leave_nothing(disk):
    async with broker_of_groups(disk) as (broker, client, topic_id):
        member = await joined(broker, topic_id, "a")
        disk.stall_next("flush", 3, path=SEGMENTS)
        answers = [member.commit(0, 3)]
        await trio.sleep(1)
        answers.append(member.commit(1, 3))
        await client.admin.delete_topic("lines")
        await until(lambda: all(answers))
        await trio.sleep(1)
        assert (member.room.groups, member.room.cursors.table.topics) == ({}, {})


# a lease that is over


@simulated
async def test_r11_a_sync_is_answered_once_the_lease_is_over_but_by_no_grant(disk):
    async with broker_of_groups(disk) as (broker, _, topic_id):
        first = await joined(broker, topic_id, "a")
        asked = 0

        def may_reply():
            nonlocal asked
            asked += 1
            assert asked < 1_000, "it is asked again and again, and nothing else gets a turn"
            return False

        first.room._may_reply = may_reply
        second = DirectMember(broker, topic_id, "b")
        for member in (first, second):
            member.sync()
        await trio.sleep(5)
        assert first.failures == second.failures == [Code.NOT_PRIMARY]
        assert second.reads == []
