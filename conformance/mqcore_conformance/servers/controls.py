"""The real servers as contract checks want them, as in ``--server mqcore_conformance.servers.controls:EtcdControl``.

For each kind one server alone, and for those that have ensembles one of three. Knows how a URL names them, and nothing
of what is checked.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mqcore_conformance.contract import ServerControl
from mqcore_conformance.servers._etcd import EtcdServer, etcd_ensemble
from mqcore_conformance.servers._postgres import PostgresServer
from mqcore_conformance.servers._process import HOST, READY_S_MAX, ServerProcess, start_all
from mqcore_conformance.servers._zookeeper import ZookeeperServer, zookeeper_ensemble

__all__ = ["EtcdControl", "EtcdEnsembleControl", "PostgresControl", "ZookeeperControl", "ZookeeperEnsembleControl"]


class _Control(ServerControl):
    """Servers of one kind. ``url_end`` follows their addresses."""

    url_end: ClassVar[str] = "/mqcore"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._servers: Sequence[ServerProcess] = []

    @abstractmethod
    def make(self) -> Sequence[ServerProcess]:
        """Return the servers, not started."""

    def start(self) -> str:
        self._servers = self.make()
        start_all(self._servers)
        return self._url(self._servers)

    def close(self) -> None:
        for server in self._servers:
            server.remove()

    def freeze(self, member: int | None = None) -> None:
        for server in self._some(member):
            server.freeze()

    def thaw(self, member: int | None = None) -> None:
        for server in self._some(member):
            server.thaw()

    def kill(self, member: int | None = None) -> None:
        for server in self._some(member):
            server.kill()

    def restart(self, member: int | None = None) -> None:
        start_all(self._some(member))

    def backup(self) -> None:
        self._stop()
        for server in self._servers:
            server.copy_data(self.folder / server.name)
        start_all(self._servers)

    def restore(self) -> None:
        self._stop()
        for server in self._servers:
            server.restore_data(self.folder / server.name)
        start_all(self._servers)

    def _stop(self) -> None:
        for server in self._servers:
            server.stop()

    def _some(self, member: int | None) -> Sequence[ServerProcess]:
        return self._servers if member is None else [self._servers[member]]

    def _url(self, servers: Sequence[ServerProcess]) -> str:
        return f"{self.scheme}://{','.join(f'{HOST}:{server.port}' for server in servers)}{self.url_end}"


class _EnsembleControl(_Control):
    def member_urls(self) -> Sequence[str]:
        return [self._url([server]) for server in self._servers]

    def leader(self) -> int:
        deadline = time.monotonic() + READY_S_MAX
        while True:
            # One that was frozen, or cut off, says that it leads until it has heard of the one that does.
            leaders = [number for number, server in enumerate(self._servers) if server.leads()]
            if len(leaders) == 1:
                return leaders[0]
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{len(leaders)} of {len(self._servers)} servers of {self.scheme} say that they lead"
                )
            time.sleep(0.1)


class EtcdControl(_Control):
    """One etcd."""

    scheme = "etcd"

    def make(self) -> Sequence[ServerProcess]:
        """Return it, or them, not started."""
        return [EtcdServer()]


class EtcdEnsembleControl(_EnsembleControl):
    """Three members of etcd."""

    scheme = "etcd"

    def make(self) -> Sequence[ServerProcess]:
        """Return it, or them, not started."""
        return etcd_ensemble()


class ZookeeperControl(_Control):
    """One ZooKeeper."""

    scheme = "zookeeper"

    def make(self) -> Sequence[ServerProcess]:
        """Return it, or them, not started."""
        return [ZookeeperServer()]


class ZookeeperEnsembleControl(_EnsembleControl):
    """Three servers of ZooKeeper."""

    scheme = "zookeeper"

    def make(self) -> Sequence[ServerProcess]:
        """Return it, or them, not started."""
        return zookeeper_ensemble()


class PostgresControl(_Control):
    """One PostgreSQL, over plain text."""

    scheme = "postgres"
    url_end = "/postgres?user=postgres&tls=disable"

    def make(self) -> Sequence[ServerProcess]:
        """Return it, or them, not started."""
        return [PostgresServer()]
