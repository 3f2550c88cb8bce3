"""Socket options of toy and load generators, as performance.md (rule 2) wants them."""

from __future__ import annotations

import socket

import trio

__all__ = ["tune"]

_WANTED_BYTES = 4 * 1024 * 1024


def _granted(which: str) -> bool:
    try:
        with open(f"/proc/sys/net/core/{which}_max") as file:
            return int(file.read()) >= _WANTED_BYTES
    except (OSError, ValueError):
        return False


def tune(connection: trio.socket.SocketType) -> None:
    """No delay for small writes; 4 MiB buffers where the kernel grants them, else its own automatic size."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _granted("wmem"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WANTED_BYTES)
    if _granted("rmem"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WANTED_BYTES)
