"""A coordinator under test: clients of one server, each with its own way to it, and keepers on them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from mqcore.abc import CellPair, CellWrite, Coordinator, CoordinatorContext
from mqcore.broker import Keeper
from mqcore.errors import CommandNotPossibleError, CoordinatorOutcomeUnknownError, CoordinatorUnreachableError
from mqcore.ports import Clock, system_ports
from mqcore.registry import create_coordinator
from mqcore.replication import LeaseTerms
from mqcore.testing import FaultyCoordinator
from mqcore_conformance.contract._checks import Harness, NotApplicable
from mqcore_conformance.contract._server_control import FolderServer, ServerControl, server_of

__all__ = [
    "CALL_TIMEOUT_MS",
    "DEFAULTS",
    "TERMS",
    "CoordinatorHarness",
    "CoordinatorPlace",
    "KeeperNode",
    "MovableClock",
]

TERMS = LeaseTerms(lease_ms=1_500)
CALL_TIMEOUT_MS = 2_000
"""For calls that are to be answered: a machine under load takes its time."""
DEFAULTS = {
    "memory": "memory://conformance",
    "file": "file://{dir}",
    "etcd": "etcd://127.0.0.1:2379/mqcore",
    "zookeeper": "zookeeper://127.0.0.1:2181/mqcore",
    "postgres": "postgres://127.0.0.1:5432/postgres?user=postgres&tls=disable",
}
"""URLs of coordinators given by name, those that have servers of their own at the port that is theirs."""


class MovableClock(Clock):
    """A clock of this machine that a check moves on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.slept_us = 0

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + self.slept_us // 1000

    def monotonic_us(self) -> int:
        return self._clock.monotonic_us()

    def boottime_us(self) -> int:
        return self._clock.boottime_us() + self.slept_us


@attrs.define
class KeeperNode:
    """A node: its keeper, its way to the coordinator, and its clock."""

    keeper: Keeper
    way: FaultyCoordinator
    clock: MovableClock

    async def take(self, record: bytes) -> None:
        """Look until the lease is vacant, then promote; what is not answered is asked for again."""
        while True:
            pair = await self.look()
            if self.keeper.is_vacant:
                # A short lease may be over before a loaded server answers: it runs out, and is vacant then.
                with contextlib.suppress(CoordinatorUnreachableError, CoordinatorOutcomeUnknownError):
                    await self.keeper.promote(record, pair)
                    return
            await trio.sleep(TERMS.poll_ms / 4000)

    async def look(self) -> CellPair:
        """Look until there is an answer: a server that has just started may need longer than the node waits."""
        while True:
            try:
                return await self.keeper.look()
            except CoordinatorUnreachableError:
                await trio.sleep(TERMS.poll_ms / 4000)


class CoordinatorPlace:
    """A server for one check, and its clients. ``name``: of a pair of cells that no other check has written."""

    def __init__(self, url: str, server: ServerControl | None, harness: CoordinatorHarness) -> None:
        self.url = url
        self.ports = ports = harness.ports
        self._harness = harness
        self.name = f"conformance-{ports.random.getrandbits(64):016x}/set"
        self._server = server
        self._open: list[Coordinator] = []

    def client(self, url: str = "", call_timeout_ms: int = CALL_TIMEOUT_MS) -> FaultyCoordinator:
        """Return another client of the server, independent of all others; ``url``: of one member."""
        context = CoordinatorContext(ports=self.ports, call_timeout_ms=call_timeout_ms)
        coordinator = create_coordinator(url or self.url, context)
        self._open.append(coordinator)
        return FaultyCoordinator(coordinator)

    def node(self, letter: str, terms: LeaseTerms = TERMS) -> KeeperNode:
        """Return a node that has not asked anything yet."""
        clock = MovableClock(self.ports.clock)
        way = self.client(call_timeout_ms=terms.call_timeout_ms)
        ports = attrs.evolve(self.ports, clock=clock)
        return KeeperNode(Keeper(way, self.name, node_id=letter.encode() * 16, terms=terms, ports=ports), way, clock)

    async def primary(self, letter: str = "a", record: bytes = b"epoch 1", terms: LeaseTerms = TERMS) -> KeeperNode:
        """Return a node that has just been promoted."""
        node = self.node(letter, terms)
        await node.take(record)
        return node

    async def record(self, node: KeeperNode) -> bytes | None:
        """Return the record as ``node`` reads it, however long a loaded server takes."""
        while True:
            try:
                return (await node.way.read(self.name)).record.value
            except CoordinatorUnreachableError:
                await trio.sleep(TERMS.poll_ms / 4000)

    def put(self, value: bytes) -> CellWrite:
        """Return what writes ``value``, under a fresh id."""
        return CellWrite(value, self.ports.random.randbytes(16))

    async def write_first(self, client: Coordinator, value: bytes = b"first") -> CellPair:
        """Write the record, on what a read shows."""
        return await client.write(self.name, await client.read(self.name), record=self.put(value))

    async def server(self, verb: str, *arguments: object) -> Any:
        """Call the method ``verb`` of the server's control, in a thread; return what it returns."""
        if self._server is None:
            raise NotApplicable("the suite has no control of its server: give one (ServerControl)")
        with self._harness.elsewhere():
            return await trio.to_thread.run_sync(getattr(self._server, verb), *arguments)

    async def close(self) -> None:
        """Close every client."""
        for coordinator in self._open:
            await coordinator.aclose()


class OperatedServer(ServerControl):
    """A server that a part has in its own process, with operations for its faults: freeze, thaw, copy, restore."""

    def __init__(self, folder: Path, coordinator: Coordinator) -> None:
        super().__init__(folder)
        self.scheme = coordinator.url.scheme
        self._coordinator = coordinator
        self._copy: Mapping[str, object] = {}

    def start(self) -> str:
        return str(self._coordinator.url)

    def close(self) -> None:
        pass

    def freeze(self, member: int | None = None) -> None:
        self._operate("freeze", {})

    def thaw(self, member: int | None = None) -> None:
        self._operate("thaw", {})

    def backup(self) -> None:
        self._copy = self._operate("copy", {})

    def restore(self) -> None:
        self._operate("restore", self._copy)

    def _operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        return trio.from_thread.run(self._coordinator.operate, operation, arguments)


class CoordinatorHarness(Harness):
    """A coordinator by URL, with a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = DEFAULTS.get(url, url) if ":" in DEFAULTS.get(url, url) else f"{url}://"
        self.folder = folder
        self.ports = system_ports()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[CoordinatorPlace]:
        """Give a server with nothing stored for a block, or names of its own on the one that there is."""
        server = await self._control()
        try:
            url = self.url
            if server is not None:
                with self.elsewhere():
                    url = await trio.to_thread.run_sync(server.start)
            place = CoordinatorPlace(url, server, self)
            try:
                yield place
            finally:
                with trio.CancelScope(shield=True):
                    await place.close()
        finally:
            if server is not None:
                with trio.CancelScope(shield=True), self.elsewhere():
                    await trio.to_thread.run_sync(server.close)

    async def _control(self) -> ServerControl | None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        scheme = self.url.partition(":")[0]
        found = server_of(scheme)
        if found is not None:
            return found(folder)
        if "{dir}" in self.url:
            return FolderServer(folder, self.url)
        coordinator = create_coordinator(self.url, CoordinatorContext(ports=self.ports))
        try:
            await coordinator.operate("thaw", {})
        except CommandNotPossibleError:
            return None
        return OperatedServer(folder, coordinator)
