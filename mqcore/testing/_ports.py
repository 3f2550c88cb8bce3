"""Ports of this machine for servers that a test starts in processes of their own, and starts again.

A port that was only looked at may be given to an outgoing connection before the server listens there, or while it is
down. So these are none that the kernel gives out by itself, and each stays bound, by a socket that does not listen,
until this process ends or has taken many more: bound like that, it is free for a server that sets SO_REUSEADDR,
as servers do, and for nobody who looks for a port. Must not know what listens.
"""

from __future__ import annotations

import errno
import random
import socket
from collections import deque
from collections.abc import Collection
from pathlib import Path

__all__ = ["release_ports", "reserve_ports"]

HELD_MAX = 256
"""Ports that are held; beyond that the oldest is let go, on which its server listens by then."""
ATTEMPTS_MAX = 10_000
_FIRST, _BEYOND = 10_000, 65_536
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RANGE_USUAL = (32_768, 60_999)
_held: deque[socket.socket] = deque()


def reserve_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ``count`` different ports of ``host`` on which nothing listens, of TCP and of UDP alike.

    Whoever calls this, in any process, gets others. Raises ``OSError`` when there are not that many.
    """
    candidates = _candidates()
    source = random.SystemRandom()  # two processes that begin at one moment would otherwise try the same ones
    found: list[int] = []
    for _ in range(ATTEMPTS_MAX):
        if len(found) == count:
            return found
        port = source.choice(candidates)
        holder = _hold(host, port)
        if holder is not None:
            found.append(port)
            _held.append(holder)
            if len(_held) > HELD_MAX:
                _held.popleft().close()
    raise OSError(errno.EADDRINUSE, f"no {count} free ports on {host} between {_FIRST} and {_BEYOND - 1}")


def release_ports(ports: Collection[int]) -> None:
    """Give back ports of ``reserve_ports`` on which nothing is to listen any more. Idempotent."""
    for holder in list(_held):
        if holder.getsockname()[1] in ports:
            _held.remove(holder)
            holder.close()


def _candidates() -> list[int]:
    """The ports that the kernel leaves alone; all of them where it leaves none."""
    try:
        least, most = map(int, _RANGE_FILE.read_text().split())
    except (OSError, ValueError):  # another system
        least, most = _RANGE_USUAL
    found = [port for port in range(_FIRST, _BEYOND) if not least <= port <= most]
    return found if len(found) > HELD_MAX else list(range(_FIRST, _BEYOND))


def _hold(host: str, port: int) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, port))
        holder.bind((host, port))  # alone: another that holds it, or listens, is in the way
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        holder.close()
        return None
    return holder
