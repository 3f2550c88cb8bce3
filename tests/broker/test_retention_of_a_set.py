"""Retention in a set: replicas follow the primary's trims, and one that lacks what is gone begins anew (R15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time, node_ports

from mqcore.abc import StorageContext
from mqcore.broker._feeder import Feeder
from mqcore.limits import Limits
from mqcore.log import LogFinding, PartitionLog, verify_storage
from mqcore.registry import create_storage

SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
KEPT = 40_000


async def begin(nodes: SetOfNodes, *names: str) -> None:
    await nodes.start(*names)
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client(*nodes.runs) as client:
        await client.admin.create_topic("orders", config={"retention_bytes": KEPT})


async def send(nodes: SetOfNodes, first: int, count: int) -> None:
    async with nodes.client(*nodes.runs) as client, client.producer("orders") as producer:
        for number in range(first, first + count):
            await producer.send(b"%06d" % number + b"v" * 1000)


async def trim(nodes: SetOfNodes, name: str = "a") -> int:
    reign = nodes.node(name).reign
    assert reign is not None
    await reign.retention.look()
    return log_of(nodes, name).start_offset


def log_of(nodes: SetOfNodes, name: str) -> PartitionLog:
    (log,) = (log for each, log in nodes.node(name).store._logs.items() if each != "metadata")
    return log


def are_level(nodes: SetOfNodes, names: str) -> bool:
    if any(len(nodes.node(name).store._logs) < 2 for name in names):
        return False
    first, *others = (log_of(nodes, name) for name in names)
    return all((each.end, each.start_offset) == (first.end, first.start_offset) for each in others)


async def check_same(nodes: SetOfNodes, count: int, names: str = "ab") -> None:
    """Every node has the same bytes at the same positions and offsets, and all that is kept is read."""
    await nodes.until(lambda: are_level(nodes, names))
    first, *others = (log_of(nodes, name) for name in names)
    for other in others:
        assert other.start_position == first.start_position
        assert [each.number for each in other.history][-1] == [each.number for each in first.history][-1]
    stored = [(await nodes.logs(name))[first.name] for name in names]
    assert all(each == stored[0] for each in stored)
    async with nodes.client(*nodes.runs) as client, client.consumer("orders", start="start") as consumer:
        with trio.fail_after(120):
            found = [bytes((await anext(consumer)).value)[:6] for _ in range(count - first.start_offset)]
    assert found == [b"%06d" % number for number in range(first.start_offset, count)]


async def findings_in(folder: Path) -> list[LogFinding]:
    backend = create_storage(f"mmap://{folder}", StorageContext(ports=node_ports()), {})
    return [finding async for finding in verify_storage(backend, limits=Limits())]


async def verify(folder: Path) -> None:
    found = await findings_in(folder)
    assert {each.state for each in found} == {"whole"}, found
    assert "base" in {each.kind for each in found}


@in_virtual_time
async def test_r15_replicas_trim_where_the_primary_has_and_a_new_primary_goes_on_from_there(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="ret", **SYNC) as nodes:
        await begin(nodes)
        await send(nodes, 0, 100)
        start = await trim(nodes)
        assert start > 0
        await check_same(nodes, 100)
        await nodes.cut_off("a")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        assert log_of(nodes, "b").start_offset == start
        await nodes.start("a")
        await send(nodes, 100, 50)
        assert await trim(nodes, "b") > start
        await check_same(nodes, 150)


@in_virtual_time
async def test_r15_a_replica_that_was_away_for_too_long_begins_anew_and_keeps_what_it_had_aside(tmp_path: Path) -> None:
    one_copy = {"flush": "sync", "replication": "async"}
    async with set_of_nodes(tmp_path, prefix="ret-away", **one_copy) as nodes:
        await begin(nodes)
        await send(nodes, 0, 20)
        await nodes.until(lambda: are_level(nodes, "ab"))
        incarnation = nodes.node("b").store.incarnation
        await nodes.stop("b")
        await send(nodes, 20, 100)
        assert await trim(nodes) > 20
        await nodes.start("b")
        await nodes.until(lambda: "copy-begun-anew" in nodes.kinds("b"))
        await check_same(nodes, 120)
        assert nodes.node("b").store.incarnation > incarnation, "what it had reported as held is gone"
        assert [each["messages"] for each in await nodes.call("b", "quarantine.list")] == [20]
        await nodes.stop("b")
        await nodes.start("b")
        await send(nodes, 120, 50)
        await trim(nodes)
        await check_same(nodes, 170)
    await verify(tmp_path / "b")


@in_virtual_time
async def test_r15_an_empty_node_joins_a_set_whose_logs_were_trimmed_and_can_be_its_primary(tmp_path: Path) -> None:
    cluster = {"coordinator": "memory://ret-empty"}
    policies = {"flush": "sync", "replication": "async"}
    async with set_of_nodes(tmp_path, prefix="ret-empty", cluster=cluster, **policies) as nodes:
        await begin(nodes)
        await send(nodes, 0, 100)
        assert await trim(nodes) > 0
        await nodes.stop("b")
        (tmp_path / "b").rename(tmp_path / "lost")
        await nodes.start("b")
        await nodes.call("a", "replica.add", name="b")
        await nodes.until_in_sync("a")
        await check_same(nodes, 100)
        await nodes.call("a", "set.switchover", to="b")
        await send(nodes, 100, 60)
        assert await trim(nodes, "b") > 0
        await check_same(nodes, 160, "ba")


@in_virtual_time
async def test_r15_a_replica_that_comes_again_and_again_holds_trimming_up_as_long_as_one_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, prefix="ret-again", flush="sync", replication="async") as nodes:
        await begin(nodes)
        reign = nodes.node("a").reign
        assert reign is not None
        assert reign.set is not None
        feeders, replica = reign.set._feeders, nodes.node("b").store.node_id

        async def comes_again() -> tuple[float, float]:
            """When its copying began for the stream that is cut, and for the one that comes after it."""
            await nodes.until(lambda: replica in feeders)
            first = feeders[replica]
            first.cancel_scope.cancel()
            await nodes.until(lambda: feeders.get(replica) not in (None, first))
            return first.began_at, feeders[replica].began_at

        with monkeypatch.context() as patches:
            patches.setattr(Feeder, "is_level", False)
            before, after = await comes_again()
            assert after == before
        await nodes.until(lambda: feeders[replica].is_level)
        before, after = await comes_again()
        assert after > before, "it had got everything"
