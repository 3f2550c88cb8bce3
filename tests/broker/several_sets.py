"""Three sets of one node each, over which topics are spread: for tests of what goes over several sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from virtual_time import node_ports

from mqcore.broker import Node
from mqcore.client import Client, connect
from mqcore.config import make_config


class Sets:
    """Sets a, b and c of one node each, a1, b1 and c1, in this process, without a coordinator."""

    def __init__(self, nursery: trio.Nursery, root: Path, prefix: str) -> None:
        self.nodes: dict[str, Node] = {}
        self._nursery = nursery
        self._root = root
        self._prefix = prefix
        self._scopes: dict[str, trio.CancelScope] = {}
        self._ended: dict[str, trio.Event] = {}

    def url(self, name: str) -> str:
        return f"inproc://{self._prefix}-{name}"

    async def start(self, *names: str) -> None:
        sets = [{"name": each[0], "nodes": [{"name": each, "urls": [self.url(each)]}]} for each in ("a1", "b1", "c1")]
        cluster = {"heartbeat_ms": 50, "replica_timeout_ms": 500, "sets": sets}
        for name in names:
            config = make_config(
                name=name, storage=f"mmap://{self._root}/{name}", listen=[self.url(name)], flush="sync", cluster=cluster
            )
            self.nodes[name] = Node(config, ports=node_ports())
            self._scopes[name], self._ended[name] = trio.CancelScope(), trio.Event()
            await self._nursery.start(self._serve, name)

    async def _serve(self, name: str, task_status: trio.TaskStatus[None]) -> None:
        with self._scopes[name]:
            await self.nodes[name].serve(task_status=task_status)
        self._ended[name].set()

    async def stop(self, name: str) -> None:
        self._scopes[name].cancel()
        del self.nodes[name]
        await self._ended[name].wait()

    async def begin(self) -> None:
        await self.start("a1", "b1", "c1")
        for name in self.nodes:
            async with connect(self.url(name)) as client:
                await client.sets.init()

    @asynccontextmanager
    async def client(self, *names: str) -> AsyncIterator[Client]:
        async with connect(*map(self.url, names or ("a1", "b1", "c1"))) as client:
            yield client

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(120):
            while not holds():  # noqa: ASYNC110 - what is waited for is anything that a node knows
                await trio.sleep(0.005)

    def knows(self, name: str, topic: str) -> bool:
        reign = self.nodes[name].reign
        return reign is not None and topic in reign.topics.by_name


@asynccontextmanager
async def three_sets(root: Path, prefix: str) -> AsyncIterator[Sets]:
    async with trio.open_nursery() as nursery:
        sets = Sets(nursery, root, prefix)
        await sets.begin()
        yield sets
        nursery.cancel_scope.cancel()
