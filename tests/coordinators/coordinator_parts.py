"""Where the tests of coordinators find a server, and what they write. Imported by the tests beside it."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence

import attrs
import pytest
import trio
from _pytest.mark import ParameterSet

from mqcore.abc import CellWrite, Coordinator, CoordinatorContext
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator
from mqcore_conformance.servers import EtcdServer, PostgresServer, ServerProcess, ZookeeperServer

__all__ = ["SCHEMES", "SERVERS", "Place", "each_of", "put"]

SCHEMES = ("etcd", "postgres", "zookeeper")
SERVERS: dict[str, Callable[[], ServerProcess]] = {
    "etcd": EtcdServer,
    # Nothing here cuts the power, and a database's files are many: without flushes it starts in a tenth of the time.
    "postgres": lambda: PostgresServer(settings={"fsync": "off"}),
    "zookeeper": ZookeeperServer,
}
SECONDS_MAX = 90
_NUMBERS = itertools.count()


@attrs.define
class Place:
    """A name on a server, or on several, that no other test has used, and clients for it."""

    scheme: str
    servers: Sequence[ServerProcess]
    query: str = ""
    path: str = ""
    port: int = 1
    """Used where there is no server."""
    name: str = attrs.field(factory=lambda: f"sets/t{next(_NUMBERS)}")
    _clients: list[Coordinator] = attrs.field(factory=list, init=False)

    @property
    def server(self) -> ServerProcess:
        """The only server."""
        (server,) = self.servers
        return server

    @property
    def url(self) -> str:
        """The URL of the coordinator."""
        members = ",".join(f"127.0.0.1:{server.port}" for server in self.servers) or f"127.0.0.1:{self.port}"
        path, query = self.path or "mqcore", self.query
        if self.scheme == "postgres":
            path, query = self.path or "postgres", self.query or "?user=postgres&tls=disable"
        return f"{self.scheme}://{members}/{path}{query}"

    def client(self, call_timeout_ms: int = 5_000) -> Coordinator:
        """Another client, which shares nothing with the others."""
        context = CoordinatorContext(ports=system_ports(), call_timeout_ms=call_timeout_ms)
        self._clients.append(create_coordinator(self.url, context))
        return self._clients[-1]

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run ``main``, not longer than a test may take, and close every client."""

        async def with_clients() -> None:
            try:
                with trio.fail_after(SECONDS_MAX):
                    await main()
            finally:
                await self.aclose()

        trio.run(with_clients)

    async def aclose(self) -> None:
        """Close every client."""
        for client in self._clients:
            await client.aclose()


def each_of(*schemes: str) -> list[ParameterSet]:
    """Parameters: each scheme, left out where its server is not installed."""
    return [pytest.param(scheme, marks=pytest.mark.needs(scheme)) for scheme in schemes]


def put(value: bytes) -> CellWrite:
    """A write with an id of its own."""
    return CellWrite(value, secrets.token_bytes(16))
