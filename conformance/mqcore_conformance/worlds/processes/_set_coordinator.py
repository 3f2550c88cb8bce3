"""The coordinator of a set in T1: a file, or a real server that is started for the run.

Must not know of nodes or of what befalls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import trio

from mqcore_conformance.servers import EtcdServer, ServerProcess, ZookeeperServer

FILE = "file"
SERVERS: Mapping[str, type[EtcdServer] | type[ZookeeperServer]] = MappingProxyType(
    {"etcd": EtcdServer, "zookeeper": ZookeeperServer}
)
"""Servers by the scheme of their coordinator."""


def why_no_coordinator(name: str) -> str:
    """Why sets cannot have this coordinator here, with the remedy; empty when they can."""
    server = SERVERS.get(name)
    return server.why_not_installed() if server is not None else ""


class SetCoordinator:
    """The coordinator ``name``: one of ``SERVERS``, else a file in ``folder``.

    ``url``: what nodes are configured with.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._server: ServerProcess | None = None
        self.url = f"file://{folder}/coordinator"
        if name in SERVERS:
            self._server = SERVERS[name]()
            self.url = f"{name}://127.0.0.1:{self._server.port}"

    async def start(self) -> None:
        """Have it answer. Raises ``TimeoutError`` with what a server that does not has printed."""
        if self._server is not None:
            await trio.to_thread.run_sync(self._server.start)

    async def freeze(self, seconds: float) -> None:
        """Have it answer nothing for a while, as a machine that is suspended."""
        if self._server is None:
            return
        await trio.to_thread.run_sync(self._server.freeze)
        try:
            await trio.sleep(seconds)
        finally:
            self._server.thaw()

    async def aclose(self) -> None:
        """End it, and remove what it wrote. Not cancelled."""
        if self._server is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._server.remove)
