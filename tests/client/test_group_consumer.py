"""Members of consumer groups beside a broker, on virtual time: the whole way from a sync to a cursor in the log."""

from __future__ import annotations

import pytest
import trio

import mqcore
from mqcore.testing import run_beside_broker

FAST = {"session_ms": 1_000, "rebalance_ms": 5_000, "commit_interval_ms": 100}


async def produce(client, topic, count, partitions=1):
    async with client.producer(topic) as producer:
        for number in range(count):
            await producer.send(str(number).encode(), partition=number % partitions)


def beside(test, **options):
    async def main(broker):
        async with mqcore.connect(broker.urls[0]) as client:
            return await test(broker, client)

    return run_beside_broker(main, **options)


def test_one_member_reads_everything_and_the_next_one_goes_on_where_it_committed():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=3)
        await produce(client, "lines", 30, 3)
        seen = []
        async with client.consumer("lines", group="g1", start="start", **FAST) as consumer:
            while len(seen) < 30:
                seen += [message.value for message in await consumer.poll()]
            assert consumer.assignment == [0, 1, 2]
        assert sorted(map(int, seen)) == list(range(30))
        await produce(client, "lines", 3, 3)
        async with client.consumer("lines", group="g1", start="start", **FAST) as consumer:
            more = [await consumer.__anext__() for _ in range(3)]
        assert {message.offset for message in more} == {10}

    beside(main)


def test_two_members_share_and_one_that_leaves_hands_its_partitions_over():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=4)
        async with client.consumer("lines", group="g1", start="start", **FAST) as first:
            await until(lambda: len(first.assignment) == 4)
            async with client.consumer("lines", group="g1", start="start", **FAST) as second:
                await until(lambda: len(first.assignment) == len(second.assignment) == 2)
                assert not set(first.assignment) & set(second.assignment)
                (state,) = await client.groups.describe("g1")
                assert (state.settled, [each.partitions for each in state.members]) == (True, [2, 2])
            await until(lambda: len(first.assignment) == 4)

    beside(main)


async def until(condition):
    with trio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - virtual time, and what is waited for has no event of its own
            await trio.sleep(0.01)


def test_a_partition_is_not_given_on_while_a_message_of_it_is_in_hand():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=1)
        await produce(client, "lines", 2)
        async with client.consumer("lines", group="g1", start="start", member="b", **FAST) as first:
            message = await first.__anext__()
            async with client.consumer("lines", group="g1", start="start", member="a", assignor="", **FAST) as second:
                # Sticky leaves it where it is; by range it would be the first name's.
                await trio.sleep(3)
                assert second.assignment == []
        assert message.offset == 0
        async with client.consumer("lines", group="g2", start="start", member="b", assignor="range", **FAST) as first:
            assert (await first.__anext__()).offset == 0
            async with client.consumer("lines", group="g2", start="start", member="a", **FAST) as second:
                await trio.sleep(2)
                assert (first.assignment, second.assignment) == ([], [])  # being given up, and in hand
                with trio.move_on_after(0.5):
                    await first.__anext__()  # asks for more: the one in hand is handled
                await until(lambda: second.assignment == [0])
                assert (await second.__anext__()).offset == 1

    beside(main)


def test_a_member_that_hangs_loses_its_partitions_and_its_late_commit_is_fenced():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=1)
        await produce(client, "lines", 3)
        slow = {**FAST, "rebalance_ms": 500, "commit": "manual", "assignor": "range"}
        async with client.consumer("lines", group="g1", start="start", member="b", **slow) as first:
            assert (await first.__anext__()).offset == 0
            async with client.consumer("lines", group="g1", start="start", member="a", **slow) as second:
                assert [(await second.__anext__()).offset for _ in range(3)] == [0, 1, 2]
                with pytest.raises(mqcore.RejectedError, match="is not read by 'b'") as caught:
                    await first.commit()
                assert caught.value.name == "not-owner"
                assert await second.commit() == {0: (3, 1)}
        assert (await client.groups.describe("g1"))[0].partitions[0].offset == 3

    beside(main)


def test_commits_that_cannot_be_are_refused_by_name_and_change_nothing():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=2)
        await produce(client, "lines", 4, 2)
        async with client.consumer("lines", group="g1", start="start", commit="manual", **FAST) as consumer:
            await until(lambda: consumer.assignment == [0, 1])
            with pytest.raises(mqcore.RejectedError, match="partition 1 of topic 'lines' ends at 2, a cursor at 9"):
                await consumer.commit({0: (1, 1), 1: (9, 1)})
            with pytest.raises(mqcore.MqcoreError, match="not in the log's history"):
                await consumer.commit({0: (1, 7)})
            with pytest.raises(mqcore.RejectedError, match="partition 5 of topic 'lines' is not read by"):
                await consumer.commit({5: (0, 0)})
            assert (await client.groups.describe("g1"))[0].partitions[0].offset is None
            assert await consumer.commit({0: (2, 1)}) == {0: (2, 1)}
            # Back only by an operator's word, and only without members.
            assert await consumer.commit({0: (1, 1)}) == {0: (2, 1)}
            with pytest.raises(mqcore.RejectedError, match="stop them first"):
                await client.groups.reset("g1", "lines", "start")
        (moved, _) = await client.groups.reset("g1", "lines", "start")
        assert (moved.offset, moved.before) == (0, 2)

    beside(main)


def test_what_is_sent_while_nobody_reads_is_read_by_the_next_although_the_group_began_at_the_end():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=1)
        await produce(client, "lines", 5)
        async with client.consumer("lines", group="g1", start="end", **FAST) as consumer:
            await until(lambda: consumer.positions == {0: (5, 1)})
        await produce(client, "lines", 2)
        async with client.consumer("lines", group="g1", start="end", **FAST) as consumer:
            assert [(await consumer.__anext__()).offset for _ in range(2)] == [5, 6]

    beside(main)


def test_a_member_whose_block_raised_has_not_handled_what_was_in_its_hands():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=1)
        await produce(client, "lines", 5)

        async def handle_until_it_fails():
            async with client.consumer("lines", group="g1", start="start", **FAST) as consumer:
                async for message in consumer:
                    if message.offset == 3:
                        raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await handle_until_it_fails()
        async with client.consumer("lines", group="g1", **FAST) as consumer:
            assert (await consumer.__anext__()).offset == 3

    beside(main)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"assignor": "fair"}, "no assignor 'fair' is installed on this broker; installed: range, round-robin, sticky"),
        ({"session_ms": 700_000}, "a session of 700000 ms: 100 to 600000 are allowed"),
        ({"partitions": [0]}, "name a group, or partitions"),
        ({"start": "noon"}, "'noon': a position is"),
    ],
)
def test_a_member_that_cannot_be_is_refused_when_it_joins(options, says):
    async def main(broker, client):
        await client.admin.create_topic("lines")
        with pytest.raises(mqcore.MqcoreError, match=says) as caught:
            async with client.consumer("lines", group="g1", **options):
                raise AssertionError("joined")
        assert "\n" not in str(caught.value)

    beside(main)


def test_a_second_member_of_one_name_is_refused_and_the_first_goes_on():
    async def main(broker, client):
        await client.admin.create_topic("lines")
        await produce(client, "lines", 1)
        async with client.consumer("lines", group="g1", start="start", member="m", **FAST) as first:
            with pytest.raises(mqcore.RejectedError, match="has a member 'm' already") as caught:
                async with client.consumer("lines", group="g1", member="m", **FAST):
                    raise AssertionError("joined")
            assert caught.value.name == "member-in-use"
            assert (await first.__anext__()).offset == 0

    beside(main)


def test_commits_share_flushes():
    """A commit costs no flush of its own: those that come together are one append and one flush."""

    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=64)
        await produce(client, "lines", 128, 64)
        async with client.consumer("lines", group="g1", start="start", commit="manual", **FAST) as consumer:
            await until(lambda: len(consumer.assignment) == 64)
            link = consumer._link_of[0]
            before = broker.reign.groups.cursors.batches
            async with trio.open_nursery() as nursery:
                for partition in range(64):
                    entry = (partition, link.session.held[partition], 1, 1)
                    nursery.start_soon(link.commit, [entry], 10)
            assert broker.reign.groups.cursors.batches - before <= 3
        assert all(each.offset == 1 for each in (await client.groups.describe("g1"))[0].partitions)

    beside(main)


def test_limits_of_groups_members_and_cursors():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=2)
        await client.admin.create_topic("other", partitions=1)
        await produce(client, "lines", 4, 2)
        async with client.consumer("lines", group="g1", start="start", commit="manual", **FAST) as consumer:
            await until(lambda: len(consumer.assignment) == 2)
            with pytest.raises(mqcore.RejectedError, match="limit group_members_max"):
                async with client.consumer("lines", group="g1", **FAST):
                    raise AssertionError("joined")
            with pytest.raises(mqcore.RejectedError, match="limit groups_max"):
                async with client.consumer("other", group="g1", **FAST):
                    raise AssertionError("joined")
            assert await consumer.commit({0: (1, 1)}) == {0: (1, 1)}
            with pytest.raises(mqcore.RejectedError, match="limit cursors_max"):
                await consumer.commit({1: (1, 1)})

    beside(main, limits={"group_members_max": 1, "groups_max": 1, "cursors_max": 1})


def test_a_deleted_group_begins_anew():
    async def main(broker, client):
        await client.admin.create_topic("lines")
        await produce(client, "lines", 3)
        for _ in range(2):
            async with client.consumer("lines", group="g1", start="start", **FAST) as consumer:
                assert [(await consumer.__anext__()).offset for _ in range(3)] == [0, 1, 2]
            assert [each.name for each in await client.groups.list_groups()] == ["g1"]
            assert await client.groups.delete("g1") == ["lines"]
            assert await client.groups.list_groups() == []
        with pytest.raises(mqcore.RejectedError, match="no group 'g1' here"):
            await client.groups.delete("g1")

    beside(main)


def test_a_broker_that_leaves_its_reign_moves_nothing_and_loses_no_cursor():
    async def main(broker, client):
        await client.admin.create_topic("lines", partitions=4)
        await produce(client, "lines", 40, 4)
        async with (
            client.consumer("lines", group="g1", start="start", **FAST) as first,
            client.consumer("lines", group="g1", start="start", **FAST) as second,
        ):
            await until(lambda: len(first.assignment) == len(second.assignment) == 2)
            shares = first.assignment, second.assignment
            seen = []
            for consumer in (first, second):
                for _ in range(5):
                    message = await consumer.__anext__()
                    seen.append((message.partition, message.offset))
                await consumer.commit()
            broker.leave_reign()
            for consumer in (first, second):
                for _ in range(15):
                    message = await consumer.__anext__()
                    seen.append((message.partition, message.offset))
                await consumer.commit()
            assert (first.assignment, second.assignment) == shares
        assert sorted(seen) == [(partition, offset) for partition in range(4) for offset in range(10)]
        assert all(each.lag == 0 for each in (await client.groups.describe("g1"))[0].partitions)

    beside(main)
