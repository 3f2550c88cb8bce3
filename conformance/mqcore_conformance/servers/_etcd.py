"""etcd from Debian's ``etcd-server``: one member or three. Asked over HTTP by the standard library only."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mqcore.testing import reserve_ports
from mqcore_conformance.servers._process import HOST, ServerProcess

__all__ = ["EtcdServer", "etcd_ensemble"]

_ANSWER_S_MAX = 2.0


class EtcdServer(ServerProcess):
    """One member. ``members``: name and peer port of every member; ``peer_listen_port``: where it listens for them,
    if that is not the port that they connect to; ``options``: more of its command line; ``certificate``: PEM files of a
    certificate and its key, with which it speaks TLS to clients.
    """

    package = "etcd-server"
    binary = Path("/usr/bin/etcd")

    def __init__(
        self,
        name: str = "etcd",
        *,
        members: Sequence[tuple[str, int]] | None = None,
        peer_listen_port: int | None = None,
        options: Sequence[str] = (),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        super().__init__(name)
        self._members = members or [(name, reserve_ports(1)[0])]
        self._peer_port = dict(self._members)[name]
        self._peer_listen_port = peer_listen_port or self._peer_port
        self._options = [*options]
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._options += ["--cert-file", str(certificate[0]), "--key-file", str(certificate[1])]
            # This side only asks whether the server runs; that certificates are verified is for clients to show.
            self._tls = ssl._create_unverified_context()
        self._url = f"{'http' if certificate is None else 'https'}://{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            str(self.binary), "--name", self.name, "--data-dir", str(self.data), "--logger", "zap",
            "--listen-client-urls", self._url, "--advertise-client-urls", self._url,
            "--listen-peer-urls", f"http://{HOST}:{self._peer_listen_port}",
            "--initial-advertise-peer-urls", f"http://{HOST}:{self._peer_port}",
            "--initial-cluster", ",".join(f"{name}=http://{HOST}:{port}" for name, port in self._members),
            *self._options,
        ]  # fmt: skip

    def ports(self) -> list[int]:
        """Return the ports that were reserved for it, and for its ensemble."""
        return [self.port, *(port for _, port in self._members)]

    def answers(self) -> bool:
        """Whether it is healthy: it knows a leader and can read from a majority."""
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=_ANSWER_S_MAX, context=self._tls) as answer:
                return bool(json.load(answer).get("health") == "true")
        except OSError:
            return False

    def call(self, path: str, body: object) -> Any:
        """Return what the JSON gateway answers. Raises ``OSError``."""
        request = urllib.request.Request(
            f"{self._url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_S_MAX, context=self._tls) as answer:
            return json.load(answer)

    def leads(self) -> bool:
        """Whether it is the leader, as far as it knows."""
        try:
            status = self.call("/v3/maintenance/status", {})
        except OSError:
            return False
        return bool(status.get("leader") == status["header"]["member_id"])


def etcd_ensemble(options: Sequence[str] = ()) -> list[EtcdServer]:
    """Return three members, not started: ``start_all`` does that."""
    members = [(f"etcd{number}", port) for number, port in enumerate(reserve_ports(3))]
    return [EtcdServer(name, members=members, options=options) for name, _ in members]
