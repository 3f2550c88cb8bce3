"""What a member of a set is told when its storage cannot be used: to come back empty, and not to restore a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time, node_ports

from mqcore.broker import Node
from mqcore.config import make_config
from mqcore.errors import CorruptionError, MqcoreError, StorageError

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
TIMES = {"replica_timeout_ms": 1_000, "heartbeat_ms": 100}
SET_MAGIC = b"MQJSET01"


TOPICS = ("orders", "lines", "returns", "notes")


async def send(nodes: SetOfNodes, *values: bytes) -> None:
    """Send to several topics at once: what is flushed of several logs together is what goes through the journal."""
    async with nodes.client("a") as client, trio.open_nursery() as nursery:

        async def send_to(topic: str) -> None:
            async with client.producer(topic, batch_messages=1) as producer:
                for value in values:
                    await producer.send(value)

        for topic in TOPICS:
            nursery.start_soon(send_to, topic)


def rot_a_set_of_the_journal(folder: Path) -> None:
    """Change a byte of the first of several sets in a journal: those behind it count, so it is no torn tail."""
    for path in folder.rglob("*journal*"):
        data = bytearray(path.read_bytes())
        first = data.find(SET_MAGIC)
        if data.count(SET_MAGIC) > 2:
            data[first + 100] ^= 0xFF
            path.write_bytes(data)
            return
    raise AssertionError("no journal has several sets")


@in_virtual_time
async def test_g12_a_member_with_a_rotten_journal_is_told_to_come_back_empty_and_that_helps(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="remedy-journal", cluster=TIMES, **SYNC) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            for topic in TOPICS:
                await client.admin.create_topic(topic)
        await send(nodes, *(b"%d" % number for number in range(20)))
        killed = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
        await nodes.stop("b")
        for path in [each for each in (tmp_path / "b").rglob("*") if each.is_file() and each not in killed]:
            path.unlink()
        for path, data in killed.items():
            path.write_bytes(data)  # as if it had been killed, before a stop in order emptied the journal
        rot_a_set_of_the_journal(tmp_path / "b")

        with pytest.raises(CorruptionError, match="damaged journal") as caught:
            await nodes.start("b")
        assert "restore nothing" in str(caught.value)
        assert "'mqcore replica add b --wait'" in str(caught.value)

        shutil.rmtree(tmp_path / "b")
        await nodes.start("b")
        await nodes.call("a", "replica.add", name="b")
        await nodes.until_in_sync("a")
        await send(nodes, b"acknowledged by both")
        await nodes.until_same("a", "b")


def wipe_identity(folder: Path) -> None:
    for path in folder.rglob("*identity*"):
        path.write_bytes(bytes(len(path.read_bytes())))


@in_virtual_time
async def test_g12_a_broker_that_is_alone_is_told_of_a_copy(tmp_path: Path) -> None:
    storage = f"mmap://{tmp_path}/s"
    url = "inproc://remedy-alone"
    (tmp_path / "s").mkdir()
    node = Node(make_config(name="one", storage=storage, listen=[url]), ports=node_ports())
    await node.store.open()
    await node.store.aclose()
    wipe_identity(tmp_path)
    again = Node(make_config(name="one", storage=storage, listen=[url]), ports=node_ports())
    with pytest.raises(MqcoreError) as caught:
        await again.serve()
    assert "replica add" not in str(caught.value)


@in_virtual_time
async def test_a_member_whose_folder_cannot_be_made_is_not_told_to_come_back(tmp_path: Path) -> None:
    url = "inproc://remedy-no-parent"
    nodes = [{"name": name, "urls": [f"{url}-{name}"]} for name in ("a", "b")]
    cluster = {"sets": [{"name": "one", "nodes": nodes}]}
    node = Node(make_config(name="a", storage=f"mmap://{tmp_path}/no/a", cluster=cluster, **SYNC), ports=node_ports())
    with pytest.raises(StorageError, match=r"no does not exist, or takes no directories; make it first$"):
        await node.serve()
