"""PostgreSQL from Debian's ``postgresql``: one server. It refuses to run as root, so root starts it as ``postgres``."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mqcore_conformance.servers._process import HOST, ServerProcess

__all__ = ["PostgresServer"]

_VERSIONS = Path("/usr/lib/postgresql")
_ANSWER_S_MAX = 1.0
# A startup packet with a user and nothing else: a server that is open for connections asks for a log-in or grants it.
_READY_PROBE = b"\0\0\0\x17" + b"\0\3\0\0" + b"user\0postgres\0" + b"\0"


def _newest() -> Path:
    found = sorted(_VERSIONS.glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    return found[-1] if found else _VERSIONS / "bin"


class PostgresServer(ServerProcess):
    """One server with a superuser ``postgres``, whom it trusts unless ``password`` is given.

    ``settings`` are added to its configuration. ``standby_of``: a server that runs when this one is first started,
    whose stand-by it is until it is promoted.
    """

    package = "postgresql"
    binary = _newest() / "postgres"
    user = "postgres" if os.geteuid() == 0 else None
    stop_signal = signal.SIGINT  # its fast shutdown: does not wait until clients leave

    def __init__(
        self,
        name: str = "postgres",
        *,
        settings: Mapping[str, str] | None = None,
        password: str | None = None,
        standby_of: PostgresServer | None = None,
    ) -> None:
        super().__init__(name)
        if self.user is not None:
            shutil.chown(self.folder, self.user, self.user)
        self._settings = settings or {}
        self._password = password
        self._standby_of = standby_of

    def command(self) -> list[str]:
        """Return the command line; the first time it makes the data folder."""
        if not self.data.exists():
            self._make_data()
        return [str(self.binary), "-D", str(self.data)]

    def promote(self) -> None:
        """Make it a primary, and wait until it is one."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def _make_data(self) -> None:
        if self._standby_of is not None:
            source = f"host={HOST} port={self._standby_of.port} user=postgres application_name={self.name}"
            self._run("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-c", "fast", "-X", "stream")
        else:
            secret = self.folder / "password"
            secret.write_text(self._password or "unused")
            if self.user is not None:
                shutil.chown(secret, self.user, self.user)
            method = "scram-sha-256" if self._password else "trust"
            self._run("initdb", "-D", str(self.data), "-A", method, "-U", "postgres", f"--pwfile={secret}",
                      "--no-sync", "--no-instructions")  # fmt: skip
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "max_connections": "200",
            **self._settings,
        }
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.binary.with_name(program)), *arguments],
            check=True, stdout=subprocess.DEVNULL, cwd=self.folder, user=self.user, group=self.user,
            extra_groups=None if self.user is None else [],
        )  # fmt: skip

    def answers(self) -> bool:
        """Whether it is open for connections."""
        try:
            with socket.create_connection((HOST, self.port), _ANSWER_S_MAX) as connection:
                connection.settimeout(_ANSWER_S_MAX)
                connection.sendall(_READY_PROBE)
                answer = connection.recv(1024)
        except OSError:
            return False
        return answer.startswith(b"R")
