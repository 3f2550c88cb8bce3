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
    """What came from one address, in order."""

    address: Any
    data: list[bytes]


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
        """Return what is there, by sender and in order; empty when there is nothing. Raises nothing."""
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
            size = 0
            for level, kind, content in ancillary:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    (size,) = struct.unpack_from("@i", content)
            pieces = [data[at : at + size] for at in range(0, len(data), size)] if 0 < size < len(data) else [data]
            if found and found[-1].address == (address or self._peer):
                found[-1].data.extend(pieces)
            else:
                found.append(Datagrams(address or self._peer, pieces))
        return found

    def send(self, datagrams: Sequence[tuple[bytes, Any]]) -> bool:
        """Send ``datagrams``, each with where to; False when some of them wait for the socket. Raises nothing."""
        if self.kept:
            self._keep(datagrams)
            return False
        at = 0
        while at < len(datagrams):
            end = self._run_from(datagrams, at) if self._segments else at + 1
            try:
                self._send_run(datagrams[at:end])
            except BlockingIOError:
                self._keep(datagrams[at:])
                return False
            except ConnectionRefusedError:
                self.is_refused = True
            except OSError as error:
                if end - at > 1 and error.errno in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOTSUP):
                    self._segments = False  # an interface that cannot: again, one by one
                    continue
                # The network is away or full: as if it was lost on the way, which the connection mends.
            at = end
        return True

    def send_kept(self) -> bool:
        """Send what waits; False when some of it still does."""
        kept, self.kept = list(self.kept), deque()
        return self.send(kept)

    def _keep(self, datagrams: Sequence[tuple[bytes, Any]]) -> None:
        self.kept.extend(datagrams[: max(0, KEPT_MAX - len(self.kept))])

    @staticmethod
    def _run_from(datagrams: Sequence[tuple[bytes, Any]], at: int) -> int:
        """The end of the run from ``at`` on that can go at once: one address, one size but for the last."""
        data, address = datagrams[at]
        size = total = len(data)
        end = at + 1
        while end < len(datagrams) and end - at < SEGMENTS_MAX:
            following, its_address = datagrams[end]
            total += len(following)
            if its_address != address or len(following) > size or total > SEGMENTED_BYTES_MAX:
                break
            end += 1
            if len(following) < size:
                break
        return end

    def _send_run(self, run: Sequence[tuple[bytes, Any]]) -> None:
        data, address = run[0]
        where = () if self._peer is not None else (address,)
        if len(run) == 1:
            self.sock.sendmsg([data], [], 0, *where)
        else:
            ancillary = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(data)))]
            self.sock.sendmsg([each for each, _ in run], ancillary, 0, *where)

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
