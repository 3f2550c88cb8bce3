"""Nodes that report flushed positions only (R2 b): what they vouch for, and when they begin and cease to."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from test_elected_set import coordinated
from virtual_time import in_virtual_time

from mqcore.abc import Link
from mqcore.broker._roles import RoleKeeper
from mqcore.broker._set_policy import may_report_flushed_only
from mqcore.errors import StorageError
from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    Level,
    NoFlush,
    NoReplication,
    SyncFlush,
    SyncReplication,
)
from mqcore.log import LogStore, PartitionLog
from mqcore.replication import CommitPolicy

DISK = "sync(copies=2, level=disk)"
PAGE_CACHE = "sync(copies=2, level=page-cache)"


@pytest.mark.parametrize(
    ("policy", "may"),
    [
        (CommitPolicy(flush=NoFlush(), replication=SyncReplication(copies=2, level=Level.DISK)), True),
        (CommitPolicy(flush=SyncFlush(), replication=SyncReplication(copies=2, level=Level.PAGE_CACHE)), False),
        (CommitPolicy(flush=SyncFlush()), True),
        (CommitPolicy(flush=SyncFlush(), replication=AsyncReplication(max_delay_ms=9, on_exceeded="report")), True),
        (CommitPolicy(flush=SyncFlush(), replication=AsyncReplication(max_delay_ms=9, on_exceeded="throttle")), False),
        (CommitPolicy(flush=AsyncFlush(max_messages=9)), False),
        (CommitPolicy(flush=AsyncFlush(max_messages=9), stable_only=True), True),
        (CommitPolicy(flush=NoFlush(), replication=NoReplication()), False),
    ],
)
def test_a_policy_that_counts_or_waits_for_what_is_not_flushed_stands_in_the_way(
    policy: CommitPolicy, may: bool
) -> None:
    class Capabilities:
        flush_level = Level.DISK

    assert may_report_flushed_only(Capabilities(), [CommitPolicy(flush=SyncFlush()), policy]) == may  # type: ignore[arg-type]


def test_a_storage_whose_flush_reaches_no_disk_has_no_flushed_positions() -> None:
    class Capabilities:
        flush_level = Level.PAGE_CACHE

    assert not may_report_flushed_only(Capabilities(), [])  # type: ignore[arg-type]


def reporting(nodes: SetOfNodes) -> set[bool]:
    return {run.node.store.flushed_only for run in nodes.runs.values()}


@in_virtual_time
async def test_a_topic_that_counts_the_page_cache_is_taken_after_the_primary_vouches_for_less_and_back_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("mixed"), flush="sync", replication=DISK) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            assert reporting(nodes) == {True}
            written, before = PartitionLog.append_control, list[bool]()

            async def watched(log: PartitionLog, batches: object) -> object:
                before.append(nodes.node("a").store.flushed_only)
                return await written(log, batches)  # type: ignore[arg-type]

            with monkeypatch.context() as patched:
                patched.setattr(PartitionLog, "append_control", watched)
                await client.admin.create_topic("quick", config={"replication": PAGE_CACHE, "flush": "none"})
            assert before
            assert not any(before)
            await nodes.until(lambda: reporting(nodes) == {False})
            async with client.producer("quick") as producer, client.producer("orders") as other:
                await producer.send(b"waits for no flush")
                await other.send(b"waits for one")
            await client.admin.delete_topic("quick")
            await nodes.until(lambda: [nodes.node(each).store.flushed_only for each in "bc"] == [True, True])
            assert not nodes.node("a").store.flushed_only  # until it reigns anew: who follows it may count on more
            async with client.producer("orders") as producer:
                await producer.send(b"goes on")


@in_virtual_time
async def test_a_node_that_vouches_for_flushed_positions_states_no_other_before_a_reign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, "ab", **coordinated("states"), flush="sync", replication=DISK) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"is flushed")
                await nodes.until_same("a", "b")
                (copy,) = nodes.node("b").roles.follower.copies.values()  # type: ignore[union-attr]
                log, flush = copy.log, LogStore.flush
                flushed = log.durable_position
                assert flushed == log.end_position

                async def hangs(store: LogStore, logs: object) -> None:
                    if store is not nodes.node("b").store:
                        await flush(store, logs)  # type: ignore[arg-type]
                    await trio.lowlevel.checkpoint()

                with monkeypatch.context() as patched:
                    patched.setattr(LogStore, "flush", hangs)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(producer.send, b"is not")
                        await nodes.until(lambda: log.end_position > flushed)
                        stated = await nodes.call("b", "set.state")
                        assert stated["tips"][log.name] == [log.last_batch[0], flushed]
                        patched.undo()
                        copy._flusher.flush_soon(copy)


@in_virtual_time
async def test_r2_a_replica_that_cannot_note_what_it_vouches_for_tells_nobody_and_leaves_no_link_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, "ab", **coordinated("unnoted"), flush="sync", replication=DISK) as nodes:
        links, closed = list[Link](), list[Link]()
        connect, note = RoleKeeper.connect, LogStore.report_flushed_only

        async def connected(keeper: RoleKeeper, urls: tuple[str, ...]) -> Link:
            link = await connect(keeper, urls)
            links.append(link)
            aclose = link.aclose

            async def closes() -> None:
                closed.append(link)
                await aclose()

            link.aclose = closes  # type: ignore[method-assign]
            return link

        failures: list[bool] = []

        async def noted(store: LogStore, flushed_only: bool) -> bool:
            if store is nodes.node("b").store and len(failures) < 3:
                failures.append(flushed_only)
                raise StorageError("cannot be noted", kind="io")
            return await note(store, flushed_only)

        monkeypatch.setattr(RoleKeeper, "connect", connected)
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        monkeypatch.setattr(LogStore, "report_flushed_only", noted)
        async with nodes.client() as client:
            await client.admin.create_topic("quick", config={"replication": PAGE_CACHE, "flush": "none"})
            await nodes.until(lambda: reporting(nodes) == {False})
            async with client.producer("quick") as producer:
                await producer.send(b"waits for no flush")
        assert failures == [False] * 3
        assert len(links) > 3
        await nodes.until(lambda: closed == links[:-1])
