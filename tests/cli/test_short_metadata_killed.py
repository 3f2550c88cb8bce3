"""Three processes whose metadata log is made short all the while, each killed with SIGKILL again and again (R13)."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from functools import partial

import pytest
import trio

from mqcore.abc import StorageContext
from mqcore.client import connect
from mqcore.errors import MqcoreError
from mqcore.limits import Limits
from mqcore.log import METADATA_NAME, verify_storage
from mqcore.ports import system_ports
from mqcore.registry import create_storage

pytestmark = pytest.mark.slow
NAMES = "abc"
KILLS = 9
SECONDS_MAX = 300
CONFIG = """
name = "a"
[storage]
url = "mmap://{folder}/a"
[flush]
policy = "sync"
[replication]
policy = "sync"
copies = 2
level = "disk"
[limits]
metadata_log_bytes_max = 1
[cluster]
coordinator = "file://{folder}/coordinator"
heartbeat_ms = 100
lease_ms = 1000
replica_timeout_ms = 1000
[[cluster.sets]]
name = "one"
"""


class Processes:
    """``mqcore serve``, once for each node, on the loopback interface."""

    def __init__(self, folder, nursery):
        self.folder = folder
        self.nursery = nursery
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
        self.urls = {
            name: f"tcp://127.0.0.1:{each.getsockname()[1]}" for name, each in zip(NAMES, sockets, strict=True)
        }
        for each in sockets:
            each.close()
        nodes = "".join(f'[[cluster.sets.nodes]]\nname = "{n}"\nurls = ["{url}"]\n' for n, url in self.urls.items())
        (folder / "set.toml").write_text(CONFIG.format(folder=folder) + nodes)
        self.running = {}

    async def start(self, name):
        command = [sys.executable, "-m", "mqcore", "serve", "--config", f"{self.folder}/set.toml", "--name", name]
        variables = {key: value for key, value in os.environ.items() if not key.startswith("MQCORE_")}
        variables |= {"MQCORE_STORAGE": f"mmap://{self.folder}/{name}", "MQCORE_LISTEN": self.urls[name]}
        with (self.folder / f"{name}.log").open("ab") as output:
            run = partial(trio.run_process, command, env=variables, stdout=output, stderr=output, check=False)
            self.running[name] = await self.nursery.start(run)

    async def end(self, name, number):
        process = self.running.pop(name)
        process.send_signal(number)
        await process.wait()
        return process.returncode

    async def call(self, operation, *names):
        """Ask the nodes until they answer."""
        while True:
            try:
                async with connect(*(self.urls[name] for name in names or NAMES)) as client:
                    return await client._router.call(operation, {}, is_repeatable=False)
            except MqcoreError:
                await trio.sleep(0.1)

    async def until_in_sync(self):
        while True:
            described = await self.call("set.describe")
            if [each["in_sync"] for each in described["members"]] == [True] * len(NAMES):
                return
            await trio.sleep(0.1)


class Changes:
    """Makes topics, and deletes most of them; ``known``: which of them are there, None where nobody was told."""

    def __init__(self):
        self.known: dict[str, bool | None] = {}
        self.moved = trio.Event()
        self.stopping = False

    async def make(self, urls):
        while not self.stopping:
            name = f"topic-{len(self.known)}"
            self.known[name] = None
            try:
                async with connect(*urls) as client:
                    await client.admin.create_topic(name)
                    self.known[name] = True
                    if len(self.known) % 5:
                        self.known[name] = None
                        await client.admin.delete_topic(name)
                        self.known[name] = False
            except MqcoreError:
                pass
            self.moved.set()
            self.moved = trio.Event()

    async def more(self, count):
        wanted = len(self.known) + count
        while len(self.known) < wanted:
            await self.moved.wait()


async def metadata_of(folder, name):
    backend = create_storage(f"mmap://{folder}/{name}", StorageContext(ports=system_ports()), {})
    findings = [finding async for finding in verify_storage(backend, limits=Limits())]
    return next(each for each in findings if each.name == METADATA_NAME), findings


@pytest.mark.trio
async def test_r13_nodes_that_are_killed_while_the_log_is_made_short_know_the_same_topics(tmp_path):
    changes = Changes()
    draw = random.Random(5)
    with trio.fail_after(SECONDS_MAX):
        async with trio.open_nursery() as nursery:
            processes = Processes(tmp_path, nursery)
            for name in NAMES:
                await processes.start(name)
            await processes.call("set.init", "a")
            await processes.until_in_sync()
            async with trio.open_nursery() as changing:
                changing.start_soon(changes.make, processes.urls.values())
                for _ in range(KILLS):
                    await changes.more(draw.randint(2, 12))
                    name = draw.choice(NAMES)
                    await processes.end(name, signal.SIGKILL)
                    await changes.more(draw.randint(2, 12))
                    await processes.start(name)
                    await processes.until_in_sync()
                changes.stopping = True
            async with connect(*processes.urls.values()) as client:
                there = {each.name for each in await client.admin.list_topics()}
            assert {name for name, is_there in changes.known.items() if is_there} <= there
            assert not {name for name, is_there in changes.known.items() if is_there is False} & there
            for name in NAMES:
                assert await processes.end(name, signal.SIGTERM) == 0
    found = [await metadata_of(tmp_path, name) for name in NAMES]
    assert {each.state for _, findings in found for each in findings} == {"whole"}
    assert min(metadata.start_position for metadata, _ in found) > 0
    assert max(metadata.bytes_total for metadata, _ in found) < 64 * 1024
