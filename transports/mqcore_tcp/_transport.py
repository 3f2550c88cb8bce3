"""Listening and connecting over TCP. Must not know of the protocol that the streams carry."""

from __future__ import annotations

import errno

from trio import socket as tsocket

from mqcore.abc import Link, Listener, Peer, Transport, TransportCapabilities, TransportContext, Url
from mqcore.errors import TransportError
from mqcore.links import StreamLink
from mqcore.sockets import SocketListener, SocketStream, enlarge_buffers, grants_buffers
from mqcore_tcp._addresses import Address, connect_first, order_for_racing
from mqcore_tcp._config import TcpOptions

__all__ = ["TcpTransport"]

_CAPABILITIES = TransportCapabilities(half_close=True, simulable=True)

_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "the port is in use: stop what listens there (ss -ltnp) or choose another, 0 for any free one",
    errno.EACCES: "no permission: choose a port above 1023 or grant CAP_NET_BIND_SERVICE",
    errno.EPERM: "no permission: choose a port above 1023 or grant CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "no such address on this machine: choose one that `ip address` lists, or 0.0.0.0 for all",
    errno.EAFNOSUPPORT: "this machine does not support that kind of address: use IPv4",
}
_CONNECT_REMEDIES = {
    errno.ECONNREFUSED: "nothing listens there: start the broker, or check host and port",
    errno.ETIMEDOUT: "no answer: check the host, the network and firewalls",
    errno.EHOSTUNREACH: "the host cannot be reached: check the address and the network",
    errno.ENETUNREACH: "the network cannot be reached: check the address and the network",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n) or open fewer connections",
}


class TcpTransport(Transport):
    """The transport part of the scheme ``tcp``."""

    options_class = TcpOptions

    def __init__(self, url: Url, options: TcpOptions, context: TransportContext) -> None:
        super().__init__(url, options, context)
        self._host, self._port = url.address
        self._buffer_bytes: int = options.socket_buffer_bytes
        self._backlog: int = options.backlog

    @property
    def capabilities(self) -> TransportCapabilities:
        """What TCP promises."""
        return _CAPABILITIES

    async def listen(self) -> Listener:
        """Listen at the first address that the host stands for; the listener's URL has the port that was bound.

        Raises ``TransportError``. If cancelled, nothing stays open.
        """
        # A listener binds one address only: IPv4 where there is one, for that is what peers expect behind a name.
        family, address = min(await self._addresses(tsocket.AI_PASSIVE), key=lambda item: item[0])
        socket = self._open_socket(family)
        try:
            socket.setsockopt(tsocket.SOL_SOCKET, tsocket.SO_REUSEADDR, 1)
            if family == tsocket.AF_INET6:
                socket.setsockopt(tsocket.IPPROTO_IPV6, tsocket.IPV6_V6ONLY, 1)
            await socket.bind(address)
            socket.listen(self._backlog)
            port = socket.getsockname()[1]
            large = self._buffers_granted(family)
        except OSError as error:
            socket.close()
            raise self._error("listen", error, _LISTEN_REMEDIES) from error
        except BaseException:
            socket.close()
            raise
        url = Url(self.url.scheme, _host_and_port(self._host, port))
        return SocketListener(socket, url, _LinkMaker(self, large), self.context.report)

    async def connect(self) -> Link:
        """Connect to the first address of the host that answers. Raises ``TransportError``.

        If cancelled, nothing stays open.
        """
        stream = await self._connect_stream()
        return StreamLink(stream, Peer(address=_host_and_port(self._host, self._port)), self._connect_stream)

    async def _connect_stream(self) -> SocketStream:
        addresses = order_for_racing(await self._addresses(0))
        try:
            return SocketStream(await connect_first(addresses, self._connect_socket))
        except OSError as error:
            raise self._error("connect", error, _CONNECT_REMEDIES) from error

    async def _connect_socket(self, address: Address) -> tsocket.SocketType:
        """Connect to one address. Raises ``OSError``, also for a family that this machine does not have."""
        family, place = address
        socket = tsocket.socket(family, tsocket.SOCK_STREAM)
        try:
            self.tune(socket, self._buffers_granted(family))
            await socket.connect(place)
        except BaseException:
            socket.close()
            raise
        return socket

    def tune(self, socket: tsocket.SocketType, large_buffers: bool) -> None:
        """Set the options that every TCP stream has; raises ``OSError``."""
        socket.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_NODELAY, 1)
        if large_buffers:
            enlarge_buffers(socket, self._buffer_bytes)

    async def _addresses(self, flags: int) -> list[Address]:
        """Addresses of the host, in the order in which the system prefers them. Raises ``TransportError``."""
        try:
            found = await tsocket.getaddrinfo(self._host, self._port, type=tsocket.SOCK_STREAM, flags=flags)
        except (OSError, UnicodeError) as error:
            raise TransportError(f"{self.url}: host {self._host!r} is not known ({error}): check its name") from error
        return [(int(family), address) for family, _, _, _, address in found]

    def _open_socket(self, family: int) -> tsocket.SocketType:
        try:
            return tsocket.socket(family, tsocket.SOCK_STREAM)
        except OSError as error:
            raise self._error("open a socket for", error, _CONNECT_REMEDIES) from error

    def _buffers_granted(self, family: int) -> bool:
        if not self._buffer_bytes:
            return False
        with tsocket.socket(family, tsocket.SOCK_STREAM) as probe:
            return grants_buffers(probe, self._buffer_bytes)

    def _error(self, verb: str, error: OSError, remedies: dict[int, str]) -> TransportError:
        remedy = remedies.get(error.errno or 0, str(error))
        return TransportError(f"cannot {verb} {self.url}: {remedy}")


class _LinkMaker:
    """Turns an accepted socket into a link."""

    def __init__(self, transport: TcpTransport, large_buffers: bool) -> None:
        self._transport = transport
        self._large_buffers = large_buffers

    def __call__(self, socket: tsocket.SocketType, address: object) -> StreamLink:
        self._transport.tune(socket, self._large_buffers)
        host, port = address[:2] if isinstance(address, tuple) else (str(address), 0)
        return StreamLink(SocketStream(socket), Peer(address=_host_and_port(host, port)))


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
