"""A primary on which a flush failed leaves the set to a member that is whole, where one can go on (G11, G13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._follow_session import FollowSession
from mqcore.broker._roles import Reigning
from mqcore.errors import FlushFailedError, RemoteProtocolError

SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}


def coordinated(name: str, **keys: Any) -> dict[str, Any]:
    return {"prefix": name, "cluster": {"coordinator": f"memory://{name}", **keys}}


async def begin(nodes: SetOfNodes) -> None:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client() as client:
        await client.admin.create_topic("orders")
        async with client.producer("orders") as producer:
            await producer.send(b"before")


def fail_a_flush(nodes: SetOfNodes, name: str) -> None:
    """As the storage of the node tells it of the log of the topic."""
    store = nodes.node(name).store
    (log,) = [each for each in store._logs if each.endswith("-0") and len(each) == 34]
    store.stop(FlushFailedError("a flush failed: restart, so that the device is read again", logs=[log]))


def primary_of(nodes: SetOfNodes) -> str | None:
    return next((name for name, run in nodes.runs.items() if run.node.reign is not None), None)


@in_virtual_time
async def test_g13_a_primary_whose_flush_failed_leaves_the_set_to_a_member_that_is_whole(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("gives-way"), **SYNC) as nodes:
        await begin(nodes)
        fail_a_flush(nodes, "a")
        await nodes.until(lambda: primary_of(nodes) in ("b", "c"))
        async with nodes.client() as client, client.producer("orders") as producer:
            with trio.fail_after(30):
                receipt = await producer.send(b"after")
            assert receipt.epoch == 2
            async with client.consumer("orders", start="start") as consumer:
                assert [bytes((await anext(consumer)).value) for _ in range(2)] == [b"before", b"after"]
        assert "a flush failed" in nodes.notice("role-failed").text


@in_virtual_time
async def test_a_primary_whose_flush_failed_reigns_on_where_no_other_can(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("alone"), **SYNC) as nodes:
        await begin(nodes)
        await nodes.cut_off("b")
        await nodes.cut_off("c")
        await nodes.until(lambda: not nodes.node("a").roles.has_successor)  # type: ignore[union-attr]
        fail_a_flush(nodes, "a")
        await trio.sleep(60)
        assert isinstance(nodes.node("a").roles.role, Reigning)  # type: ignore[union-attr]


@in_virtual_time
async def test_g13_a_primary_whose_flush_failed_gives_way_once_another_can_go_on(tmp_path: Path) -> None:
    """As one that was promoted a moment ago: its replicas are on their way to it."""
    async with set_of_nodes(tmp_path, "abc", **coordinated("later"), **SYNC) as nodes:
        await begin(nodes)
        await nodes.cut_off("b")
        await nodes.cut_off("c")
        await nodes.until(lambda: not nodes.node("a").roles.has_successor)  # type: ignore[union-attr]
        fail_a_flush(nodes, "a")
        await trio.sleep(10)
        assert primary_of(nodes) == "a"
        await nodes.start("b", "c")
        await nodes.until(lambda: primary_of(nodes) in ("b", "c"))


@pytest.mark.parametrize(
    "cluster", [{"coordinator": "manual"}, {"failover": "manual"}], ids=["no coordinator", "by hand"]
)
@in_virtual_time
async def test_where_an_operator_decides_who_reigns_it_reigns_on(tmp_path: Path, cluster: dict[str, Any]) -> None:
    keys = coordinated("by-hand")
    async with set_of_nodes(tmp_path, "abc", **{**keys, "cluster": {**keys["cluster"], **cluster}}, **SYNC) as nodes:
        await begin(nodes)
        fail_a_flush(nodes, "a")
        await trio.sleep(60)
        assert isinstance(nodes.node("a").roles.role, Reigning)  # type: ignore[union-attr]


@in_virtual_time
async def test_a_second_flush_that_fails_hands_it_to_the_third_and_no_node_takes_what_it_gave_up(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("twice"), **SYNC) as nodes:
        await begin(nodes)
        fail_a_flush(nodes, "a")
        await nodes.until(lambda: primary_of(nodes) in ("b", "c"))
        second = primary_of(nodes)
        assert second is not None
        third = "c" if second == "b" else "b"
        await nodes.until(lambda: nodes.node(second).roles.has_successor)  # type: ignore[union-attr]
        async with nodes.client() as client, client.producer("orders") as producer:
            with trio.fail_after(30):
                await producer.send(b"between")
        fail_a_flush(nodes, second)
        await nodes.until(lambda: primary_of(nodes) == third)
        await trio.sleep(60)
        assert primary_of(nodes) == third


@in_virtual_time
async def test_a_replica_of_which_a_copy_has_stopped_says_so_while_it_follows_with_the_others(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("copy"), **SYNC) as nodes:
        await begin(nodes)
        fail_a_flush(nodes, "b")
        async with nodes.client() as client, client.producer("orders") as producer:
            await producer.send(b"after")
        await nodes.until(lambda: nodes.node("b").roles.follower.trouble)  # type: ignore[union-attr]
        why = (await nodes.call("b", "set.describe"))["why"]
        assert why.startswith("a log is not copied any more: ")
        assert "restart" in why
        assert (await nodes.call("c", "set.describe"))["why"] == ""


@in_virtual_time
async def test_what_ends_each_session_as_it_begins_is_not_tried_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the log of the primary has stopped, and a replica has more of it: two lines of its log each time."""
    async with set_of_nodes(tmp_path, "abc", **coordinated("again"), **SYNC) as nodes:
        await begin(nodes)
        sessions: list[float] = []
        run = FollowSession.run

        async def ends(session: FollowSession) -> None:
            if session._store is not nodes.node("b").store:
                return await run(session)
            session.confirmed_at = trio.current_time()
            sessions.append(session.confirmed_at)
            raise RemoteProtocolError("the primary refuses the end of log x")

        monkeypatch.setattr(FollowSession, "run", ends)
        await nodes.cut_off("b")
        await nodes.start("b")
        await trio.sleep(60)
        assert 20 < len(sessions) < 80
