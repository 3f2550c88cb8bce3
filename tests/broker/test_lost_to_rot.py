"""What rots and no node of a set has whole is given up: told, kept aside, and nothing else held up (G10, G12)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from rot import damage
from sets import SetOfNodes, set_of_nodes

from mqcore.batch import HEADER_BYTES
from mqcore.errors import BatchUndecodableError

MESSAGES = 60
VALUES = [b"%04d" % number for number in range(MESSAGES)]
ASYNC = {"flush": "sync", "replication": "async"}
SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
# Long, for a busy machine: no lease is to end by itself here.
TIMES = {"lease_ms": 30_000, "replica_timeout_ms": 2_000, "heartbeat_ms": 100}


async def send(nodes: SetOfNodes, values: list[bytes] = VALUES) -> None:
    """Send a batch for each message."""
    async with nodes.client("a") as client, client.producer("orders", batch_messages=1) as producer:
        for value in values:
            await producer.send(value)


async def begin(nodes: SetOfNodes) -> str:
    """A set that "a" reigns in, and a topic that is empty; return the name of its log."""
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")
        return f"{(await client.admin.resolve_topic('orders')).id}-0"


async def read(nodes: SetOfNodes, node: str, count: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Read so many messages from the start; return them, and the ranges that were told to be damaged."""
    found: list[bytes] = []
    lost: list[tuple[int, int]] = []
    with trio.fail_after(60):
        async with nodes.client(node) as client, client.consumer("orders", start="start", read_from="any") as consumer:
            while len(found) < count:
                try:
                    found.append(bytes((await anext(consumer)).value))
                except BatchUndecodableError as error:
                    lost.append((error.first_offset, error.next_offset))
    return found, lost


async def until_same(nodes: SetOfNodes, name: str, *names: str) -> None:
    def is_same() -> bool:
        logs = [nodes.node(each).store._logs.get(name) for each in names]
        return all(log is not None and log.end_offset == MESSAGES for log in logs)

    await nodes.until(is_same, 60)
    await nodes.until_same(*names)


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@pytest.mark.trio
async def test_g10_what_rotted_before_a_replica_had_it_is_told_as_lost_and_what_follows_is_copied(
    tmp_path: Path, at: int
) -> None:
    async with set_of_nodes(tmp_path, prefix=f"lost-async-{at}", cluster=TIMES, **ASYNC) as nodes:
        name = await begin(nodes)
        await nodes.stop("b")
        await send(nodes)
        await damage(nodes, "a", name, 20, at=at)
        await damage(nodes, "a", name, 21, at=at)
        await damage(nodes, "a", name, 40, at=at)
        await nodes.start("b")
        await nodes.until_in_sync("a")
        await until_same(nodes, name, "a", "b")
        for node in "ab":
            found, lost = await read(nodes, node, MESSAGES - 3)
            assert found == VALUES[:20] + VALUES[22:40] + VALUES[41:]
            assert [offset for first, until in lost for offset in range(first, until)] == [20, 21, 40]
        told = [notice for _, notice in nodes.notices if notice.kind == "offsets-lost"]
        ranges = [(notice.facts["first_offset"], notice.facts["next_offset"]) for notice in told]
        assert [offset for first, until in ranges for offset in range(first, until)] == [20, 21, 40]
        aside = {each["name"] for each in await nodes.call("a", "quarantine.list")}
        assert {notice.facts["quarantine"] for notice in told} <= aside, "what is left of it is kept"
        assert len(aside) == len(told)
