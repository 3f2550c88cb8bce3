"""Bits that rot in a set are replaced from a good copy, and nobody reads them or an error for them (G12, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes

from mqcore.batch import HEADER_BYTES
from mqcore.errors import BatchUndecodableError, CommandNotPossibleError
from mqcore.log import PartitionLog
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


def log_of(nodes: SetOfNodes, node: str, name: str) -> PartitionLog:
    return nodes.node(node).store._logs[name]


async def damage(nodes: SetOfNodes, node: str, name: str, offset: int) -> None:
    """Change a byte in the body of the batch at ``offset``, where the storage keeps it."""
    log = log_of(nodes, node, name)
    found = await log.batch_of(offset)
    assert found is not None
    stored = await log.read_stored(found.position, 1, log.end_position)
    header = bytes(stored.chunks[0][:HEADER_BYTES])
    for path in (nodes.root / node).rglob("*"):
        at = path.read_bytes().find(header) if path.is_file() else -1
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + HEADER_BYTES)
                (byte,) = file.read(1)
                file.seek(at + HEADER_BYTES)
                file.write(bytes([byte ^ 0xFF]))
            return
    raise AssertionError(f"no file of {node} has the batch at {offset}")


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


async def until_whole(nodes: SetOfNodes, node: str, name: str) -> None:
    def is_whole() -> bool:
        log = nodes.node(node).store._logs.get(name)
        return log is not None and not log.is_damaged and log.end_offset == MESSAGES

    await nodes.until(is_whole, 60)


@pytest.fixture(params=["a", "b"])
def rotten(request: pytest.FixtureRequest) -> str:
    """The node whose copy rots: the primary, a replica."""
    return str(request.param)


@pytest.mark.trio
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


@pytest.mark.trio
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
@pytest.mark.trio
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
        assert await nodes.call("a", "quarantine.list") == [], "the others have all of it"


@pytest.mark.usefixtures("writes_nothing_in_place")
@pytest.mark.trio
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
@pytest.mark.trio
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
