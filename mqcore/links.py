"""Links that transports have in common: one whose streams are connections of their own, and one around another link.

Must not know what a stream is made of: a socket, memory, or a wrapper around either (TLS, framing).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping

import trio

from mqcore.abc import ByteStream, Link, Listener, Peer, TlsOptions, Transport, TransportCapabilities
from mqcore.errors import TransportError

__all__ = ["ClosableStream", "PassThroughLink", "PassThroughTransport", "StreamLink"]


class ClosableStream(ByteStream):
    """A byte stream that can be closed without waiting, which is all that a link has to know of its streams."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether this end was closed, by whatever closed it."""

    @abstractmethod
    def close(self) -> None:
        """Close this end at once; tasks waiting on it get ``trio.ClosedResourceError``. Idempotent."""


class StreamLink(Link):
    """A link to ``peer`` whose first stream is ``stream``.

    ``connect_again`` makes a further stream to the same peer; a server's link has none.
    """

    def __init__(
        self, stream: ClosableStream, peer: Peer, connect_again: Callable[[], Awaitable[ClosableStream]] | None = None
    ) -> None:
        self.peer = peer
        self._first: ClosableStream | None = stream
        self._streams = [stream]
        self._connect_again = connect_again
        self._closed = False

    async def accept_stream(self) -> ByteStream:
        """Return the one stream of a server's link; ``trio.EndOfChannel`` after it, and on a client's link."""
        await trio.lowlevel.checkpoint()
        if self._first is None or self._connect_again is not None:
            raise trio.EndOfChannel
        stream, self._first = self._first, None
        return stream

    async def open_stream(self) -> ByteStream:
        """Return the stream that the link was connected with, then connect again. Raises ``TransportError``.

        If cancelled, nothing stays open.
        """
        if self._closed:
            raise trio.ClosedResourceError("the link is closed")
        if self._connect_again is None:
            raise TransportError(f"the link to {self.peer.address} was accepted: only its client can open streams")
        if self._first is not None:
            await trio.lowlevel.checkpoint()
            # Looked at again: another task may have been given the first stream during the checkpoint.
            if self._first is not None:
                stream, self._first = self._first, None
                return stream
        stream = await self._connect_again()
        if self._closed:
            stream.close()
            raise trio.ClosedResourceError("the link was closed")
        # A consumer that reconnects for months opens a stream each time: those that ended must not pile up.
        self._streams = [open_one for open_one in self._streams if not open_one.closed]
        self._streams.append(stream)
        return stream

    async def aclose(self) -> None:
        """Close the link and all its streams, even if this is cancelled. Idempotent."""
        self._closed = True
        for stream in self._streams:
            stream.close()
        await trio.lowlevel.checkpoint()


class PassThroughLink(Link):
    """The link ``inner``, by another object. What a wrapper of links derives from; see ``mqcore.abc.Link``.

    Override what is to be other. Everything else goes to the link inside, members of a later contract version included.
    """

    def __init__(self, inner: Link) -> None:
        self.inner = inner
        self._peer: Peer | None = None

    @property
    def peer(self) -> Peer:
        """Who the link inside says that it is, as it is known by now, unless a wrapper has set who that is."""
        return self.inner.peer if self._peer is None else self._peer

    @peer.setter
    def peer(self, peer: Peer) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._peer = peer

    async def accept_stream(self) -> ByteStream:
        """See ``Link``."""
        return await self.inner.accept_stream()

    async def open_stream(self) -> ByteStream:
        """See ``Link``."""
        return await self.inner.open_stream()

    def admit(self) -> None:
        """See ``Link``."""
        self.inner.admit()

    def connection_of(self, stream: ByteStream) -> object:
        """Return what carries ``stream``, one of the link inside: who wraps streams too asks with those inside."""
        return self.inner.connection_of(stream)

    async def aclose(self) -> None:
        """See ``Link``."""
        await self.inner.aclose()


class PassThroughTransport(Transport):
    """The transport ``inner``, by another object. What a wrapper of transports derives from, as of links."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner.url, inner.options, inner.context)
        self.inner = inner

    @property
    def capabilities(self) -> TransportCapabilities:
        """See ``Transport``."""
        return self.inner.capabilities

    @property
    def is_loopback(self) -> bool:
        """See ``Transport``."""
        return self.inner.is_loopback

    @property
    def files(self) -> TlsOptions:
        """See ``Transport``."""
        return self.inner.files

    def check_files(self) -> None:
        """See ``Transport``."""
        self.inner.check_files()

    async def listen(self) -> Listener:
        """See ``Transport``."""
        return await self.inner.listen()

    async def connect(self) -> Link:
        """See ``Transport``."""
        return await self.inner.connect()

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """See ``Transport``."""
        return await self.inner.operate(operation, arguments)
