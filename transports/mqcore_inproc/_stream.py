"""Two-way byte streams in memory, bounded, with the manners of a socket. Must not know of names or listeners."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from mqcore.abc import Buffer
from mqcore.links import ClosableStream

__all__ = ["InprocStream", "stream_pair"]

RECEIVE_BYTES_DEFAULT = 65_536
PIECES_MAX = 1_024
"""Most sends on their way in one direction: bounds what many tiny ones cost beside their bytes."""


class _Pipe:
    """One direction: at most ``capacity`` bytes between a sender and a receiver."""

    __slots__ = (
        "capacity",
        "chunks",
        "held",
        "receiver_closed",
        "receivers",
        "receiving",
        "sender_closed",
        "senders",
        "sending",
        "torn",
    )

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.chunks: deque[memoryview] = deque()
        self.held = 0
        self.senders = trio.lowlevel.ParkingLot()
        self.receivers = trio.lowlevel.ParkingLot()
        self.sending = False
        self.receiving = False
        self.sender_closed = False
        self.receiver_closed = False
        self.torn = False

    @property
    def full(self) -> bool:
        """Whether the sender has to wait."""
        return self.held >= self.capacity or len(self.chunks) >= PIECES_MAX

    def put(self, data: memoryview) -> int:
        """Take what there is room for, copied unless it is immutable already; return how much."""
        part = data[: self.capacity - self.held]
        self.chunks.append(part if isinstance(part.obj, bytes) else memoryview(bytes(part)))
        self.held += len(part)
        self.receivers.unpark()
        return len(part)

    def take(self, size: int) -> list[memoryview]:
        """Take up to ``size`` bytes, in pieces."""
        pieces: list[memoryview] = []
        while size and self.chunks:
            chunk = self.chunks[0]
            if len(chunk) <= size:
                pieces.append(self.chunks.popleft())
                size -= len(chunk)
                self.held -= len(chunk)
            else:
                pieces.append(chunk[:size])
                self.chunks[0] = chunk[size:]
                self.held -= size
                size = 0
        self.senders.unpark()
        return pieces

    def wake_all(self) -> None:
        """Let both sides look again."""
        self.senders.unpark_all()
        self.receivers.unpark_all()


class InprocStream(ClosableStream, trio.abc.HalfCloseableStream):
    """One end of a stream in memory."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._closed

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive at least one byte into ``buffer`` and return how many; 0 at the end. No effect if cancelled."""
        target = memoryview(buffer).cast("B")
        position = 0
        for piece in await self._receive(len(target)):
            target[position : position + len(piece)] = piece
            position += len(piece)
        return position

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive 1 to ``max_bytes`` bytes (64 KiB unless told); empty at the end. No effect if cancelled."""
        if max_bytes is None:
            max_bytes = RECEIVE_BYTES_DEFAULT
        elif not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes = {max_bytes!r}: must be an int")
        elif max_bytes < 1:
            raise ValueError(f"max_bytes = {max_bytes}: must be at least 1")
        return b"".join(await self._receive(max_bytes))

    async def _receive(self, size: int) -> list[memoryview]:
        pipe = self._incoming
        if pipe.receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        pipe.receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("the stream is closed")
                if pipe.chunks:
                    return pipe.take(size)
                if pipe.torn:
                    raise trio.BrokenResourceError("the connection broke")
                if pipe.sender_closed:
                    return []
                await pipe.receivers.park()
        finally:
            pipe.receiving = False

    async def send_all(self, data: Buffer) -> None:
        """Send ``data``. If cancelled after some of it went, the stream is closed; before, it has no effect."""
        await self.send_buffers((data,))

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers`` one after the other. If cancelled after some bytes went, the stream is closed."""
        pipe = self._begin_sending()
        begun = False
        try:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            for buffer in buffers:
                rest = memoryview(buffer).cast("B")
                while len(rest):
                    while pipe.full:
                        await pipe.senders.park()
                        self._check_sendable()
                    rest = rest[pipe.put(rest) :]
                    begun = True
        except BaseException:
            if begun:
                pipe.torn = True
                self.close()
            raise
        finally:
            pipe.sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room. No effect if cancelled."""
        pipe = self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("the stream is closed")
            while pipe.full and not pipe.receiver_closed:
                await pipe.senders.park()
                if self._closed:
                    raise trio.ClosedResourceError("the stream was closed")
        finally:
            pipe.sending = False

    async def send_eof(self) -> None:
        """End this direction: the peer reads what was sent, then the end. Idempotent."""
        if self._outgoing.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("the stream is closed")
        self._outgoing.sender_closed = True
        self._outgoing.wake_all()

    def close(self) -> None:
        """Close this end at once: the peer reads what was sent, then the end; its sends break. Idempotent."""
        self._closed = True
        self._outgoing.sender_closed = True
        self._incoming.receiver_closed = True
        self._incoming.chunks.clear()
        self._incoming.held = 0
        self._outgoing.wake_all()
        self._incoming.wake_all()

    async def aclose(self) -> None:
        """Close this end, even if this is cancelled. Idempotent."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _begin_sending(self) -> _Pipe:
        pipe = self._outgoing
        if pipe.sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        pipe.sending = True
        return pipe

    def _check_sendable(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the stream is closed")
        if self._outgoing.sender_closed:
            raise trio.ClosedResourceError("this direction of the stream was ended")
        if self._outgoing.receiver_closed:
            raise trio.BrokenResourceError("the peer closed the stream")


def stream_pair(buffer_bytes: int) -> tuple[InprocStream, InprocStream]:
    """Return two ends joined, with ``buffer_bytes`` between them in each direction."""
    there, back = _Pipe(buffer_bytes), _Pipe(buffer_bytes)
    return InprocStream(back, there), InprocStream(there, back)
