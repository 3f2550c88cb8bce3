"""An offset store under test: clients of one place, each independent of the others."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from mqcore.abc import CommitStamp, Cursor, CursorKey, OffsetStore, OffsetStoreContext
from mqcore.ports import Ports, system_ports
from mqcore.registry import create_offset_store
from mqcore_conformance.contract._checks import Harness, NotApplicable
from mqcore_conformance.contract._server_control import FolderServer, ServerControl, server_of

__all__ = ["CALL_TIMEOUT_MS", "DEFAULTS", "OffsetPlace", "OffsetStoreHarness", "cursors_at"]

CALL_TIMEOUT_MS = 10_000
"""For calls that are to be answered: a machine under load takes its time."""
DEFAULTS = {
    "file": "file://{dir}",
    "sqlite": "sqlite://{dir}/offsets.db",
    "zookeeper": "zookeeper://127.0.0.1:2181/mqcore",
    "postgres": "postgres://127.0.0.1:5432/postgres?user=postgres&tls=disable",
}
"""URLs of offset stores given by name, those that have servers of their own at the port that is theirs."""


def cursors_at(offset: int, partitions: int = 3, topic: str = "t") -> Mapping[CursorKey, Cursor]:
    """Return a cursor at ``offset`` for each of so many partitions of ``topic``."""
    return {CursorKey(topic, number): Cursor(offset, 1) for number in range(partitions)}


class OffsetPlace:
    """A place for one check, and its clients. ``group``: one that no other check has written."""

    def __init__(self, url: str, server: ServerControl | None, ports: Ports) -> None:
        self.url = url
        self.ports = ports
        self.group = f"conformance {ports.random.getrandbits(64):016x}"
        self._server = server
        self._open: list[OffsetStore] = []

    def client(self, call_timeout_ms: int = CALL_TIMEOUT_MS) -> OffsetStore:
        """Return another client, which shares nothing with the others but the place."""
        context = OffsetStoreContext(ports=self.ports, call_timeout_ms=call_timeout_ms)
        self._open.append(create_offset_store(self.url, context))
        return self._open[-1]

    async def commit(self, client: OffsetStore, number: int, offset: int, generation: int = 1) -> None:
        """Commit three cursors at ``offset``."""
        await client.commit(self.group, CommitStamp(generation, number), cursors_at(offset))

    async def server(self, verb: str, *arguments: object) -> Any:
        """Call the method ``verb`` of the server's control, in a thread; return what it returns."""
        if self._server is None:
            raise NotApplicable("the suite has no control of its server: give one (ServerControl)")
        return await trio.to_thread.run_sync(getattr(self._server, verb), *arguments)

    async def close(self) -> None:
        """Close every client."""
        for store in self._open:
            await store.aclose()


class OffsetStoreHarness(Harness):
    """An offset store by URL, with a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = DEFAULTS.get(url, url) if ":" in DEFAULTS.get(url, url) else f"{url}://{{dir}}"
        self.folder = folder
        self.ports = system_ports()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[OffsetPlace]:
        """Give a server with nothing stored for a block, or groups of its own on the one that there is."""
        server = self._control()
        try:
            url = self.url if server is None else await trio.to_thread.run_sync(server.start)
            place = OffsetPlace(url, server, self.ports)
            try:
                yield place
            finally:
                with trio.CancelScope(shield=True):
                    await place.close()
        finally:
            if server is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(server.close)

    def _control(self) -> ServerControl | None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        found = server_of(self.url.partition(":")[0])
        if found is not None:
            return found(folder)
        return FolderServer(folder, self.url) if "{dir}" in self.url else None
