"""Logs of a deleted topic go from every node of a set, from one that was away meanwhile too (R13, R16)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker import _follower


async def logs_of(nodes: SetOfNodes, name: str) -> list[str]:
    return await nodes.node(name).store.list_logs()


async def until_level(nodes: SetOfNodes) -> None:
    """Wait until every node has as much of the metadata log as the primary, and as many partition logs."""
    await nodes.until_in_sync("a")
    own_set = nodes.node("a").reign.set  # type: ignore[union-attr]
    assert own_set is not None
    await nodes.until(lambda: all(own_set.holds_everything(nodes.node(name).store.node_id) for name in "bc"))


async def delete_while_c_is_away(nodes: SetOfNodes) -> None:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")
        async with client.producer("orders") as producer:
            await producer.send(b"gone")
        await until_level(nodes)
        assert len(await logs_of(nodes, "c")) == 1
        await nodes.cut_off("c")
        await client.admin.delete_topic("orders")


@in_virtual_time
async def test_r16_a_node_that_was_away_when_a_topic_was_deleted_keeps_no_log_of_it_and_no_other_from_being_promoted(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", prefix="gone-away", flush="sync", replication="async") as nodes:
        await delete_while_c_is_away(nodes)
        await nodes.start("c")
        await until_level(nodes)
        follower = nodes.node("c").roles.follower  # type: ignore[union-attr]
        assert follower is not None
        await nodes.until(lambda: follower.topics.gone)
        await nodes.call("a", "set.switchover", to="b")
        with trio.fail_after(120):  # known to be gone is not removed yet
            while await logs_of(nodes, "c"):  # noqa: ASYNC110 - what a node has done is seen in its files only
                await trio.sleep(0.01)


@in_virtual_time
async def test_r13_a_node_that_ended_before_it_removed_the_logs_does_it_when_it_reigns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, "abc", prefix="gone-reigns", flush="sync", replication="async") as nodes:
        await delete_while_c_is_away(nodes)

        async def nothing(*_: object) -> None: ...

        with monkeypatch.context() as patched:
            patched.setattr(_follower, "delete_logs", nothing)
            await nodes.start("c")
            await until_level(nodes)
            await nodes.cut_off("a")
            await nodes.cut_off("b")
        assert len(await logs_of(nodes, "c")) == 1
        await nodes.call("c", "set.promote", old_primary_is_stopped=True, unclean=True)
        await nodes.until(lambda: nodes.node("c").reign is not None)
        with trio.fail_after(120):
            while await logs_of(nodes, "c"):  # noqa: ASYNC110 - what a node has done is seen in its files only
                await trio.sleep(0.01)
