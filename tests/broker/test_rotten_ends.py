"""What was written last to a log has rotted, and no other node has it: no gap is left that a replica cannot pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from rot import log_of, set_back
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.batch import HEADER_BYTES
from mqcore.errors import MqcoreError
from mqcore.log import _quarantine
from mqcore.protocol import Diverged

ASYNC: dict[str, Any] = {"flush": "sync", "replication": "async"}
MESSAGES = 60


async def send(nodes: SetOfNodes, count: int, *names: str) -> int:
    """Send messages, a batch for each; return the offset of the last one."""
    offset = -1
    async with nodes.client(*names) as client, client.producer("orders", batch_messages=1) as producer:
        with trio.fail_after(60):
            for number in range(count):
                offset = (await producer.send(b"%d" % number)).offset
    return offset


async def begin(nodes: SetOfNodes) -> str:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")
        name = f"{(await client.admin.resolve_topic('orders')).id}-0"
    await send(nodes, MESSAGES, "a")
    await nodes.until_same("a", "b")
    return name


def primary_of(nodes: SetOfNodes) -> str | None:
    return next((name for name, run in nodes.runs.items() if run.node.reign is not None), None)


async def until_level(nodes: SetOfNodes, name: str) -> None:
    """Wait until both nodes have the same log, and all of it is whole."""
    primary = primary_of(nodes)
    assert primary is not None
    await nodes.until_in_sync(primary)
    await nodes.until_same("a", "b")
    assert not any(log_of(nodes, node, name).is_damaged for node in "ab")


@in_virtual_time
async def test_g13_a_primary_whose_last_batches_rotted_and_are_nowhere_else_leaves_no_gap(tmp_path: Path) -> None:
    """It had reported them as held: the member that lost nothing reigns, and it comes back as its replica."""
    cluster = {"coordinator": "memory://rotten-end", "lease_ms": 2_000, "replica_timeout_ms": 1_000}
    async with set_of_nodes(tmp_path, prefix="rotten-end", cluster=cluster, **ASYNC) as nodes:
        name = await begin(nodes)
        incarnation = nodes.node("a").store.incarnation
        await nodes.stop("b")
        await send(nodes, 20, "a")
        await set_back(nodes, "a", name, *range(MESSAGES + 16, MESSAGES + 20))
        await nodes.start("a", "b")
        await nodes.until(lambda: primary_of(nodes) is not None, 60)
        assert await send(nodes, 5) >= MESSAGES
        await until_level(nodes, name)
        assert nodes.node("a").store.incarnation > incarnation
        (end,) = [notice for node, notice in nodes.notices if node == "a" and notice.kind == "log-end-damaged"]
        assert end.facts["log"] == name
        kept = await nodes.call("a", "quarantine.list")
        assert [each["topic_id"] + "-0" for each in kept] == [name], "once"


@in_virtual_time
async def test_r2_a_primary_whose_last_batches_rotted_waits_for_a_member_that_may_have_them(tmp_path: Path) -> None:
    """What is there may have been acknowledged: to reign without it would lose it, or leave a gap where it was."""
    cluster = {"coordinator": "memory://rotten-waits", "lease_ms": 2_000, "replica_timeout_ms": 1_000}
    keys = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
    async with set_of_nodes(tmp_path, prefix="rotten-waits", cluster=cluster, **keys) as nodes:
        name = await begin(nodes)
        await set_back(nodes, "a", name, *range(MESSAGES - 4, MESSAGES))
        await nodes.stop("b")
        await nodes.start("a")
        await nodes.until(lambda: "log-end-damaged" in nodes.kinds("a"), 60)
        with pytest.raises(MqcoreError, match="b, which may hold what nobody else does"):
            await nodes.call("a", "set.promote")
        await nodes.start("b")
        await nodes.until(lambda: primary_of(nodes) == "b", 60)
        await until_level(nodes, name)
        assert await send(nodes, 1) == MESSAGES


@in_virtual_time
async def test_r2_a_node_that_cannot_keep_aside_what_rotted_at_its_end_does_not_reign_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side files are at their limit: to write behind the rot would leave a gap, and to cut without a copy lose it."""
    cluster = {"coordinator": "memory://rotten-kept", "lease_ms": 2_000, "replica_timeout_ms": 1_000}
    keys = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
    async with set_of_nodes(tmp_path, prefix="rotten-kept", cluster=cluster, **keys) as nodes:
        name = await begin(nodes)
        await set_back(nodes, "a", name, *range(MESSAGES - 4, MESSAGES))
        await nodes.stop("b")
        monkeypatch.setattr(_quarantine, "QUARANTINES_MAX", 0)
        await nodes.start("a")
        incarnation = nodes.node("a").store.incarnation
        for _ in range(2):
            with pytest.raises(MqcoreError, match="side files are kept already"):
                await nodes.call("a", "set.promote", unclean=True)
        assert nodes.node("a").store.incarnation == incarnation, "nothing is lost yet"
        monkeypatch.undo()  # an operator has removed some
        await nodes.start("b")
        await nodes.until(lambda: primary_of(nodes) is not None and not log_of(nodes, "a", name).is_damaged, 60)
        await until_level(nodes, name)
        assert await send(nodes, 1) == MESSAGES


@in_virtual_time
async def test_g01_a_replica_cuts_nothing_by_an_answer_to_a_report_before_its_last(tmp_path: Path) -> None:
    """What opened its last reign was mended after the first report, and it has reported again since."""
    async with set_of_nodes(tmp_path, prefix="answer", **ASYNC) as nodes:
        name = await begin(nodes)
        roles = nodes.node("b").roles
        follower = roles.follower if roles is not None else None
        assert follower is not None
        session = follower.session
        assert session is not None
        (copy,) = [each for each in follower.copies.values() if each.log.name == name]
        number, end = session._number_of[copy], copy.log.end_position
        epoch = copy.log.last_batch[0]
        session._reported_reigns[number] = epoch, bytes(16)  # as it is while that has rotted
        assert session._report_of(number) is not None
        await session._part(Diverged(number, epoch, copy.log.start_position + HEADER_BYTES, copy.log.start_position))
        assert copy.log.end_position == end
        assert number in session._unreported, "it reports again"
        await session._part(Diverged(number, epoch - 1, copy.log.start_position, copy.log.start_position))
        assert copy.log.end_position == end, "nor by an answer to nothing"
