"""Listening and connecting over QUIC. Must not know of the protocol that the streams carry."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mqcore.abc import (
    ByteStream,
    Link,
    Listener,
    Peer,
    TlsOptions,
    Transport,
    TransportCapabilities,
    TransportContext,
    Url,
)
from mqcore.errors import TransportError
from mqcore.followed import FollowedFiles
from mqcore_quic._config import QuicOptions
from mqcore_quic._endpoint import Endpoint
from mqcore_quic._engine import client_configuration, server_configuration
from mqcore_quic._identity import peer_with_certificate
from mqcore_quic._link import QuicLink
from mqcore_quic._socket import DatagramSocket, datagram_socket
from mqcore_quic._stream import QuicStream

__all__ = ["QuicTransport"]

_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "the port is in use: stop what listens there (ss -lunp) or choose another, 0 for any free one",
    errno.EACCES: "no permission: choose a port above 1023 or grant CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "no such address on this machine: choose one that `ip address` lists, or 0.0.0.0 for all",
}


class QuicTransport(Transport):
    """The transport part of the scheme ``quic``."""

    options_class = QuicOptions

    def __init__(self, url: Url, options: QuicOptions, context: TransportContext) -> None:
        super().__init__(url, options, context)
        self._host, self._port = url.address
        self._files = options.over(context.tls)
        self._as_client: FollowedFiles[Any] | None = None

    @property
    def capabilities(self) -> TransportCapabilities:
        """What QUIC promises."""
        return TransportCapabilities(
            half_close=True,
            multiplexed=True,
            encrypted=True,
            simulable=True,
            datagrams=True,
            silence_ms=self.options.idle_timeout_ms,
        )

    @property
    def files(self) -> TlsOptions:
        """Those of the URL, then those of the broker or client."""
        return self._files

    def check_files(self) -> None:
        """See ``Transport``."""
        server_configuration(self.options, self._files, str(self.url))

    async def listen(self) -> Listener:
        """Listen at the first address that the host stands for. Raises ``TransportError``."""
        configurations = self._followed(lambda: server_configuration(self.options, self._files, str(self.url)))
        family, address = (await self._addresses())[0]
        sock = datagram_socket(family)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            port = sock.getsockname()[1]
        except OSError as error:
            sock.close()
            remedy = _LISTEN_REMEDIES.get(error.errno or 0, error.strerror)
            raise TransportError(f"cannot listen {self.url}: {remedy}") from error
        host = f"[{self._host}]" if ":" in self._host else self._host
        return _QuicListener(self._endpoint(sock, None, configurations, is_server=True), Url("quic", f"{host}:{port}"))

    async def connect(self) -> Link:
        """Connect to the first address of the host that answers. Raises ``TransportError``.

        If cancelled, nothing stays open.
        """
        name = self._files.server_name or self._host
        if self._as_client is None:
            self._as_client = self._followed(
                lambda: client_configuration(self.options, self._files, str(self.url), name)
            )
        failures: list[TransportError] = []
        for family, address in await self._addresses():

            async def connect(family: int = family, address: Any = address) -> QuicLink:
                assert self._as_client is not None
                return await self._connect_to(family, address, self._as_client)

            try:
                return _ClientLink(await connect(), connect)
            except TransportError as error:
                failures.append(error)
        text = "; ".join(dict.fromkeys(str(each) for each in failures))
        retryable = any(each.retryable for each in failures)
        raise TransportError(f"cannot connect {self.url}: {text}", retryable=retryable)

    async def _connect_to(self, family: int, address: Any, configurations: FollowedFiles[Any]) -> QuicLink:
        sock = datagram_socket(family)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            raise TransportError(f"{address[0]}: {error.strerror}") from error
        endpoint = self._endpoint(sock, address, configurations, is_server=False)
        try:
            link = endpoint.begin(address, Peer(address=f"{self._host}:{self._port}"))
            await link.until_ready()
            link.peer = peer_with_certificate(link.peer, link.engine.peer_certificate())
        except BaseException:
            endpoint.close()
            await endpoint.ended()
            raise
        return link

    def _endpoint(self, sock: socket.socket, peer: Any, files: FollowedFiles[Any], *, is_server: bool) -> Endpoint:
        return Endpoint(
            DatagramSocket(sock, peer, self.options.socket_buffer_bytes),
            self.options,
            files.current,
            report=self.context.report,
            random_bytes=self.context.random.randbytes,
            links_max=self.context.limits.connections_max,
            is_server=is_server,
            admits=self.context.admits,
        )

    def _followed(self, make: Any) -> FollowedFiles[Any]:
        files = self._files
        paths = [path for path in (files.cert, files.key, files.ca) if path is not None]
        return FollowedFiles(make, paths, str(self.url), self.context.report, key=files.key or files.cert)

    async def _addresses(self) -> list[tuple[int, Any]]:
        try:
            found = await trio.socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        except OSError as error:
            text = f"cannot find the address of {self._host!r}: {error.strerror}: check the name, or write an address"
            raise TransportError(f"{self.url}: {text}") from error
        # IPv4 first, as of TCP: what peers expect behind a name.
        return sorted(((family, address) for family, _, _, _, address in found), key=lambda item: item[0])


class _ClientLink(Link):
    """A client's connection, and further ones to the same address where the server allows no more streams on it."""

    def __init__(self, first: QuicLink, connect: Callable[[], Awaitable[QuicLink]]) -> None:
        self.peer = first.peer
        self._links = [first]
        self._connect = connect
        self._connecting = trio.Lock()
        self._is_closed = False

    async def accept_stream(self) -> ByteStream:
        """See ``Link``."""
        return await self._links[0].accept_stream()

    async def open_stream(self) -> ByteStream:
        """See ``Link``."""
        await trio.lowlevel.checkpoint()
        async with self._connecting:
            if self._is_closed:
                raise trio.ClosedResourceError("the link is closed")
            for link in self._links:
                stream = link.open_now()
                if stream is not None:
                    return stream
            why = self._links[0].why_dead()
            if why is not None:
                raise TransportError(str(why))
            self._links = [link for link in self._links if link.why_dead() is None]
            self._links.append(await self._connect())
            return await self._links[-1].open_stream()

    def connection_of(self, stream: ByteStream) -> object:
        """See ``Link``."""
        return stream.owner if isinstance(stream, QuicStream) else self

    async def aclose(self) -> None:
        """See ``Link``."""
        self._is_closed = True
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.aclose)


class _QuicListener(Listener):
    """Accepts connections that have shaken hands."""

    def __init__(self, endpoint: Endpoint, url: Url) -> None:
        self.url = url
        self._endpoint = endpoint

    async def accept(self) -> Link:
        """See ``Listener``."""
        return await self._endpoint.next_accepted()

    async def aclose(self) -> None:
        """See ``Listener``. Connections that were accepted go on."""
        self._endpoint.stop_accepting()
        await self._endpoint.ended()
        await trio.lowlevel.checkpoint()
