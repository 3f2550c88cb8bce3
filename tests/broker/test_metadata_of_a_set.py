"""What the metadata log of a set waits for, so that a topic that was acknowledged outlives its primary (R13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from test_elected_set import coordinated, primary_of
from virtual_time import in_virtual_time

from mqcore.broker._coordinated_record import CoordinatedAuthority
from mqcore.broker._feeder import Feeder
from mqcore.client import Client
from mqcore.replication import Member, SetRecord

TWO_COPIES: dict[str, Any] = {"replication": "sync(copies=2, level=disk)"}


async def is_acknowledged(client: Client, seconds: float, config: dict[str, Any] | None = None) -> bool:
    with trio.move_on_after(seconds):
        await client.admin.create_topic("orders", config=config)
        return True
    return False


def without_data(patched: pytest.MonkeyPatch) -> None:
    """Let replicas be here, and get nothing of any log."""

    async def nothing(self: Feeder, *_: object) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    patched.setattr(Feeder, "_add_data", nothing)


@in_virtual_time
@pytest.mark.parametrize("default", ["none", "sync(copies=2, level=disk)"])
async def test_r13_a_topic_is_not_acknowledged_while_a_member_has_not_got_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str
) -> None:
    """Also in the first moments, before the coordinator's record says how many copies the topics ask for."""
    cluster = coordinated("r13-members", replica_timeout_ms=60_000)
    async with set_of_nodes(tmp_path, "abc", **cluster, flush="sync", replication=default) as nodes:

        async def never(self: CoordinatedAuthority, record: SetRecord) -> SetRecord:
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(CoordinatedAuthority, "change", never)
        without_data(monkeypatch)
        await nodes.start()
        await nodes.init("a")
        async with nodes.client("a") as client:
            assert not await is_acknowledged(client, 0.5)


@in_virtual_time
async def test_r13_a_topic_that_a_set_of_one_acknowledged_is_on_whichever_node_joins(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("r13-joins"), flush="sync") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        for name in "bc":
            await nodes.cut_off(name)
        async with nodes.client("a") as client:
            assert await is_acknowledged(client, 10)
        assert len(members(nodes)) == 1
        await nodes.start("b")
        await nodes.until(lambda: len(members(nodes)) == 2)
        await nodes.cut_off("a")
        await nodes.until(lambda: primary_of(nodes) is not None)
        async with nodes.client("b") as client:
            assert [topic.name for topic in await client.admin.list_topics()] == ["orders"]


def members(nodes: SetOfNodes) -> frozenset[Member]:
    reign = nodes.node("a").reign
    assert reign is not None
    assert reign.set is not None
    return reign.set.record.members


@in_virtual_time
async def test_r13_by_hand_the_first_topic_that_wants_copies_waits_for_a_copy_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, prefix="r13-hand", flush="sync") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        without_data(monkeypatch)
        async with nodes.client("a") as client:
            await client.admin.create_topic("wants-none")
            assert not await is_acknowledged(client, 0.5, TWO_COPIES)
