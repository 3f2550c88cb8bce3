"""A log that the primary of a set cannot open: nobody joins without it, and it is fed once it opens (R6, R9, G01)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.errors import StorageError
from mqcore.log import PartitionLog
from mqcore.log._opening import LogOpener

SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}


def keep_shut(monkeypatch: pytest.MonkeyPatch, nodes: SetOfNodes, node: str, log: str) -> None:
    """Have one node fail to open one log, for as long as the patch lasts."""
    whole = LogOpener.open

    async def opens(opener: LogOpener, name: str, *args: Any, **keys: Any) -> PartitionLog:
        if name == log and str(opener._backend.url).endswith(f"/{node}"):
            raise StorageError("cannot be opened", kind="io")
        return await whole(opener, name, *args, **keys)

    monkeypatch.setattr(LogOpener, "open", opens)


def joined(nodes: SetOfNodes, primary: str, name: str) -> bool:
    reign, store = nodes.node(primary).reign, nodes.node(name).store
    assert reign is not None
    assert reign.set is not None
    return (store.node_id, store.incarnation) in reign.set.record.members


@in_virtual_time
async def test_r6_no_node_joins_while_the_primary_cannot_open_a_log_that_the_node_may_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a member without what is acknowledged, could reign next, and have the whole copies cut to its own."""
    cluster = {"coordinator": "memory://unopened", "lease_ms": 1_000, "replica_timeout_ms": 500}
    async with set_of_nodes(tmp_path, "abc", prefix="unopened", cluster=cluster, **SYNC) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            name = f"{(await client.admin.resolve_topic('orders')).id}-0"
            await nodes.stop("c")
            with trio.fail_after(60):
                async with client.producer("orders") as producer:
                    for number in range(5):
                        await producer.send(b"%d" % number)
        for each in "ab":
            await nodes.stop(each)
        with monkeypatch.context() as patched:
            keep_shut(patched, nodes, "a", name)
            await nodes.start("a")
            await nodes.until(lambda: nodes.node("a").reign is not None, 60)
            await nodes.start("c")
            own_set = nodes.node("a").reign.set  # type: ignore[union-attr]
            assert own_set is not None
            await nodes.until(lambda: own_set.holds_everything(nodes.node("c").store.node_id), 60)
            # The next change of the set takes along everybody who may join.
            with trio.fail_after(60):
                await nodes.call("a", "set.cap", copies=1)
            assert not joined(nodes, "a", "c"), "it lacks what was sent"
        await nodes.until(lambda: joined(nodes, "a", "c"), 60)  # opened without being asked for by any client
        await nodes.until_same("a", "c")


@in_virtual_time
async def test_g13_a_replica_that_could_not_open_a_log_copies_it_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary names a log once in a stream: without another one it would be short of that log for ever."""
    cluster = {"coordinator": "memory://not-copied", "lease_ms": 10_000, "replica_timeout_ms": 5_000}
    keys = {"flush": "sync", "replication": "async"}
    async with set_of_nodes(tmp_path, "ab", prefix="not-copied", cluster=cluster, **keys) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            name = f"{(await client.admin.resolve_topic('orders')).id}-0"
            await nodes.stop("b")
            async with client.producer("orders") as producer:
                await producer.send(b"while it is away")
            with monkeypatch.context() as patched:
                keep_shut(patched, nodes, "b", name)
                await nodes.start("b")
                await nodes.until(lambda: "log-not-copied" in nodes.kinds("b"), 60)
            own_set = nodes.node("a").reign.set  # type: ignore[union-attr]
            assert own_set is not None
            await nodes.until(lambda: own_set.holds_everything(nodes.node("b").store.node_id), 60)
        await nodes.until_same("a", "b")
        assert nodes.kinds("b").count("log-not-copied") == 1
