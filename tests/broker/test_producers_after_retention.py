"""What a log remembers of producers outlives the messages that it was learned from, on every copy (R12, R15, G15)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
from alone import OWN, alone
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._fed_log import FedLog
from mqcore.broker._kept_producers import keep_producers
from mqcore.guarantees import Level, SyncReplication
from mqcore.log import PartitionLog
from mqcore.log._state import KeptAt
from mqcore.protocol import Code, LogPositions, Produced
from mqcore.replication import Member

REPLICA = Member(b"r" * 16, 1)
SENT = 30
VALUE = b"v" * 2000

Send: TypeAlias = Callable[..., Awaitable[list[Any]]]


def log_of(nodes: SetOfNodes, name: str) -> PartitionLog:
    (log,) = (log for each, log in nodes.node(name).store._logs.items() if each != "metadata")
    return log


@pytest.fixture
def send(raw_client: Any) -> Send:
    """What a node answers to messages with these sequences; without a client, which would make something of it."""

    async def send_to(nodes: SetOfNodes, name: str, *sequences: int, producer: int = 77) -> list[Any]:
        reign = nodes.node(name).reign
        assert reign is not None
        (topic,) = reign.topics.by_name.values()
        keys = {"producer_id": producer, "producer_epoch": 1}
        async with raw_client(nodes.url(name)) as client:
            return [await client.produce(topic.id, [VALUE], first_sequence=each, **keys) for each in sequences]

    return send_to


async def trim(nodes: SetOfNodes, name: str) -> None:
    reign = nodes.node(name).reign
    assert reign is not None
    await reign.retention.look()


async def fill_and_trim(send: Send, nodes: SetOfNodes, name: str) -> None:
    """A producer sends a little, another one so much that nothing of the first is left."""
    assert [each.base_offset for each in await send(nodes, name, 0, 1)] == [0, 1]
    assert [each.base_offset for each in await send(nodes, name, *range(SENT), producer=5)] == [*range(2, 2 + SENT)]
    await trim(nodes, name)
    assert log_of(nodes, name).start_offset > 2


async def check_remembered(send: Send, nodes: SetOfNodes, name: str) -> None:
    """Retries are answered with where they were stored, and nothing is stored by them."""
    end = log_of(nodes, name).end_offset
    again = await send(nodes, name, 0, 1)
    assert [(each.base_offset, each.duplicate) for each in again] == [(0, True), (1, True)], again
    (last,) = await send(nodes, name, SENT - 1, producer=5)
    assert (last.base_offset, last.duplicate) == (SENT + 1, True)
    assert log_of(nodes, name).end_offset == end
    (gap,) = await send(nodes, name, 9)
    assert (gap.code, gap.facts["expected_sequence"]) == (Code.SEQUENCE_GAP, 2)
    (new,) = await send(nodes, name, 2)
    assert isinstance(new, Produced)
    assert (new.base_offset, new.duplicate) == (end, False)


def replicated(tmp_path: Path, prefix: str) -> Any:
    keys: dict[str, Any] = {"flush": "sync", "replication": "async"}
    return set_of_nodes(tmp_path, prefix=prefix, cluster={"coordinator": f"memory://{prefix}"}, **keys)


async def begin(nodes: SetOfNodes) -> None:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders", config={"retention_bytes": 8000})


async def until_level(nodes: SetOfNodes) -> None:
    """Wait until both nodes are in sync and have the whole log."""

    def are_level() -> bool:
        if len(nodes.node("b").store._logs) < 2:
            return False
        own, copy = log_of(nodes, "a"), log_of(nodes, "b")
        return (copy.start_offset, copy.end) == (own.start_offset, own.end)

    await nodes.until_in_sync("a")
    await nodes.until(are_level)


def remove_files(root: Path, pattern: str) -> int:
    """Remove what is called so, and return how many there were."""
    found = list(root.rglob(pattern))
    for each in found:
        each.unlink()
    return len(found)


async def lose(nodes: SetOfNodes, root: Path, name: str) -> None:
    await nodes.stop(name)
    (root / name).rename(root / f"lost-{name}")


@in_virtual_time
async def test_g15_a_copy_that_begins_after_a_trim_knows_the_producers_of_what_is_gone(
    tmp_path: Path, send: Send
) -> None:
    async with replicated(tmp_path, "kept-empty") as nodes:
        await begin(nodes)
        await lose(nodes, tmp_path, "b")
        await fill_and_trim(send, nodes, "a")
        await nodes.start("b")
        await nodes.call("a", "replica.add", name="b")
        await until_level(nodes)
        await nodes.call("a", "set.switchover", to="b")
        await check_remembered(send, nodes, "b")


@in_virtual_time
async def test_g15_a_replica_that_begins_anew_knows_the_producers_of_what_it_lacked(tmp_path: Path, send: Send) -> None:
    async with replicated(tmp_path, "kept-anew") as nodes:
        await begin(nodes)
        await nodes.stop("b")
        await fill_and_trim(send, nodes, "a")
        await nodes.start("b")
        await until_level(nodes)
        await nodes.call("a", "set.switchover", to="b")
        await check_remembered(send, nodes, "b")


@in_virtual_time
async def test_g15_a_log_trimmed_before_is_told_of_when_a_copy_begins(
    tmp_path: Path, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trim wrote went with a power cut, or the trim was an older version's: it is written for the copy."""

    async def nothing(*_: object) -> None:
        """As it was before."""

    async with replicated(tmp_path, "kept-before") as nodes:
        await begin(nodes)
        await lose(nodes, tmp_path, "b")
        with monkeypatch.context() as patches:
            patches.setattr("mqcore.broker._retention.keep_producers", nothing)
            await fill_and_trim(send, nodes, "a")
        assert not log_of(nodes, "a").kept_at.end
        await nodes.start("b")
        await nodes.call("a", "replica.add", name="b")
        await until_level(nodes)
        await nodes.call("a", "set.switchover", to="b")
        await check_remembered(send, nodes, "b")


async def carry(verb: str, old: Path, to: Path) -> None:
    """Bring a stopped broker's storage to another folder, as a user does: that its beginning is gone is no damage."""
    command = partial(trio.run_process, stdout=subprocess.DEVNULL)
    storage = [sys.executable, "-m", "mqcore", "storage"]
    source, target = f"mmap://{old}?segment_bytes=64KiB", f"mmap://{to}?segment_bytes=64KiB"
    if verb == "migrate":
        await command([*storage, "migrate", source, target])
    elif verb == "backup":
        folder = str(to.parent / "backup")
        await command([*storage, "backup", folder, "--storage", source])
        await command([*storage, "restore", folder, target])


@pytest.mark.trio
@pytest.mark.parametrize("verb", ["start", "migrate", "backup"])
async def test_g15_a_lost_sidecar_takes_no_producers_with_it(tmp_path: Path, open_setup: Any, verb: str) -> None:
    old = new = tmp_path / "old"
    keys = {"flush": "sync", "topics": {"orders": {"retention_bytes": 8000}}}
    # several segments, so that the first ones go
    async with open_setup(f"mmap://{old}?segment_bytes=64KiB", **keys) as setup, setup.client() as client:
        reign = setup.broker.reign
        topic = reign.topics.by_name["orders"].id
        await client.produce(topic, [VALUE], producer_id=77)
        for sequence in range(100):
            await client.produce(topic, [VALUE], producer_id=5, first_sequence=sequence)
        await reign.retention.look()
        (name,) = (partition.log.name for partition in reign.partitions.values())
    assert remove_files(old, f"{name}.state@*")
    if verb != "start":
        new = tmp_path / "new"
        await carry(verb, old, new)
    async with open_setup(f"mmap://{new}?segment_bytes=64KiB", **keys) as setup, setup.client() as client:
        reply = await client.produce(topic, [VALUE], producer_id=77)
        assert (reply.base_offset, reply.duplicate) == (0, True)
        reply = await client.produce(topic, [VALUE], producer_id=5, first_sequence=99)
        assert (reply.base_offset, reply.duplicate) == (100, True)
        await setup.broker.reign.retention.look()
        (log,) = (partition.log for partition in setup.broker.reign.partitions.values())
        assert log.start_offset > 0
        assert log.damages == [], "what was trimmed is not missing"


@in_virtual_time
async def test_r6_a_copy_counts_for_nothing_before_it_has_read_what_is_remembered_of_producers() -> None:
    async with alone() as setup:
        partition = await setup.partition(replication=SyncReplication(copies=2, level=Level.DISK))
        partition.set_changed([OWN, REPLICA], None)
        for number in range(3):
            await partition.append([setup.send(number, producer_id=7, first_sequence=number)])
        log = partition.log
        await log.trim(2)
        fed = FedLog(0, partition)
        start, end = log.start_position, log.end
        assert await fed.judge(LogPositions(0, 0, bytes(16), start, start, start, Level.NONE)) is None
        assert log.end_position > end.position
        assert log.end_offset == end.offset
        fed.sent(end)
        fed.sent(log.end)

        def counted(position: int) -> list[Any]:
            epoch, reign_id, last = log.last_batch
            report = LogPositions(0, epoch, reign_id, last, position, position, Level.DISK)
            return fed.count(report, REPLICA, Level.PAGE_CACHE, {})

        assert counted(start) == []
        assert counted(end.position) == [], "all messages, but a retry of them would be new to it"
        assert counted(log.end_position) == [(3, Level.DISK)]


@in_virtual_time
async def test_r6_a_primary_that_does_not_know_where_its_log_says_that_has_a_copy_read_all_of_it_first() -> None:
    """Checkpoints do not say where it is, and a copy may have been about to read it when the primary started anew."""
    async with alone() as setup:
        partition = await setup.partition(replication=SyncReplication(copies=2, level=Level.DISK))
        partition.set_changed([OWN, REPLICA], None)
        for number in range(3):
            await partition.append([setup.send(number, producer_id=7, first_sequence=number)])
        log = partition.log
        await log.trim(2)
        end = log.end
        epoch, reign_id, last = log.last_batch
        await keep_producers(partition, log.start_position)
        assert log.end_position > end.position
        log._state.kept_at = KeptAt()  # as after a start by a checkpoint behind it
        fed = FedLog(0, partition)
        before = LogPositions(0, epoch, reign_id, last, end.position, end.position, Level.DISK)
        assert await fed.judge(before) is None
        fed.sent(log.end)
        assert fed.count(before, REPLICA, Level.PAGE_CACHE, {}) == [], "a retry of what it has would be new to it"
        epoch, reign_id, last = log.last_batch
        whole = LogPositions(0, epoch, reign_id, last, log.end_position, log.end_position, Level.DISK)
        assert fed.count(whole, REPLICA, Level.PAGE_CACHE, {}) == [(3, Level.DISK)]


@pytest.mark.trio
async def test_r6_a_copy_is_told_again_where_a_part_of_what_it_was_to_read_was_given_up() -> None:
    async with alone() as setup:
        partition = await setup.partition(replication=SyncReplication(copies=2, level=Level.DISK))
        partition.set_changed([OWN, REPLICA], None)
        for number in range(3):
            await partition.append([setup.send(number, producer_id=7, first_sequence=number)])
        log = partition.log
        await log.trim(2)
        fed = FedLog(0, partition)
        start = log.start_position
        assert await fed.judge(LogPositions(0, 0, bytes(16), start, start, start, Level.NONE)) is None
        await fed.tell_again()
        first = log.end
        header = await log.batch_at(log.last_batch[2])
        assert header is not None
        log._state.give_up(log.last_batch[2], header)
        await fed.tell_again()
        assert log.end_position > first.position, "and only now"
        fed.sent(first)
        fed.sent(log.end)
        epoch, reign_id, last = log.last_batch
        for end, counted in ((first.position, []), (log.end_position, [(3, Level.DISK)])):
            report = LogPositions(0, epoch, reign_id, last, end, end, Level.DISK)
            assert fed.count(report, REPLICA, Level.PAGE_CACHE, {}) == counted
