"""First synchronisation of an empty replica while its primary serves: paced, watched, resumed, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.batch import HEADER_BYTES
from mqcore.log import partition_log_name
from mqcore.replication import SyncPace

POLICIES = {"flush": "sync", "replication": "async"}
# Long, for a busy machine: no stream is to be taken for silent here.
TIMES = {"heartbeat_ms": 500, "replica_timeout_ms": 2_000}
MESSAGES = 4000
VALUE = bytes(150)
FIRST_FRAME_BYTES_MAX = 32 * 1024


async def begin(nodes: SetOfNodes) -> None:
    """A set of a and b with a log of many small batches, whose b comes back empty."""
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")
        async with client.producer("orders", batch_messages=1, linger_ms=0) as producer:
            for _ in range(MESSAGES // 100):
                for delivery in [producer.post(VALUE) for _ in range(100)]:
                    await delivery.wait()
    await nodes.stop("b")
    (nodes.root / "b").rename(nodes.root / "lost")
    await nodes.start("b")


async def state_of_b(nodes: SetOfNodes) -> dict[str, Any]:
    (found,) = [each for each in await nodes.call("a", "replica.list") if each["name"] == "b"]
    return dict(found)


async def until_synced(nodes: SetOfNodes, at_least: int) -> dict[str, Any]:
    with trio.fail_after(120):
        while True:
            state = await state_of_b(nodes)
            if state["synced_bytes"] is not None and state["synced_bytes"] >= at_least:
                return state
            await trio.sleep(0.01)


@pytest.mark.trio  # what a rate is measured by is the time that the bytes take
async def test_a_replica_is_filled_at_the_rate_that_was_asked_for_and_goes_on_where_it_was(tmp_path: Path) -> None:
    cluster = {"sync_bytes_per_s": 1, **TIMES}
    async with set_of_nodes(tmp_path, prefix="first-sync", cluster=cluster, **POLICIES) as nodes:
        await begin(nodes)
        await nodes.call("a", "replica.add", name="b")
        slow = await until_synced(nodes, 8 * 1024)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            for _ in range(20):  # the primary serves, and what it takes in lets nothing more through
                await producer.send(b"beside")
        slow = await state_of_b(nodes)
        assert slow["synced_bytes"] < FIRST_FRAME_BYTES_MAX < slow["sync_bytes_total"]
        # The node was added: what it is sent may be changed, and is an order of this reign's.
        await nodes.call("a", "replica.add", name="b", sync_bytes_per_s=100_000)
        moving = await until_synced(nodes, 100_000)
        assert moving["sync_bytes_per_s"] > 0
        assert moving["sync_left_ms"] > 0
        await nodes.cut_off("b")
        await nodes.start("b")
        await nodes.call("a", "replica.add", name="b", sync_bytes_per_s=1 << 40)
        await nodes.until(lambda: are_level(nodes))
        roles = nodes.node("b").roles
        follower = roles.follower if roles is not None else None
        assert follower is not None
        assert follower.session is not None
        assert follower.session.bytes_received < moving["sync_bytes_total"] - 50_000, "it has begun anew"
        with trio.fail_after(120):
            while (await state_of_b(nodes))["synced_bytes"] is not None:  # noqa: ASYNC110 - only an answer shows it
                await trio.sleep(0.01)
        await nodes.until_same("a", "b")


@in_virtual_time
async def test_a_replica_is_filled_slowly_while_something_is_sent_and_fast_once_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_bytes_per_s, seconds = 100_000, 3
    monkeypatch.setattr("mqcore.replication._first_sync._BESIDE_BYTES_PER_S_MIN", slow_bytes_per_s)
    async with set_of_nodes(tmp_path, prefix="gives-way", cluster=TIMES, **POLICIES) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            await producer.send(b"before it was added")
            await nodes.call("a", "replica.add", name="b")
            for _ in range(20 * seconds):
                await producer.send(b"beside")
                await trio.sleep(0.05)
        slow = await state_of_b(nodes)
        assert 0 < slow["synced_bytes"] < slow_bytes_per_s * (seconds + 1) < slow["sync_bytes_total"]
        began = trio.current_time()
        await nodes.until(lambda: are_level(nodes))
        at_that_rate_s = (slow["sync_bytes_total"] - slow["synced_bytes"]) / slow_bytes_per_s
        assert trio.current_time() - began < at_that_rate_s / 2
        await nodes.until_same("a", "b")


@pytest.mark.parametrize(("replication", "gives_way"), [("async", True), ("sync(copies=2, level=disk)", False)])
@in_virtual_time
async def test_a_replica_that_sends_wait_for_is_filled_at_once_whatever_is_sent_to_other_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replication: str, gives_way: bool
) -> None:
    bound, asked_for = SyncPace.bytes_per_s, []

    def bytes_per_s(pace: SyncPace, asked: int | None, now: float) -> int | None:
        asked_for.append(asked)
        return bound(pace, asked, now)

    policies = {"flush": "sync", "replication": replication}
    cluster = {"coordinator": f"memory://waited-for-{gives_way}", **TIMES}
    async with set_of_nodes(tmp_path, prefix=f"waited-for-{gives_way}", cluster=cluster, **policies) as nodes:
        await begin(nodes)
        monkeypatch.setattr(SyncPace, "bytes_per_s", bytes_per_s)
        await nodes.call("a", "replica.add", name="b")
        await nodes.until_same("a", "b")
    assert all((asked is None) == gives_way for asked in asked_for)
    assert asked_for


@in_virtual_time
async def test_a_replica_that_was_filled_at_a_rate_takes_no_more_turns_of_its_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, looked, is_done = SyncPace.delay_s, 0, False

    def delay_s(pace: SyncPace, now: float) -> float:
        nonlocal looked
        looked += is_done
        return asked(pace, now) if looked < 1000 else 1.0  # or time would stand still for the test

    monkeypatch.setattr(SyncPace, "delay_s", delay_s)
    cluster = {"sync_bytes_per_s": 200_000, **TIMES}
    async with set_of_nodes(tmp_path, prefix="filled", cluster=cluster, **POLICIES) as nodes:
        await begin(nodes)
        await nodes.call("a", "replica.add", name="b")
        await nodes.until(lambda: are_level(nodes))
        is_done = True
        await trio.sleep(10)
        assert looked < 10
        await nodes.until_same("a", "b")


def are_level(nodes: SetOfNodes) -> bool:
    ends = []
    for name in "ab":
        logs = nodes.node(name).store._logs.values()
        ends.append({log.name: log.end_position for log in logs})
    return ends[0] == ends[1]


@in_virtual_time
async def test_g12_what_is_damaged_on_the_primary_is_refused_by_the_replica_and_found_on_the_primary(
    tmp_path: Path,
) -> None:
    """The primary looks at no batch that it feeds: the replica does, and says by its next report where."""
    async with set_of_nodes(tmp_path, prefix="first-sync-rot", cluster=TIMES, **POLICIES) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            topic = await client.admin.resolve_topic("orders")
        name = partition_log_name(bytes.fromhex(topic.id), 0)
        log = nodes.node("a").store._logs[name]
        found = await log.batch_of(MESSAGES // 2)
        assert found is not None
        stored = await log.read_stored(found.position, 1, log.end_position)
        damage(tmp_path / "a", bytes(stored.chunks[0][:HEADER_BYTES]))
        # Beyond what the primary looks at itself when a stream begins.
        monkey = pytest.MonkeyPatch()
        monkey.setattr("mqcore.broker._fed_log.CHECKED_BYTES", 64 * 1024)
        try:
            await nodes.call("a", "replica.add", name="b")
            await nodes.until(lambda: "log-not-fed" in nodes.kinds("a"))
        finally:
            monkey.undo()
        assert "checksum does not match" in nodes.notice("log-not-fed").text
        await nodes.until(lambda: nodes.node("b").store._logs[name].end_position == found.position)
        assert any("cannot follow" in notice.text for node, notice in nodes.notices if node == "b")


def damage(folder: Path, header: bytes) -> None:
    """Change a byte of the batch that has ``header``, where its storage keeps it."""
    for path in folder.rglob("*"):
        at = path.read_bytes().find(header) if path.is_file() else -1
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + HEADER_BYTES)
                (byte,) = file.read(1)
                file.seek(at + HEADER_BYTES)
                file.write(bytes([byte ^ 0xFF]))
            return
    raise AssertionError(f"no file below {folder} has the batch")
