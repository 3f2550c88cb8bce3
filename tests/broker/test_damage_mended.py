"""Bits that rot in a set are replaced from a good copy, and nobody reads them or an error for them (G12, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from rot import damage, damage_at, damage_copies, log_of, set_back
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.batch import HEADER_BYTES
from mqcore.errors import BatchUndecodableError, CommandNotPossibleError
from mqcore.log import DamagedRangeError, PartitionLog, _quarantine
from mqcore.ports import Buffer
from mqcore_mmap._log import MmapLog

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
MESSAGES = 60
VALUES = [b"%04d" % number for number in range(MESSAGES)]
# Long, for a busy machine: no lease is to end by itself here.
TIMES = {"lease_ms": 30_000, "replica_timeout_ms": 10_000, "heartbeat_ms": 100}


async def begin(nodes: SetOfNodes) -> str:
    """A set of a and b, whose topic has a batch for each message; return the name of its log."""
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")
        async with client.producer("orders", batch_messages=1) as producer:
            for value in VALUES:
                await producer.send(value)
        return f"{(await client.admin.resolve_topic('orders')).id}-0"


async def read_all(nodes: SetOfNodes, *names: str, **options: str) -> list[bytes]:
    async with nodes.client(*names) as client, client.consumer("orders", start="start", **options) as consumer:
        return [bytes((await anext(consumer)).value) for _ in range(MESSAGES)]


async def read_until(nodes: SetOfNodes, seen: Callable[[], bool], *names: str, **options: str) -> None:
    """Read everything again and again, without a gap or an error, until ``seen``: "any" may be another node."""
    with trio.fail_after(60):
        while True:
            assert await read_all(nodes, *names, **options) == VALUES
            if seen():
                return
            await trio.sleep(0.01)


async def until_whole(nodes: SetOfNodes, node: str, name: str, messages: int = MESSAGES) -> None:
    def is_whole() -> bool:
        log = nodes.node(node).store._logs.get(name)
        return log is not None and not log.is_damaged and log.end_offset == messages

    await nodes.until(is_whole, 60)


@pytest.fixture(params=["a", "b"])
def rotten(request: pytest.FixtureRequest) -> str:
    """The node whose copy rots: the primary, a replica."""
    return str(request.param)


@in_virtual_time
async def test_g12_a_rotten_batch_is_written_anew_from_another_node_while_a_reader_waits(
    tmp_path: Path, rotten: str
) -> None:
    cluster = {"coordinator": f"memory://rot-{rotten}", **TIMES}
    async with set_of_nodes(tmp_path, prefix=f"rot-{rotten}", cluster=cluster, **SYNC) as nodes:
        name = await begin(nodes)
        for offset in (20, 21, 40):
            await damage(nodes, rotten, name, offset)
        reign = nodes.node("a").reign

        def mended() -> list[object]:
            return [notice.facts["log"] for node, notice in nodes.notices if notice.kind == "log-mended"]

        read_from = "any" if rotten == "b" else "primary"
        await read_until(nodes, lambda: len(mended()) >= 3, rotten, read_from=read_from)
        assert mended() == [name] * 3
        assert "log-damaged" not in nodes.kinds(rotten)
        assert nodes.node("a").reign is reign
        assert (await nodes.logs("a"))[name] == (await nodes.logs("b"))[name]
        # In place and durably: another process finds it whole.
        await nodes.stop(rotten)
        await nodes.start(rotten)
        await nodes.until(lambda: name in nodes.node(rotten).store._logs)
        assert "log-damaged" not in nodes.kinds(rotten)


@in_virtual_time
async def test_g12_what_rotted_on_every_member_of_an_array_is_written_anew_from_another_node(tmp_path: Path) -> None:
    for node in "ab":
        (tmp_path / node).mkdir()
    array = "raid://{dir}/one,{dir}/two?level=1&first_extent_bytes=65536"
    cluster = {"coordinator": "memory://rot-array", **TIMES}
    async with set_of_nodes(tmp_path, prefix="rot-array", cluster=cluster, storage=array, **SYNC) as nodes:
        name = await begin(nodes)
        for offset in (20, 40):
            found = await log_of(nodes, "a", name).batch_of(offset)
            assert found is not None
            await damage_copies(nodes, "a", log_of(nodes, "a", name), found.position, copies=2)
        await read_until(nodes, lambda: nodes.kinds("a").count("log-mended") >= 2, "a")
        assert "log-damaged" not in nodes.kinds("a")
        assert "raid-member-ejected" not in nodes.kinds("a")
        assert (await nodes.logs("a"))[name] == (await nodes.logs("b"))[name]


@in_virtual_time
async def test_g12_where_no_copy_is_good_the_range_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="rot-both", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        for node in "ab":
            await damage(nodes, node, name, 20)
        found, errors = [], []
        with trio.fail_after(60):
            async with nodes.client("a") as client, client.consumer("orders", start="start") as consumer:
                while len(found) < MESSAGES - 1:
                    try:
                        found.append(bytes((await anext(consumer)).value))
                    except BatchUndecodableError as error:
                        errors.append((error.first_offset, error.next_offset))
        assert found == VALUES[:20] + VALUES[21:]
        assert errors == [(20, 21)]
        assert "log-damaged" in nodes.kinds("a")


@pytest.fixture
def writes_nothing_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that only appends, as the contract allows."""

    async def overwrite(log: MmapLog, position: int, data: Buffer) -> None:
        raise CommandNotPossibleError(f"log {log.name}: this storage writes nothing in place")

    monkeypatch.setattr(MmapLog, "overwrite", overwrite)


@pytest.mark.usefixtures("writes_nothing_in_place")
@in_virtual_time
async def test_g12_a_primary_whose_log_rotted_makes_way_and_copies_it_anew(tmp_path: Path) -> None:
    cluster = {"coordinator": "memory://rot-lone-primary", **TIMES}
    async with set_of_nodes(tmp_path, prefix="rot-lone-primary", cluster=cluster, **SYNC) as nodes:
        name = await begin(nodes)
        await damage(nodes, "a", name, 20)
        incarnation = nodes.node("a").store.incarnation
        with trio.fail_after(60):
            assert await read_all(nodes) == VALUES, "a reader waits for the good copy"
        assert "log-damaged" in nodes.kinds("a")
        assert "damage-handed-over" in nodes.kinds("a")
        await until_whole(nodes, "a", name)
        assert nodes.node("a").store.incarnation > incarnation, "what it had reported as held was not there"
        await nodes.until_in_sync("b")
        assert (await nodes.logs("a"))[name] == (await nodes.logs("b"))[name]
        (aside,) = await nodes.call("a", "quarantine.list")
        assert aside["topic_id"] + "-0" == name, "what is good of it may be what another copy lacks"


@pytest.mark.usefixtures("writes_nothing_in_place")
@in_virtual_time
async def test_g12_a_damaged_copy_is_copied_anew_while_readers_wait(tmp_path: Path) -> None:
    cluster = {"coordinator": "memory://rot-lone-replica", **TIMES}
    async with set_of_nodes(tmp_path, prefix="rot-lone-replica", cluster=cluster, **SYNC) as nodes:
        name = await begin(nodes)
        await damage(nodes, "b", name, 20)
        reign = nodes.node("a").reign
        await read_until(nodes, lambda: "copy-begun-anew" in nodes.kinds("b"), "b", read_from="any")
        await until_whole(nodes, "b", name)
        await nodes.until_in_sync("a")
        assert nodes.node("a").reign is reign, "the primary goes on"
        assert (await nodes.logs("a"))[name] == (await nodes.logs("b"))[name]


@pytest.mark.usefixtures("writes_nothing_in_place")
@in_virtual_time
async def test_g12_where_an_operator_decides_damage_is_told_with_the_remedy_and_the_rest_is_read(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, prefix="rot-manual", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await damage(nodes, "a", name, 20)
        found, errors = [], []
        async with nodes.client("a") as client, client.consumer("orders", start="start") as consumer:
            while len(found) < MESSAGES - 1:
                try:
                    found.append(bytes((await anext(consumer)).value))
                except BatchUndecodableError as error:
                    errors.append((error.first_offset, error.next_offset))
        assert found == VALUES[:20] + VALUES[21:]
        assert errors == [(20, 21)]
        await nodes.until(lambda: "damage-stays" in nodes.kinds("a"))
        assert "mqcore cluster switchover" in nodes.notice("damage-stays").text
        await nodes.call("a", "set.switchover", to="b")
        with trio.fail_after(60):
            assert await read_all(nodes) == VALUES
        await until_whole(nodes, "a", name)


@pytest.fixture(params=[True, False], ids=["in-place", "append-only"])
def in_place(request: pytest.FixtureRequest) -> bool:
    """Whether the storage writes in place."""
    if not request.param:
        request.getfixturevalue("writes_nothing_in_place")
    return bool(request.param)


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@in_virtual_time
async def test_g12_a_replica_that_meets_rot_while_it_opens_a_log_follows_again(
    tmp_path: Path, at: int, in_place: bool
) -> None:
    prefix = f"rot-opened-{at}-{in_place}"
    async with set_of_nodes(tmp_path, prefix=prefix, cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await nodes.stop("b")
        await damage(nodes, "b", name, 20, at=at)
        await nodes.start("b")
        await until_whole(nodes, "b", name)
        await nodes.until_in_sync("a")
        await nodes.until_same("a", "b")
        assert ("log-mended" in nodes.kinds("b")) is in_place
        assert ("copy-begun-anew" in nodes.kinds("b")) is not in_place
        async with nodes.client("a") as client, client.producer("orders") as producer:
            with trio.fail_after(30):
                await producer.send(b"acknowledged by both")


@pytest.mark.usefixtures("writes_nothing_in_place")
@in_virtual_time
async def test_g12_a_replica_keeps_its_damaged_copy_where_no_other_is_known_to_be_good(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="rot-kept", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        for node in "ab":
            await damage(nodes, node, name, 20)
        incarnation = nodes.node("b").store.incarnation
        log = log_of(nodes, "b", name)
        with pytest.raises(DamagedRangeError):
            await log.read(20, 1, log.end_offset, asks=False)
        await nodes.until(lambda: "damage-stays" in nodes.kinds("b"), 60)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            with trio.fail_after(30):
                await producer.send(b"acknowledged by both")
        assert log is log_of(nodes, "b", name)
        assert (await log.read(21, 1 << 20, MESSAGES)).next_offset == MESSAGES
        assert "copy-begun-anew" not in nodes.kinds("b")
        assert nodes.node("b").store.incarnation == incarnation


@pytest.mark.usefixtures("writes_nothing_in_place")
@in_virtual_time
async def test_g12_what_a_primary_cannot_feed_is_told_and_is_fed_once_it_is_whole_again(tmp_path: Path) -> None:
    keys = {"flush": "sync", "replication": "async"}
    async with set_of_nodes(tmp_path, prefix="rot-fed", cluster=TIMES, **keys) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        await nodes.stop("b")
        async with nodes.client("a") as client, client.producer("orders", batch_messages=1) as producer:
            for value in VALUES:
                await producer.send(value)
        byte = await damage(nodes, "a", name, MESSAGES + 10)
        await nodes.start("b")
        await nodes.until(lambda: {"log-not-fed", "log-damaged"} <= {*nodes.kinds("a")})
        assert log_of(nodes, "b", name).end_offset <= MESSAGES + 10, "what is damaged is never passed on"
        byte.flip()
        await until_whole(nodes, "b", name, 2 * MESSAGES)
        await nodes.until_same("a", "b")


@in_virtual_time
async def test_g12_a_replica_whose_last_batch_rotted_on_its_primary_mends_it_there_and_is_fed(tmp_path: Path) -> None:
    keys = {"flush": "sync", "replication": "async"}
    async with set_of_nodes(tmp_path, prefix="rot-last", cluster=TIMES, **keys) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        await nodes.stop("b")
        async with nodes.client("a") as client, client.producer("orders", batch_messages=1) as producer:
            for value in VALUES:
                await producer.send(value)
        await damage(nodes, "a", name, MESSAGES - 1, at=0)
        await nodes.start("b")
        await until_whole(nodes, "b", name, 2 * MESSAGES)
        await nodes.until_same("a", "b")
        assert "log-mended" in nodes.kinds("a")


async def reign_again(nodes: SetOfNodes) -> None:
    """Have a reign once more, and write."""
    await nodes.stop("a")
    await nodes.start("a")
    await nodes.call("a", "set.promote", old_primary_is_stopped=True)
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client, client.producer("orders") as producer:
        await producer.send(b"in another reign")
    await nodes.until_same("a", "b")


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@in_virtual_time
async def test_r5_a_replica_that_lost_what_opened_a_reign_to_rot_has_it_mended_or_parts_there(
    tmp_path: Path, at: int, in_place: bool
) -> None:
    async with set_of_nodes(tmp_path, prefix=f"rot-parts-{at}-{in_place}", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await reign_again(nodes)
        log = log_of(nodes, "a", name)
        opening = log.history[-1].start_position
        assert opening > 0
        incarnation = nodes.node("b").store.incarnation
        await nodes.stop("b")
        await damage_at(nodes, "b", log, opening, at)
        await nodes.start("b")
        await until_whole(nodes, "b", name, MESSAGES + 1)
        await nodes.until_in_sync("a")
        await nodes.until_same("a", "b")
        assert (nodes.node("b").store.incarnation > incarnation) is not in_place, (
            "what is cut had been reported as held"
        )
        assert ("log-diverged" in nodes.kinds("b")) is not in_place
        assert log_of(nodes, "b", name).history == log.history


@pytest.mark.usefixtures("writes_nothing_in_place")
@in_virtual_time
async def test_r2_a_replica_that_can_keep_nothing_more_aside_has_lost_nothing_and_keeps_its_incarnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries again and again, until an operator removes side files: once something is cut, and not before, it is
    another incarnation."""
    async with set_of_nodes(tmp_path, prefix="rot-parts-full", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await reign_again(nodes)
        log = log_of(nodes, "a", name)
        opening = log.history[-1].start_position
        incarnation = nodes.node("b").store.incarnation
        await nodes.stop("b")
        await damage_at(nodes, "b", log, opening, HEADER_BYTES)
        tries, keep = [], PartitionLog.keep_aside

        async def counted(log: PartitionLog, *args: Any, **keys: Any) -> str:
            tries.append(log.name)
            return await keep(log, *args, **keys)

        monkeypatch.setattr(PartitionLog, "keep_aside", counted)
        monkeypatch.setattr(_quarantine, "QUARANTINES_MAX", 0)
        await nodes.start("b")
        await nodes.until(lambda: len(tries) >= 3, 60)
        assert nodes.node("b").store.incarnation == incarnation
        monkeypatch.setattr(_quarantine, "QUARANTINES_MAX", 16)
        await until_whole(nodes, "b", name, MESSAGES + 1)
        await nodes.until_in_sync("a")
        await nodes.until_same("a", "b")
        assert nodes.node("b").store.incarnation == incarnation + 1
        assert len(await nodes.call("b", "quarantine.list")) == 1


@pytest.mark.parametrize("reign", [0, 1])
@in_virtual_time
async def test_g01_a_primary_that_lost_what_opened_a_reign_to_rot_has_no_replica_give_up_its_own(
    tmp_path: Path, reign: int
) -> None:
    async with set_of_nodes(tmp_path, prefix=f"rot-opening-{reign}", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await reign_again(nodes)
        log = log_of(nodes, "b", name)
        history = log.history
        await nodes.stop("a")
        await damage_at(nodes, "a", log, history[reign].start_position, HEADER_BYTES)
        await nodes.start("a")
        await nodes.call("a", "set.promote", old_primary_is_stopped=True)
        await until_whole(nodes, "a", name, MESSAGES + 1)
        await nodes.until_in_sync("a")
        assert "log-diverged" not in nodes.kinds("b")
        assert log_of(nodes, "a", name).history[: len(history)] == history
        assert await read_all(nodes, "a") == VALUES


@in_virtual_time
async def test_g12_a_replica_whose_log_rotted_at_its_end_copies_that_anew(tmp_path: Path, in_place: bool) -> None:
    async with set_of_nodes(tmp_path, prefix=f"rot-end-{in_place}", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        incarnation = nodes.node("b").store.incarnation
        await set_back(nodes, "b", name, *range(MESSAGES - 4, MESSAGES))
        await nodes.start("b")
        await until_whole(nodes, "b", name)
        await nodes.until_in_sync("a")
        assert nodes.node("b").store.incarnation > incarnation
        async with nodes.client("a") as client, client.producer("orders") as producer:
            with trio.fail_after(60):
                await producer.send(b"acknowledged by both")
        await nodes.until_same("a", "b")


@in_virtual_time
async def test_g12_a_node_whose_log_rotted_at_its_end_mends_it_before_it_writes_behind_it(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="rot-reign", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        await set_back(nodes, "a", name, *range(MESSAGES - 4, MESSAGES))
        await nodes.start("a")
        await nodes.call("a", "set.promote", old_primary_is_stopped=True)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            with trio.fail_after(60):
                assert (await producer.send(b"acknowledged by both")).offset == MESSAGES
        await nodes.until_same("a", "b")
        assert await read_all(nodes, "a") == VALUES
