"""A UDP socket: many datagrams in few calls. Must not know what they carry.

Linux cuts a buffer into datagrams of one size by itself (UDP_SEGMENT) and hands a row of them over at once (UDP_GRO);
where it does not, they go one by one.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import trio

__all__ = ["Datagrams", "DatagramSocket", "datagram_socket"]

_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
SEGMENTS_MAX = 64
SEGMENTED_BYTES_MAX = 65_000
RECEIVE_BYTES = 65_536
ROUNDS_MAX = 16
"""Reads of the socket before others get a turn."""
KEPT_MAX = 16_384
"""Datagrams that wait for the socket; what comes beyond is dropped, as a network would."""


def datagram_socket(family: int) -> Any:
    """A new socket for datagrams whose calls do not wait: the kernel's, or a model network's where one is installed."""
    sock = trio.socket.socket(family, socket.SOCK_DGRAM)
    model = getattr(sock, "without_waiting", None)
    return model() if model is not None else socket.socket(fileno=sock.detach())


class Datagrams(NamedTuple):
    """What came from one address, in order: ``data`` are datagrams of ``size`` bytes, the last one perhaps shorter."""

    address: Any
    data: bytes
    size: int

    @property
    def pieces(self) -> list[bytes]:
        """The datagrams one by one."""
        return [self.data[at : at + self.size] for at in range(0, len(self.data), self.size)]


class DatagramSocket:
    """Owns ``sock`` (see ``datagram_socket``), which may be connected to ``peer``."""

    def __init__(self, sock: Any, peer: Any, buffer_bytes: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.kept: deque[tuple[bytes, Any]] = deque()
        self.is_refused = False
        self._peer = peer
        self._segments = True
        if buffer_bytes:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
        try:
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError:  # another system, or an older kernel
            self._segments = False

    def receive(self) -> list[Datagrams]:
        """Return what is there, in order; empty when there is nothing. Raises nothing."""
        found: list[Datagrams] = []
        for _ in range(ROUNDS_MAX):
            try:
                data, ancillary, _, address = self.sock.recvmsg(RECEIVE_BYTES, 64)
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                self.is_refused = True
                continue
            except OSError:
                break
            if not data:  # says nothing, to anybody
                continue
            size = len(data)
            for level, kind, content in ancillary:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    (size,) = struct.unpack_from("@i", content)
            found.append(Datagrams(address or self._peer, data, size))
        return found

    def send(self, datagrams: Sequence[tuple[bytes, Any]]) -> bool:
        """Send ``datagrams``, each with where to; False when some of them wait for the socket. Raises nothing."""
        if self.kept:
            self._keep(datagrams)
            return False
        at = 0
        while at < len(datagrams):
            run = self._run_from(datagrams, at) if self._segments else [datagrams[at][0]]
            try:
                self._send_run(run, datagrams[at][1])
            except BlockingIOError:
                self._keep(datagrams[at:])
                return False
            except ConnectionRefusedError:
                self.is_refused = True
            except OSError as error:
                if len(run) > 1 and error.errno in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOTSUP):
                    self._segments = False  # an interface that cannot: again, one by one
                    continue
                # The network is away or full: as if it was lost on the way, which the connection mends.
            at += len(run)
        return True

    def send_kept(self) -> bool:
        """Send what waits; False when some of it still does."""
        kept, self.kept = list(self.kept), deque()
        return self.send(kept)

    def _keep(self, datagrams: Sequence[tuple[bytes, Any]]) -> None:
        self.kept.extend(datagrams[: max(0, KEPT_MAX - len(self.kept))])

    @staticmethod
    def _run_from(datagrams: Sequence[tuple[bytes, Any]], at: int) -> list[bytes]:
        """Those from ``at`` on that can go at once: of one address, and of one size but for the last."""
        data, address = datagrams[at]
        size, run = len(data), [data]
        most = min(SEGMENTS_MAX, SEGMENTED_BYTES_MAX // size)
        for following, its_address in datagrams[at + 1 : at + most]:
            if len(following) == size and its_address == address:
                run.append(following)
                continue
            if len(following) < size and its_address == address:
                run.append(following)
            break
        return run

    def _send_run(self, run: list[bytes], address: Any) -> None:
        where = () if self._peer is not None else (address,)
        ancillary = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(run[0])))] if len(run) > 1 else []
        self.sock.sendmsg(run, ancillary, 0, *where)

    async def wait_readable(self) -> None:
        """Wait until there may be something. ``trio.ClosedResourceError`` when it is closed meanwhile."""
        if isinstance(self.sock, socket.socket):
            await trio.lowlevel.wait_readable(self.sock)
        else:
            await self.sock.wait_readable()

    def wake_waiting(self) -> None:
        """Tell who waits that it is about to be closed; a model socket does so by itself."""
        if isinstance(self.sock, socket.socket):
            trio.lowlevel.notify_closing(self.sock)

    def close(self) -> None:
        """Close it. Idempotent."""
        self.sock.close()
