"""ZooKeeper from Debian's ``libzookeeper-java``: one server or three. Asked by its four-letter word ``srvr`` only."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from mqcore.testing import reserve_ports
from mqcore_conformance.servers._process import HOST, ServerProcess

__all__ = ["ZookeeperServer", "zookeeper_ensemble"]

_JAVA = Path("/usr/bin/java")
_ANSWER_S_MAX = 1.0
_LOGGING = Path("/usr/share/java/slf4j-simple.jar")


class ZookeeperServer(ServerProcess):
    """One server. ``number`` is its own in ``members``, which lists the peer and the election port of each.

    ``certificate``: PEM files of its key (PKCS 8) with its certificate, and of the authority; it speaks TLS on
    ``secure_port`` then.
    """

    package = "libzookeeper-java default-jre-headless"
    binary = Path("/usr/share/java/zookeeper.jar")

    def __init__(
        self,
        name: str = "zookeeper",
        *,
        number: int = 1,
        members: Sequence[tuple[int, int]] = (),
        tick_ms: int = 500,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(name)
        self._number, self._members, self._tick_ms = number, members, tick_ms
        self._certificate = certificate
        (self.secure_port,) = reserve_ports(1)

    @classmethod
    def why_not_installed(cls) -> str:
        """Return in one line why it cannot run here: its classes or Java are missing; empty when it can."""
        if not _JAVA.exists():
            return f"{_JAVA} is not installed; apt-get install {cls.package}"
        return super().why_not_installed()

    def command(self) -> list[str]:
        """Return the command line; writes the configuration that it names."""
        self.data.mkdir(exist_ok=True)
        lines = [
            f"tickTime={self._tick_ms}", "initLimit=10", "syncLimit=5", f"dataDir={self.data}",
            f"clientPort={self.port}", f"clientPortAddress={HOST}", "admin.enableServer=false",
        ]  # fmt: skip
        if self._members:
            (self.data / "myid").write_text(str(self._number))
            for number, (peer, election) in enumerate(self._members, 1):
                lines.append(f"server.{number}={HOST}:{peer}:{election}")
        if self._certificate is not None:
            own, authority = self._certificate
            lines += [
                f"secureClientPort={self.secure_port}", "ssl.clientAuth=none",
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
                f"ssl.keyStore.location={own}", "ssl.keyStore.type=PEM",
                f"ssl.trustStore.location={authority}", "ssl.trustStore.type=PEM",
            ]  # fmt: skip
        configuration = self.folder / "zoo.cfg"
        configuration.write_text("\n".join(lines) + "\n")
        return [
            str(_JAVA), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Dzookeeper.jmx.log4j.disable=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", ":".join(map(str, (_LOGGING, self.binary, *self.binary.parent.glob("netty-*.jar")))),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(configuration),
        ]  # fmt: skip

    def ports(self) -> list[int]:
        """Return the ports that were reserved for it, and for its ensemble."""
        return [self.port, self.secure_port, *(port for both in self._members for port in both)]

    def answers(self) -> bool:
        """Whether it serves clients."""
        return self._mode() != ""

    def leads(self) -> bool:
        """Whether it is the leader, as far as it knows."""
        return self._mode() == "leader"

    def _mode(self) -> str:
        try:
            with socket.create_connection((HOST, self.port), _ANSWER_S_MAX) as connection:
                connection.settimeout(_ANSWER_S_MAX)
                connection.sendall(b"srvr")
                answer = b""
                while data := connection.recv(4096):
                    answer += data
        except OSError:
            return ""
        modes = [line.split()[1] for line in answer.decode().splitlines() if line.startswith("Mode:")]
        return modes[0] if modes else ""


def zookeeper_ensemble(tick_ms: int = 500) -> list[ZookeeperServer]:
    """Return three servers, not started: ``start_all`` does that."""
    ports = reserve_ports(6)
    members = list(zip(ports[:3], ports[3:], strict=True))
    return [
        ZookeeperServer(f"zookeeper{number}", number=number, members=members, tick_ms=tick_ms) for number in (1, 2, 3)
    ]
