"""Consumer groups of a replica set: a failover rewinds no cursor (R12, R13, G16) and moves no partition."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.client import GroupConsumer
from mqcore.errors import FlushFailedError

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
FAST = {"session_ms": 3_000, "commit": "manual", "start": "start", "group": "g1"}


async def begin(nodes: SetOfNodes) -> None:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders", partitions=4)
        async with client.producer("orders") as producer:
            for number in range(40):
                await producer.send(b"%d" % number, partition=number % 4)


async def read(consumer: GroupConsumer, count: int, seen: list[tuple[int, int]]) -> None:
    with trio.fail_after(120):
        for _ in range(count):
            message = await anext(consumer)
            seen.append((message.partition, message.offset))
        await consumer.commit()


@in_virtual_time
@pytest.mark.parametrize("kept_in", ["log", "file"])
async def test_g16_members_go_on_over_two_failovers_and_nothing_committed_is_read_again(
    tmp_path: Path, kept_in: str
) -> None:
    (tmp_path / "cursors").mkdir()
    place = "log" if kept_in == "log" else f"file://{tmp_path}/cursors"
    async with set_of_nodes(tmp_path, prefix=f"groups-{kept_in}-", offset_store=place, **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            async with client.consumer("orders", **FAST) as first, client.consumer("orders", **FAST) as second:
                await nodes.until(lambda: len(first.assignment) == len(second.assignment) == 2)
                shares = first.assignment, second.assignment
                seen: list[tuple[int, int]] = []
                for consumer in (first, second):
                    await read(consumer, 4, seen)
                for old, new in (("a", "b"), ("b", "a")):
                    await nodes.cut_off(old)
                    await nodes.call(new, "set.promote", old_primary_is_stopped=True)
                    await nodes.start(old)
                    for consumer in (first, second):
                        await read(consumer, 4, seen)
                    assert (first.assignment, second.assignment) == shares
                    await nodes.until_in_sync(new)
            states = await client.groups.describe("g1")
            cursors = {each.partition: each.offset for each in states[0].partitions if each.offset is not None}
            assert sum(cursors.values()) == len(seen) == 24
            # Who comes next goes on where they were, and reads the rest once.
            async with client.consumer("orders", **FAST) as third:
                await read(third, 16, seen)
        assert sorted(seen) == [(partition, offset) for partition in range(4) for offset in range(10)]
        # The end of the group is written after its last member was answered, and is with the replica after that.
        await nodes.until(lambda: (reign := nodes.node("a").reign) is not None and not reign.groups.groups)
        await nodes.until_same("a", "b")
        assert len([name for name in await nodes.logs("a") if name.startswith("0" * 31)]) == 1


@in_virtual_time
async def test_g11_a_log_of_cursors_that_stops_before_it_is_committed_is_told_as_that(tmp_path: Path) -> None:
    """Clients were told for ever that the broker is still reading cursors."""
    async with set_of_nodes(tmp_path, prefix="groups-stopped-", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client, client.consumer("orders", **FAST) as consumer:
            await read(consumer, 4, [])
        for name in "ab":
            await nodes.cut_off(name)
        await nodes.start("b")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        reign = nodes.node("b").reign
        assert reign is not None
        cursors = reign.groups.cursors
        await trio.sleep(1)
        assert not cursors.is_ready, "the other member has not said that it holds them"
        assert cursors.partition is not None
        cursors.partition.stop(FlushFailedError("the device failed", logs=[cursors.partition.log.name]))
        await nodes.until(lambda: "cursors-not-read" in nodes.kinds("b"))
        assert "the device failed" in cursors.why_not_served
