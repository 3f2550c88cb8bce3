"""What the device of a node cannot read any more is had from another node, as what rotted is (G12, section 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.errors import StorageError
from mqcore.log import PartitionLog
from mqcore.ports import Buffer
from mqcore_mmap._log import MmapLog

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
MESSAGES = 60
VALUES = [b"%04d" % number * 3_000 for number in range(MESSAGES)]
PAGE_BYTES = 4096
# Long, for a busy machine: no lease is to end by itself here.
TIMES = {"lease_ms": 30_000, "replica_timeout_ms": 10_000, "heartbeat_ms": 100}


class Device:
    """The device of one node: ranges of logs that it cannot read; ``remaps``: until they are written again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, remaps: bool) -> None:
        self.bad: list[tuple[Path, str, int, int]] = []
        self.remaps = remaps
        self._read, self._overwrite = MmapLog.read, MmapLog.overwrite
        monkeypatch.setattr(MmapLog, "read", lambda log, position, size: self.read(log, position, size))
        monkeypatch.setattr(MmapLog, "overwrite", lambda log, position, data: self.overwrite(log, position, data))

    def touched(self, log: MmapLog, position: int, size: int) -> list[Any]:
        return [
            each
            for each in self.bad
            if log.segments
            and log.segments[0].path.startswith(f"{each[0]}/")
            and log.name == each[1]
            and position < each[3]
            and each[2] < position + size
        ]

    async def read(self, log: MmapLog, position: int, size: int) -> memoryview:
        if self.touched(log, position, min(size, log.end - position)):
            text = f"cannot read {log.name} at position {position}: Input/output error; look at the device"
            raise StorageError(text, kind="io", position=position)
        return await self._read(log, position, size)

    async def overwrite(self, log: MmapLog, position: int, data: Buffer) -> None:
        touched = self.touched(log, position, len(data))
        if touched and not self.remaps:
            text = f"cannot mend {log.name} at position {position}: Input/output error; look at the device"
            raise StorageError(text, kind="io", position=position)
        self.bad = [each for each in self.bad if each not in touched]
        await self._overwrite(log, position, data)


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


async def spoil(nodes: SetOfNodes, device: Device, node: str, name: str, offset: int) -> None:
    """Have a page amid the batch at ``offset`` be unreadable on a node, which is as little as a device says so of."""
    found = await log_of(nodes, node, name).batch_of(offset)
    assert found is not None
    page = (found.position // PAGE_BYTES + 1) * PAGE_BYTES
    device.bad.append((nodes.root / node, name, page, page + PAGE_BYTES))


async def read_all(nodes: SetOfNodes, *names: str, **options: str) -> list[bytes]:
    async with nodes.client(*names) as client, client.consumer("orders", start="start", **options) as consumer:
        return [bytes((await anext(consumer)).value) for _ in range(MESSAGES)]


async def read_until(nodes: SetOfNodes, device: Device, node: str) -> None:
    """Read everything on a node, again and again, until its device can read all of it; no error is met."""
    read_from = "any" if node == "b" else "primary"
    with trio.fail_after(60):
        while device.bad:
            assert await read_all(nodes, node, read_from=read_from) == VALUES
            await trio.sleep(0.01)


async def until_whole(nodes: SetOfNodes, node: str, name: str) -> None:
    def is_whole() -> bool:
        log = nodes.node(node).store._logs.get(name)
        return log is not None and not log.is_damaged and log.end_offset == MESSAGES

    await nodes.until(is_whole, 60)


@pytest.fixture(params=["a", "b"])
def sick(request: pytest.FixtureRequest) -> str:
    """The node whose device fails: the primary, a replica."""
    return str(request.param)


@in_virtual_time
async def test_g12_what_cannot_be_read_is_written_anew_from_another_node_while_a_reader_waits(
    tmp_path: Path, sick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch, remaps=True)
    cluster = {"coordinator": f"memory://unreadable-{sick}", **TIMES}
    async with set_of_nodes(tmp_path, prefix=f"unreadable-{sick}", cluster=cluster, **SYNC) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        for offset in (20, 21, 40):
            await spoil(nodes, device, sick, name, offset)
        await read_until(nodes, device, sick)
        await until_whole(nodes, sick, name)
        assert nodes.kinds(sick).count("log-mended") == 3
        assert "log-unreadable" in nodes.kinds(sick)
        assert (await nodes.logs("a"))[name] == (await nodes.logs("b"))[name]


@in_virtual_time
async def test_g12_a_log_on_a_device_that_takes_nothing_either_is_given_up_for_another_copy(
    tmp_path: Path, sick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary hands the set over first. The new copy is in other files, which the device can read."""
    device = Device(monkeypatch, remaps=False)
    cluster = {"coordinator": f"memory://lost-sector-{sick}", **TIMES}
    async with set_of_nodes(tmp_path, prefix=f"lost-sector-{sick}", cluster=cluster, **SYNC) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        await spoil(nodes, device, sick, name, 20)
        incarnation = nodes.node(sick).store.incarnation
        begin_anew = nodes.node(sick).store.begin_anew

        async def in_other_files(*arguments: Any, **named: Any) -> None:
            await begin_anew(*arguments, **named)
            device.bad.clear()

        monkeypatch.setattr(nodes.node(sick).store, "begin_anew", in_other_files)
        await read_until(nodes, device, sick)
        await until_whole(nodes, sick, name)
        assert nodes.node(sick).store.incarnation > incarnation, "what it had reported as held was not there"
        assert ("damage-handed-over" in nodes.kinds(sick)) is (sick == "a")
        await nodes.until_same("a", "b")


@in_virtual_time
async def test_g12_a_node_that_meets_it_while_it_opens_a_log_follows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch, remaps=True)
    cluster = {"replica_timeout_ms": 1_000, "heartbeat_ms": 100}
    async with set_of_nodes(tmp_path, prefix="unreadable-opened", cluster=cluster, **SYNC) as nodes:
        name = await begin(nodes)
        await nodes.until_same("a", "b")
        await spoil(nodes, device, "b", name, 20)
        await nodes.stop("b")
        await nodes.start("b")
        await until_whole(nodes, "b", name)
        await nodes.until_in_sync("a")
        await nodes.until_same("a", "b")
        assert not device.bad
