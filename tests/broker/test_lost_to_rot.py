"""What rots and no node of a set has whole is given up: told, kept aside, and nothing else held up (G10, G12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from rot import damage, damage_at, damage_copies, log_of
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.batch import HEADER_BYTES
from mqcore.broker import _damage
from mqcore.errors import BatchUndecodableError

MESSAGES = 60
VALUES = [b"%04d" % number for number in range(MESSAGES)]
ASYNC: dict[str, Any] = {"flush": "sync", "replication": "async"}
SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
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


def lost_in(nodes: SetOfNodes, node: str, name: str) -> list[bool]:
    """Of each damaged range that is known to a node whether it was given up."""
    log = nodes.node(node).store._logs.get(name)
    return [] if log is None else [damage.is_given_up for damage in log.damages]


async def until_same(nodes: SetOfNodes, name: str, *names: str) -> None:
    def is_same() -> bool:
        logs = [nodes.node(each).store._logs.get(name) for each in names]
        return all(log is not None and log.end_offset == MESSAGES for log in logs)

    await nodes.until(is_same, 60)
    await nodes.until_same(*names)


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@in_virtual_time
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
        ranges = [[int(str(each.facts[key])) for key in ("first_offset", "next_offset")] for each in told]
        assert [offset for first, until in ranges for offset in range(first, until)] == [20, 21, 40]
        aside = {each["name"] for each in await nodes.call("a", "quarantine.list")}
        assert {notice.facts["quarantine"] for notice in told} <= aside, "what is left of it is kept"
        assert len(aside) == len(told)


@in_virtual_time
async def test_g10_what_rotted_on_every_member_of_an_array_before_a_replica_had_it_is_given_up_on_all(
    tmp_path: Path,
) -> None:
    for node in "ab":
        (tmp_path / node).mkdir()
    array = "raid://{dir}/one,{dir}/two?level=1&first_extent_bytes=65536"
    async with set_of_nodes(tmp_path, prefix="lost-array", cluster=TIMES, storage=array, **ASYNC) as nodes:
        name = await begin(nodes)
        await nodes.stop("b")
        await send(nodes)
        found = await log_of(nodes, "a", name).batch_of(20)
        assert found is not None
        await damage_copies(nodes, "a", log_of(nodes, "a", name), found.position, copies=2)
        await nodes.start("b")
        await nodes.until_in_sync("a")
        await until_same(nodes, name, "a", "b")
        for node in "ab":
            assert await read(nodes, node, MESSAGES - 1) == (VALUES[:20] + VALUES[21:], [(20, 21)])
        assert "raid-member-ejected" not in nodes.kinds("a")


@in_virtual_time
async def test_g10_what_rotted_on_all_nodes_with_what_opened_a_reign_keeps_no_replica_out(tmp_path: Path) -> None:
    """A replica that starts again does not know which reign wrote what follows; the others have read that before."""
    async with set_of_nodes(tmp_path, prefix="lost-opening", names="abc", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await send(nodes, VALUES[:20])
        await nodes.stop("a")
        await nodes.start("a")
        await nodes.call("a", "set.promote", old_primary_is_stopped=True)
        await nodes.until_in_sync("a")
        await send(nodes, VALUES[20:])
        await nodes.until_same("a", "b", "c")
        log = log_of(nodes, "a", name)
        opened = log.history[-1]
        incarnation = nodes.node("b").store.incarnation
        await nodes.stop("b")
        for node in "bca":  # it is found by what a has
            await damage_at(nodes, node, log, opened.start_position, HEADER_BYTES)
        await nodes.start("b")
        await nodes.until(lambda: all(lost_in(nodes, node, name) == [True] for node in "abc"), 60)
        await nodes.until_in_sync("a")
        assert log_of(nodes, "b", name).history[-1] == opened
        assert nodes.node("b").store.incarnation == incarnation, "nothing of its copy was given up"
        assert "log-diverged" not in nodes.kinds("b")
        await until_same(nodes, name, "a", "b", "c")
        assert await read(nodes, "b", MESSAGES) == (VALUES, []), "no message was in it"
        # And what stands there now says to the next one that starts which reign it was.
        await nodes.stop("c")
        await nodes.start("c")
        await nodes.until(lambda: lost_in(nodes, "c", name) == [True], 60)
        await nodes.until_in_sync("a")
        assert log_of(nodes, "c", name).history[-1] == opened


@in_virtual_time
async def test_g01_what_was_given_up_is_taken_from_a_node_that_comes_back_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_damage, "SILENT_S_MAX", 0.0)
    monkeypatch.setattr(_damage, "AGAIN_S_MAX", 5.0)
    async with set_of_nodes(tmp_path, prefix="lost-and-found", names="abc", cluster=TIMES, **ASYNC) as nodes:
        name = await begin(nodes)
        await send(nodes)
        await until_same(nodes, name, "a", "b", "c")
        whole = (await nodes.logs("c"))[name]
        await nodes.stop("c")
        for node in "ab":
            await damage(nodes, node, name, 20)
        assert await read(nodes, "a", MESSAGES - 1) == (VALUES[:20] + VALUES[21:], [(20, 21)])
        await nodes.until(lambda: "offsets-lost" in nodes.kinds("a"), 60)
        await read(nodes, "b", MESSAGES - 1)
        await nodes.until(lambda: lost_in(nodes, "b", name) == [True], 60)
        await nodes.until_same("a", "b")
        assert (await nodes.logs("b"))[name] != whole
        await nodes.start("c")
        with trio.fail_after(60):
            while await read(nodes, "a", MESSAGES - 1) != (VALUES[: MESSAGES - 1], []):  # noqa: ASYNC110 - only a read shows it
                await trio.sleep(0.01)
        await nodes.until(lambda: not log_of(nodes, "b", name).is_damaged, 60)
        await nodes.until_same("a", "b", "c")
        assert (await nodes.logs("a"))[name] == whole
        assert await read(nodes, "b", MESSAGES) == (VALUES, [])


@in_virtual_time
async def test_g01_a_batch_larger_than_one_answer_is_mended_and_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was refused as too large by the node that has it, which counted as silence."""
    monkeypatch.setattr(_damage, "SILENT_S_MAX", 0.0)
    async with set_of_nodes(tmp_path, prefix="lost-large", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        values = [bytes([number]) * 1_500_000 for number in range(3)]
        await send(nodes, values)
        await nodes.until_same("a", "b")
        whole = (await nodes.logs("b"))[name]
        await damage(nodes, "a", name, 1, at=1_000_000)
        assert await read(nodes, "a", 3) == (values, [])
        assert "offsets-lost" not in nodes.kinds("a")
        assert (await nodes.logs("a"))[name] == whole
