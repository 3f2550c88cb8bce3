"""A link whose streams are connections of their own: what transports without multiplexing have in common.

Must not know what a stream is made of: a socket, memory, or a wrapper around either (TLS, framing).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable

import trio

from mqcore.abc import ByteStream, Link, Peer
from mqcore.errors import TransportError

__all__ = ["ClosableStream", "StreamLink"]


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
