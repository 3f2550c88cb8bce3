"""Topics over several sets: spread evenly, known to all of them, served by the rest while one is away (R13)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio
from several_sets import three_sets
from virtual_time import in_virtual_time

from mqcore.errors import MqcoreError, RejectedError


@in_virtual_time
async def test_r13_the_partitions_of_a_topic_are_spread_evenly_and_used_from_any_node(tmp_path: Path) -> None:
    async with three_sets(tmp_path, "spread") as sets:
        async with sets.client("b1") as client:  # which does not keep the map
            made = await client.admin.create_topic("orders", partitions=9)
            assert Counter(made.owners) == {0: 3, 1: 3, 2: 3}
            async with client.producer("orders") as producer:
                for number in range(18):
                    await producer.send(b"%d" % number, partition=number % 9)
            described = await client.admin.describe_topic("orders")
            assert [log.end_offset for log in described.logs] == [2] * 9
            async with client.consumer("orders", start="start") as consumer:
                with trio.fail_after(120):
                    found = [bytes((await anext(consumer)).value) for _ in range(18)]
            assert sorted(found, key=int) == [b"%d" % number for number in range(18)]
            assert (await client.admin.look_up_offset("orders", 8, "end")).offset == 2
        for name, node in sets.nodes.items():
            assert node.reign is not None
            topic = node.reign.topics.by_name["orders"]
            assert len(node.reign.own_partitions(topic)) == 3, name
            assert {index for _, index in node.reign.partitions} == set(node.reign.own_partitions(topic))


@in_virtual_time
async def test_row_13_a_set_that_is_away_leaves_the_rest_serving_and_its_messages_wait_for_it(tmp_path: Path) -> None:
    async with three_sets(tmp_path, "away") as sets:
        async with sets.client("a1") as client:
            made = await client.admin.create_topic("orders", partitions=3)
            names = [made.sets[owner].name for owner in made.owners]
            lost = names.index("c")
            async with client.producer("orders") as producer:
                await producer.send(b"before", partition=lost)
                await sets.stop("c1")
                with trio.fail_after(120):
                    for partition in {0, 1, 2} - {lost}:
                        await producer.send(b"rest", partition=partition)
                waiting = producer.post(b"after", partition=lost)
                await sets.start("c1")
                with trio.fail_after(120):
                    await waiting.wait()
            async with client.consumer("orders", [lost], start="start") as consumer:
                with trio.fail_after(120):
                    assert [bytes((await anext(consumer)).value) for _ in range(2)] == [b"before", b"after"]


@in_virtual_time
async def test_r13_what_a_set_missed_while_it_was_away_it_is_told_later(tmp_path: Path) -> None:
    async with three_sets(tmp_path, "missed") as sets:
        async with sets.client("a1") as client:
            await client.admin.create_topic("gone")
            await client.admin.create_topic("grown")
            await sets.until(lambda: sets.knows("c1", "grown"))
            await sets.stop("c1")
            await client.admin.create_topic("new", partitions=3, config={"visible": "stable"})
            await client.admin.delete_topic("gone")
            await client.admin.alter_topic("grown", partitions=5)
            await sets.stop("a1")  # and what it had still to tell is not in its memory any more
            await sets.start("a1", "c1")
            await sets.until(lambda: sets.knows("c1", "new") and not sets.knows("c1", "gone"))
            reign = sets.nodes["c1"].reign
            assert reign is not None
            await sets.until(lambda: reign.topics.by_name["grown"].partitions == 5)
            assert reign.topics.by_name["new"].config.visible == "stable"


@in_virtual_time
async def test_r13_topics_are_changed_by_the_set_that_keeps_the_map_whoever_is_asked(tmp_path: Path) -> None:
    async with three_sets(tmp_path, "map") as sets:
        async with sets.client("c1") as client:
            await client.admin.create_topic("orders", partitions=2)
            with pytest.raises(RejectedError, match="exists already"):
                await client.admin.create_topic("orders")
            assert (await client.admin.alter_topic("orders", partitions=6)).partitions == 6
            assert all(sets.knows(name, "orders") for name in sets.nodes)
            await client.admin.delete_topic("orders")
            assert not any(sets.knows(name, "orders") for name in sets.nodes)
        async with sets.client("b1") as client, sets.client("c1") as other:
            await sets.stop("a1")
            for each in (client, other):
                with trio.move_on_after(0.5), pytest.raises(MqcoreError):
                    await each.admin.create_topic("late")
            assert not sets.knows("b1", "late")


def test_topics_of_one_partition_are_spread_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with three_sets(tmp_path, "many") as sets, sets.client("a1") as client:
            owners = Counter()
            for number in range(24):
                made = await client.admin.create_topic(f"t{number}")
                owners[made.sets[made.owners[0]].name] += 1
            assert set(owners) == {"a", "b", "c"}

    trio.run(main)
