"""Real servers of other projects for tests: etcd, ZooKeeper and PostgreSQL from the system's packages, alone or three.

Each runs its own binary in a folder of its own on free ports of this machine; the packaged services are not touched,
and only processes that were started here are ended. They can be killed, frozen and put back to an old copy of their
data. Knows nothing of mqcore.
"""

from mqcore_conformance.servers._disk import HangingDisk
from mqcore_conformance.servers._etcd import EtcdServer, etcd_ensemble
from mqcore_conformance.servers._postgres import PostgresServer
from mqcore_conformance.servers._process import ServerProcess, start_all
from mqcore_conformance.servers._relay import OneWayRelay
from mqcore_conformance.servers._zookeeper import ZookeeperServer, zookeeper_ensemble

__all__ = [
    "EtcdServer",
    "HangingDisk",
    "OneWayRelay",
    "PostgresServer",
    "ServerProcess",
    "ZookeeperServer",
    "etcd_ensemble",
    "start_all",
    "why_not_installed",
    "zookeeper_ensemble",
]


def why_not_installed(scheme: str) -> str:
    """Return in one line why no server for the coordinator ``scheme`` can run here; empty when one can."""
    kinds: dict[str, type[ServerProcess]] = {
        "etcd": EtcdServer,
        "postgres": PostgresServer,
        "zookeeper": ZookeeperServer,
    }
    return kinds[scheme].why_not_installed()
