"""Readers by tag are told of what retention took and of what a set lost, as other readers are (G06)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.client import Consumer, Producer
from mqcore.errors import MessagesMissingError

TAGS = ("x", "y")


async def begin(nodes: SetOfNodes, **config: object) -> None:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders", config=config)


async def send(producer: Producer, *numbers: int) -> None:
    """Message ``n`` has the tag ``x`` if n is even, and ``y`` if it is odd."""
    with trio.fail_after(120):
        for number in numbers:
            await producer.send(b"%06d" % number + b"v" * 1000, tag=TAGS[number % 2])


async def read(consumer: Consumer, count: int) -> list[int]:
    with trio.fail_after(120):
        return [int((await anext(consumer)).value[:6]) for _ in range(count)]


async def read_into(found: list[int], consumer: Consumer) -> None:
    while len(found) < 100:
        found += await read(consumer, 1)


@in_virtual_time
async def test_g06_a_reader_by_tag_is_told_what_retention_took_and_reads_on_with_its_tag(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="tags-kept", flush="sync", replication="async") as nodes:
        await begin(nodes, retention_bytes=40_000)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            await send(producer, *range(10))
            async with client.consumer(
                "orders", start="start", tags=["y"], fetch_bytes=1, prefetch_bytes=1
            ) as consumer:
                assert await read(consumer, 1) == [1]
                await send(producer, *range(10, 100))
                reign = nodes.node("a").reign
                assert reign is not None
                await reign.retention.look()
                (start,) = {each.log.start_offset for each in reign.partitions.values()}
                assert start > 20
                found: list[int] = []
                with pytest.raises(MessagesMissingError) as caught:
                    await read_into(found, consumer)
                assert caught.value.reason == "retention"
                assert found == [*range(3, 3 + 2 * len(found), 2)], "what it had in hand"
                first = start + (start + 1) % 2
                assert await read(consumer, (100 - first + 1) // 2) == [*range(first, 100, 2)]


@in_virtual_time
async def test_g06_a_reader_by_tag_is_told_of_a_loss_of_messages_that_it_passed_over(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="tags-lost", flush="sync", replication="async") as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            async with (
                client.producer("orders") as producer,
                client.consumer("orders", start="start", tags=["x"]) as consumer,
            ):
                await send(producer, 0)
                reign = nodes.node("a").reign
                assert reign is not None
                assert reign.set is not None
                own_set, replica = reign.set, nodes.node("b").store.node_id
                await nodes.until(lambda: own_set.holds_everything(replica))
                await nodes.cut_off("b")
                await send(producer, 1, 2, 3)
                assert await read(consumer, 2) == [0, 2]
                await nodes.cut_off("a")
                await nodes.start("b")
                await nodes.call("b", "set.promote", old_primary_is_stopped=True)
                await send(producer, 4, 5, 6)
                with pytest.raises(MessagesMissingError) as caught, trio.fail_after(10):
                    await anext(consumer)
                assert (caught.value.reason, caught.value.position) == ("loss", 1)
                assert await read(consumer, 2) == [4, 6]
