"""By hand the record of the set is a batch of the metadata log: on a full disk it waits for room, not for ever (R7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._roles import Reigning
from mqcore.client import Client
from mqcore.errors import CommandNotPossibleError, RejectedError, StorageError
from mqcore.log import METADATA_NAME, IncomingBatch, PartitionLog
from mqcore.testing import ModelDisk, model_ports, seeded

STORAGE = "mmap:///data?segment_bytes=64KiB&first_extent_bytes=4KiB&extent_bytes_max=4KiB&journal_bytes=64KiB"
SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}


@asynccontextmanager
async def set_on_disks(tmp_path: Path, prefix: str) -> AsyncIterator[tuple[SetOfNodes, dict[str, ModelDisk]]]:
    """Three nodes that have not begun, each on a disk of its own."""
    disks = {name: ModelDisk(seeded(number, "disk")) for number, name in enumerate("abc")}
    order = iter(enumerate(disks.values()))
    async with set_of_nodes(
        tmp_path, "abc", prefix=prefix, ports=lambda: model_ports(*next(order)), storage=STORAGE, **SYNC
    ) as nodes:
        await nodes.start()
        yield nodes, disks


async def fill(client: Client, disk: ModelDisk) -> None:
    """Let ``disk`` have no room, not even for a record in the metadata log."""
    disk.bytes_max = disk.used_bytes
    for number in range(1_000):
        try:
            await client.admin.alter_topic("orders", config={"retention_ms": 1_000_000 + number})
        except RejectedError as error:
            assert "space" in str(error)
            return
    raise AssertionError("it takes every record")


def members(nodes: SetOfNodes) -> int:
    reign = nodes.node("a").reign
    assert reign is not None
    assert reign.set is not None
    return len(reign.set.record.members)


@in_virtual_time
async def test_r16_an_order_on_a_full_disk_is_carried_out_once_there_is_room(tmp_path: Path) -> None:
    async with set_on_disks(tmp_path, "full-order") as (nodes, disks):
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            await fill(client, disks["a"])
            told = nodes.kinds("a").count("set-changes")
            await nodes.call("a", "replica.remove", name="c")
            await trio.sleep(10)
            assert members(nodes) == 3
            assert nodes.kinds("a").count("set-changes") == told + 1, "told once, not at each attempt"
            assert "set-not-changed" in nodes.kinds("a")
            disks["a"].bytes_max = None
            await nodes.until(lambda: members(nodes) == 2, seconds=2)
            await client.admin.create_topic("later")
            async with client.producer("later") as producer:
                assert len((await producer.send(b"x")).copies) == 2


@in_virtual_time
async def test_r14_a_set_whose_first_record_finds_no_room_begins_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reign is there and the record is not: `init` would refuse what was begun, and nobody could reign again."""
    append, refusals = PartitionLog.append_control, ["no space left"] * 4

    async def append_when_there_is_room(self: PartitionLog, batches: Sequence[IncomingBatch]) -> list[int]:
        if batches and refusals and self.name == METADATA_NAME:
            await trio.lowlevel.checkpoint()
            raise StorageError(refusals.pop(), kind="full")
        return await append(self, batches)

    monkeypatch.setattr(PartitionLog, "append_control", append_when_there_is_room)
    async with set_on_disks(tmp_path, "full-begin") as (nodes, _):
        await nodes.init("a")
        await nodes.until(lambda: not refusals)
        assert "set-not-changed" in nodes.kinds("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
        await nodes.cut_off("a")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        async with nodes.client("b") as client:
            assert [topic.name for topic in await client.admin.list_topics()] == ["orders"]


@in_virtual_time
async def test_r16_a_primary_that_waits_for_room_for_its_record_is_told_to_stop_by_who_is_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would reign beside the other one as soon as there is room, and acknowledge."""
    append, is_full = PartitionLog.append_control, False

    async def append_when_there_is_room(self: PartitionLog, batches: Sequence[IncomingBatch]) -> list[int]:
        if batches and is_full and self is nodes.node("a").store.metadata:
            await trio.lowlevel.checkpoint()
            raise StorageError("no space left", kind="full")
        return await append(self, batches)

    monkeypatch.setattr(PartitionLog, "append_control", append_when_there_is_room)
    async with set_of_nodes(tmp_path, "abc", prefix="full-again", **SYNC) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        await nodes.cut_off("a")
        is_full = True
        await nodes.start("a")
        await nodes.until(lambda: "set-not-changed" in nodes.kinds("a"))
        roles = nodes.node("a").roles
        assert roles is not None
        assert (roles.reign, isinstance(roles.playing, Reigning)) == (None, True)
        await nodes.call("b", "set.promote", unclean=True)  # the other one has begun an epoch
        assert not isinstance(roles.playing, Reigning)
        is_full = False
        await nodes.until(lambda: roles.follower is not None)
        assert nodes.node("b").reign is not None


@in_virtual_time
async def test_r17_an_order_is_told_when_the_log_that_would_carry_it_has_stopped(tmp_path: Path) -> None:
    """G11: by hand no record is written any more in that reign."""
    async with set_on_disks(tmp_path, "stopped-log") as (nodes, disks):
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
        disks["a"].fail_next_flush()
        with trio.fail_after(5), pytest.raises(CommandNotPossibleError, match="has stopped"):
            await nodes.call("a", "set.cap", copies=1, other_side_is_stopped=True)
