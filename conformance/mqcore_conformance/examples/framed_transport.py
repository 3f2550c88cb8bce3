"""A transport that wraps another one's byte streams: each write goes as frames of a length and that many bytes.

Its streams are no sockets, as those of TLS or of a tunnel are not. See docs/transport-framed.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar

import attrs
import trio

from mqcore.abc import Link, Listener, Transport, TransportCapabilities
from mqcore.abc import TransportContext as Context
from mqcore.errors import TransportError
from mqcore.links import ClosableStream, StreamLink
from mqcore.ports import Buffer
from mqcore.registry import create_transport
from mqcore.url import Url

HEADER = struct.Struct(">I")
FRAME_BYTES_MAX = 64 * 1024


class FramedStream(ClosableStream, trio.abc.HalfCloseableStream):
    """Frames over the stream ``inner``. One task may send while another receives."""

    def __init__(self, inner: ClosableStream) -> None:
        self.inner = inner
        self.header = bytearray()
        self.left = 0
        self.sending = False

    # ---- receiving -------------------------------------------------------------------------------------------

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """See ``ByteStream``. What was read of a header stays in the stream, so that a cancelled call loses nothing."""
        if not len(buffer):
            await trio.lowlevel.checkpoint()
            return 0
        while not self.left:
            if not await self.receive_header():
                return 0
        received = await self.inner.receive_into(memoryview(buffer)[: self.left])
        if not received:
            raise trio.BrokenResourceError("the stream ended within a frame")
        self.left -= received
        return received

    async def receive_header(self) -> bool:
        """Read on until a header is whole; False at the end of the stream."""
        rest = bytearray(HEADER.size - len(self.header))
        received = await self.inner.receive_into(rest)
        if not received:
            if self.header:
                raise trio.BrokenResourceError("the stream ended within a header")
            return False
        self.header += rest[:received]
        if len(self.header) == HEADER.size:
            (self.left,) = HEADER.unpack(self.header)
            self.header.clear()
        return True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See ``trio.abc.ReceiveStream``."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes = {max_bytes}: must be at least 1")
        buffer = bytearray(max_bytes or FRAME_BYTES_MAX)
        return bytes(buffer[: await self.receive_into(buffer)])

    # ---- sending ---------------------------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """See ``trio.abc.SendStream``."""
        await self.send_buffers([memoryview(data).cast("B")])
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """See ``ByteStream``. A write that is cut between two frames closes the stream, as one cut in a frame does."""
        if self.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self.sending = True
        begun = False
        try:
            for frame in frames_of(buffers):
                await self.inner.send_buffers([HEADER.pack(len(frame)), frame])
                begun = True
            if not begun:  # nothing to send: a closed stream is noticed all the same
                await self.inner.send_buffers([])
        except BaseException:
            if begun:
                self.close()
            raise
        finally:
            self.sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """See ``trio.abc.SendStream``."""
        await self.inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """See ``trio.abc.HalfCloseableStream``. The end of the inner stream is the end of this one."""
        if self.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        assert isinstance(self.inner, trio.abc.HalfCloseableStream)
        await self.inner.send_eof()

    # ---- closing ---------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """See ``ClosableStream``."""
        return self.inner.closed

    def close(self) -> None:
        """See ``ClosableStream``."""
        self.inner.close()

    async def aclose(self) -> None:
        """Close it. Every frame was given to the inner stream when its write returned, so that none is left to send."""
        await self.inner.aclose()


def frames_of(buffers: Sequence[Buffer]) -> list[memoryview]:
    """Return the bytes of ``buffers`` in pieces that fit into a frame; none of them is empty."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    return [view[begin : begin + FRAME_BYTES_MAX] for view in views for begin in range(0, len(view), FRAME_BYTES_MAX)]


class FramedListener(Listener):
    """Accepts links of the inner transport, each with one stream."""

    def __init__(self, inner: Listener, url: Url, stream_class: type[FramedStream]) -> None:
        self.inner, self.url, self.stream_class = inner, url, stream_class

    async def accept(self) -> Link:
        """See ``Listener``."""
        link = await self.inner.accept()
        try:
            stream = await link.accept_stream()
        except BaseException:
            await trio.aclose_forcefully(link)
            raise
        assert isinstance(stream, ClosableStream)
        return StreamLink(self.stream_class(stream), link.peer)

    async def aclose(self) -> None:
        """See ``Listener``."""
        await self.inner.aclose()


@attrs.frozen
class FramedOptions:
    """None: a URL such as ``framed://127.0.0.1:7400`` says it all."""


class FramedTransport(Transport):
    """The transport of the scheme ``framed``: frames over TCP."""

    capabilities = TransportCapabilities(half_close=True, simulable=True)
    options_class = FramedOptions
    stream_class: ClassVar[type[FramedStream]] = FramedStream

    def __init__(self, url: Url, options: FramedOptions, context: Context) -> None:
        super().__init__(url, options, context)
        self.inner = create_transport(f"tcp://{url.rest}", context=context)

    async def listen(self) -> Listener:
        """See ``Transport``."""
        try:
            listener = await self.inner.listen()
        except TransportError as error:
            raise TransportError(f"cannot listen {self.url}: {error}") from error
        return FramedListener(listener, Url(self.url.scheme, listener.url.rest), self.stream_class)

    async def connect(self) -> Link:
        """See ``Transport``."""
        link, stream = await self.connect_inner()
        return StreamLink(stream, link.peer, self.connect_again)

    async def connect_again(self) -> FramedStream:
        """Connect a further stream to the same peer."""
        return (await self.connect_inner())[1]

    async def connect_inner(self) -> tuple[Link, FramedStream]:
        """Connect, and frame the stream of the link that this makes."""
        try:
            link = await self.inner.connect()
        except TransportError as error:
            raise TransportError(f"cannot connect {self.url}: {error}") from error
        try:
            stream = await link.open_stream()
        except BaseException:
            await trio.aclose_forcefully(link)
            raise
        assert isinstance(stream, ClosableStream)
        return link, self.stream_class(stream)
