"""R12: the name of a producer goes on over failovers and over sets; an old epoch is refused by every primary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from sets import set_of_nodes
from several_sets import three_sets
from virtual_time import in_virtual_time

from mqcore.client import Client
from mqcore.errors import ProducerFencedError, RejectedError

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}


@in_virtual_time
async def test_r12_over_two_failovers_an_old_epoch_is_refused_and_the_next_process_goes_on_exactly(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, prefix="names-", **SYNC) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client, nodes.client() as other:
            await client.admin.create_topic("t", partitions=2)
            async with client.producer("t", name="n") as first:
                with trio.fail_after(120):
                    for number in range(3):
                        await first.send(b"%d" % number, partition=0)
                    await move(nodes, "a", "b")
                    await first.send(b"3", partition=0)  # the name is still its own
                    async with other.producer("t", name="n") as second:
                        assert (second.epoch, dict(second.last)) == (2, {0: 3})
                        await second.send(b"4", partition=0)
                        await move(nodes, "b", "a")
                        for partition in (0, 1):
                            with pytest.raises(ProducerFencedError, match=r"'n'.*epoch 2"):
                                await first.send(b"late", partition=partition)
                        receipt = await second.send(b"5", partition=0)
                        assert receipt.offset == 5
                    async with client.producer("t", name="n") as third:
                        assert (third.epoch, dict(third.last)) == (3, {0: 5})
            assert await values(client, "t", 0, 6) == [b"%d" % number for number in range(6)]


async def move(nodes: Any, old: str, new: str) -> None:
    await nodes.cut_off(old)
    await nodes.call(new, "set.promote", old_primary_is_stopped=True)
    await nodes.start(old)
    await nodes.until_in_sync(new)


async def values(client: Client, topic: str, partition: int, count: int) -> list[bytes]:
    async with client.consumer(topic, [partition], start="start") as consumer:
        with trio.fail_after(120):
            found = [bytes((await anext(consumer)).value) for _ in range(count)]
        assert (await client.admin.look_up_offset(topic, partition, "end")).offset == count
        return found


@in_virtual_time
async def test_r12_a_claim_waits_for_the_copies_that_the_set_promises(tmp_path: Path) -> None:
    """Else it is given out, lost with its primary, and the process before is served again."""
    async with set_of_nodes(tmp_path, prefix="named-", **SYNC) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            made = await client.admin.create_topic("t")
            async with client.producer("t", name="n") as first:
                await first.send(b"0")
                await nodes.cut_off("b")
                given: list[int] = []

                async def claim() -> None:
                    async with client.producer("t", name="n") as second:
                        given.append(second.epoch)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(claim)
                    reign = nodes.node("a").reign
                    assert reign is not None
                    log = reign.groups.cursors.partition
                    assert log is not None
                    await nodes.until(lambda: log.log.durable_offset > log.committed_offset)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    assert given == [], "one copy is not two"
                    assert reign.names.of_topic(bytes.fromhex(made.id)).by_name["n"].epoch == 1, "nor in force"
                    await nodes.start("b")
                assert given == [2]


@in_virtual_time
async def test_r12_all_sets_of_a_topic_know_a_name_by_one_claim(tmp_path: Path) -> None:
    async with three_sets(tmp_path, "names") as sets:
        async with sets.client("b1") as client, sets.client("c1") as other:
            made = await client.admin.create_topic("t", partitions=6)
            await sets.until(lambda: all(sets.knows(name, "t") for name in sets.nodes))
            with trio.fail_after(120):
                async with client.producer("t", name="n") as first:
                    for partition in range(6):
                        await first.send(b"0", partition=partition)
                    async with other.producer("t", name="n") as second:
                        assert (second.epoch, dict(second.last)) == (2, dict.fromkeys(range(6), 0))
                        for partition in range(6):
                            with pytest.raises(ProducerFencedError, match=r"'n'.*epoch 2"):
                                await first.send(b"late", partition=partition)
                            await second.send(b"1", partition=partition)
                assert [(each.name, each.epoch) for each in await client.producers.list_names()] == [("n", 2)]
                described = await client.producers.describe("n", "t")
                assert [(each.partition, each.last_offset) for each in described.partitions] == [
                    (partition, 1) for partition in range(6)
                ]

                # A set of others that is ahead, as after a loss in the one that gives epochs, is gone beyond.
                ahead = made.sets[made.owners[1]].name
                node = next(node for name, node in sets.nodes.items() if name.startswith(ahead))
                assert node.reign is not None
                names = node.reign.names.of_topic(bytes.fromhex(made.id))
                names.put(names.by_name["n"]._replace(epoch=9))
                async with client.producer("t", name="n") as third:
                    assert third.epoch == 10
                    await third.send(b"2", partition=1)
                assert await client.producers.delete("n", "t") == 10
                with pytest.raises(RejectedError, match="no producer 'n'"):
                    await client.producers.describe("n", "t")


@in_virtual_time
async def test_r12_a_name_that_the_set_of_partition_0_has_lost_goes_on_as_the_others_know_it(tmp_path: Path) -> None:
    """Begun anew under another id the next process would be told that nothing was stored, and store it all again."""
    async with three_sets(tmp_path, "names") as sets:
        async with sets.client("b1") as client:
            made = await client.admin.create_topic("t", partitions=6)
            await sets.until(lambda: all(sets.knows(name, "t") for name in sets.nodes))
            with trio.fail_after(120):
                async with client.producer("t", name="n") as first:
                    for partition in range(6):
                        await first.send(b"0", partition=partition)
                giver = made.sets[made.owners[0]].name
                node = next(node for name, node in sets.nodes.items() if name.startswith(giver))
                assert node.reign is not None
                names = node.reign.names.of_topic(bytes.fromhex(made.id))
                names.drop("n")  # as after a loss that the policy of a set permits
                async with client.producer("t", name="n") as second:
                    assert (second.epoch, second.producer_id) == (2, first.producer_id)
                    assert dict(second.last) == dict.fromkeys(range(6), 0)
                    assert (await second.send(b"1", partition=0)).offset == 1
