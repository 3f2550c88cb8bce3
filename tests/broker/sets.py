"""A replica set of real nodes in one process, for the tests of sets: started, stopped and killed by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from virtual_time import node_ports

from mqcore.abc import Notice
from mqcore.broker import Node
from mqcore.client import Client, connect
from mqcore.config import make_config
from mqcore.errors import MqcoreError
from mqcore.ports import Ports


class NodeRun:
    """One run of one node: until it is stopped in order, or cut off."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.scope = trio.CancelScope()
        self.ended = trio.Event()


class SetOfNodes:
    """Nodes ``names`` on directories below ``root``, which listen in this process."""

    def __init__(
        self,
        nursery: trio.Nursery,
        root: Path,
        names: str,
        prefix: str,
        ports: Callable[[], Ports],
        cluster: dict[str, Any],
        storage: str,
        **keys: Any,
    ) -> None:
        self.cluster = cluster
        self.storage = storage
        self.names = list(names)
        self.root = root
        self.notices: list[tuple[str, Notice]] = []
        self.runs: dict[str, NodeRun] = {}
        self.keys = keys
        self.login: dict[str, Any] = {}
        """What the clients of the tests log in with."""
        self.principals: dict[str, str] = {}
        """Of nodes that name one."""
        self._nursery = nursery
        self._prefix = prefix
        self._ports = ports

    def url(self, name: str) -> str:
        return f"inproc://{self._prefix}{name}"

    def node(self, name: str) -> Node:
        return self.runs[name].node

    def kinds(self, name: str) -> list[str]:
        return [notice.kind for node, notice in self.notices if node == name]

    def notice(self, kind: str) -> Notice:
        (found,) = [notice for _, notice in self.notices if notice.kind == kind]
        return found

    async def start(self, *names: str) -> None:
        for name in names or self.names:
            nodes: list[dict[str, Any]] = [{"name": each, "urls": [self.url(each)]} for each in self.names]
            for node in nodes:
                if node["name"] in self.principals:
                    node["principal"] = self.principals[node["name"]]
            times = {"heartbeat_ms": 50, "replica_timeout_ms": 500, "lease_ms": 1_000}
            cluster = {**times, **self.cluster, "sets": [{"name": "one", "nodes": nodes}]}
            storage = self.storage.format(dir=f"{self.root}/{name}")
            config = make_config(name=name, storage=storage, listen=[self.url(name)], cluster=cluster, **self.keys)
            run = self.runs[name] = NodeRun(Node(config, ports=self._ports(), report=partial(self._note, name)))
            await self._nursery.start(self._serve, run)

    def _note(self, name: str, notice: Notice) -> None:
        self.notices.append((name, notice))

    async def _serve(self, run: NodeRun, task_status: trio.TaskStatus[list[str]]) -> None:
        with run.scope:
            await run.node.serve(task_status=task_status)
        run.ended.set()

    async def stop(self, name: str) -> None:
        self.runs[name].node.stop()
        await self.runs.pop(name).ended.wait()

    async def cut_off(self, name: str) -> None:
        """End a node without a drain: what was in flight ends unknown."""
        self.runs[name].scope.cancel()
        await self.runs.pop(name).ended.wait()

    async def init(self, name: str, *, once: bool = False) -> dict[str, Any]:
        """Begin the set; unless ``once``, again while a node that is starting, on a busy machine, has not answered."""
        with trio.fail_after(120):
            while True:
                try:
                    return await self.call(name, "set.init")
                except MqcoreError as error:
                    if once or "no answer from" not in str(error):
                        raise
                    await trio.sleep(0.01)

    async def call(self, name: str, operation: str, /, **arguments: Any) -> Any:
        async with connect(self.url(name), **self.login) as client:
            return await client._router.call(operation, arguments, is_repeatable=False)

    async def until(self, holds: Callable[[], object], seconds: float = 20) -> None:
        with trio.fail_after(seconds):
            while not holds():  # noqa: ASYNC110 - what is waited for is anything that a node knows
                await trio.sleep(0.005)

    async def until_in_sync(self, primary: str) -> None:
        """Wait until every node of the set that runs is in the in-sync set, as admitted."""

        def all_are_in() -> bool:
            reign = self.node(primary).reign
            if reign is None or reign.set is None:
                return False
            members = reign.set.record.members
            return all((run.node.store.node_id, run.node.store.incarnation) in members for run in self.runs.values())

        await self.until(all_are_in)

    @asynccontextmanager
    async def client(self, *names: str) -> AsyncIterator[Client]:
        async with connect(*map(self.url, names or self.names), **self.login) as client:
            yield client

    async def until_same(self, *names: str) -> None:
        """Wait until these nodes hold the same bytes: a replica may have a log's end a moment later than its primary,
        even where every message was acknowledged, for what the primary writes itself is."""
        with trio.fail_after(120):
            while True:
                first, *others = [await self.logs(name) for name in names]
                if all(each == first for each in others):
                    return
                await trio.sleep(0.01)

    async def logs(self, name: str) -> dict[str, bytes]:
        """The stored bytes of the metadata log and of every open partition log of a node."""
        store = self.node(name).store
        found = {}
        for log in list(store._logs.values()):
            chunks, position = [], log.start_position
            while position < log.end_position:
                stored = await log.read_stored(position, 1 << 20, log.end_position)
                chunks += [bytes(each) for each in stored.chunks]
                position = stored.next_position
            found[log.name] = b"".join(chunks)
        return found


@asynccontextmanager
async def set_of_nodes(
    root: Path,
    names: str = "ab",
    *,
    prefix: str,
    ports: Callable[[], Ports] = node_ports,
    cluster: dict[str, Any] | None = None,
    storage: str = "mmap://{dir}",
    **keys: Any,
) -> AsyncIterator[SetOfNodes]:
    async with trio.open_nursery() as nursery:
        nodes = SetOfNodes(nursery, root, names, prefix, ports, cluster or {}, storage, **keys)
        yield nodes
        for name in list(nodes.runs):
            await nodes.stop(name)
