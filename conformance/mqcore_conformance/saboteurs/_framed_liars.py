"""Liars made of the worked example of a transport that wraps another one: each breaks one promise of it.

Mistakes of plug-in authors, on real sockets. Knows the example's methods and nothing of how it is judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import trio

from mqcore.links import ClosableStream
from mqcore.ports import Buffer
from mqcore_conformance.examples.framed_transport import (
    HEADER,
    FramedStream,
    FramedTransport,
    frames_of,
)

SWAPPED_WRITE = 500
BYTES_PER_FLIP = 1_000_000


class _HoldingStream(FramedStream):
    """The last frame of a write of several is sent beside the caller, and the close does not wait for it."""

    def __init__(self, inner: ClosableStream) -> None:
        super().__init__(inner)
        self.held: memoryview | None = None

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        await self._send_held()
        *frames, last = frames_of(buffers) or [memoryview(b"")]
        if not frames:
            await super().send_buffers(buffers)
            return
        await super().send_buffers(frames)
        self.held = last
        trio.lowlevel.spawn_system_task(self._send_held)

    async def _send_held(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
                await super().send_buffers([held])


class HoldingTransport(FramedTransport):
    """The last bytes of a large write are dropped by an orderly close behind it."""

    stream_class = _HoldingStream


class _OvertakingStream(FramedStream):
    """One write in ``SWAPPED_WRITE`` is sent after the next one."""

    writes = 0
    overtaken: bytes | None = None

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        self.writes += 1
        if self.writes % SWAPPED_WRITE == 0:
            await trio.lowlevel.checkpoint()
            self.overtaken = b"".join(buffers)
            return
        await super().send_buffers(buffers)
        if self.overtaken is not None:
            await super().send_buffers([self.overtaken])
            self.overtaken = None


class OvertakingTransport(FramedTransport):
    """Every 500th write is overtaken by the next one."""

    stream_class = _OvertakingStream


class _ForgettingStream(FramedStream):
    """What was read of a header stands in a variable of the call, and is gone with it."""

    async def receive_header(self) -> bool:
        header = b""
        while len(header) < HEADER.size:
            rest = bytearray(HEADER.size - len(header))
            received = await self.inner.receive_into(rest)
            if not received:
                return False
            header += rest[:received]
        (self.left,) = HEADER.unpack(header)
        return True


class ForgettingTransport(FramedTransport):
    """A cancelled receive loses the half of a header that it had read."""

    stream_class = _ForgettingStream


class _OpenStream(FramedStream):
    """A write that is cut between two inner writes leaves the stream open."""

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        for frame in frames_of(buffers):
            await self.inner.send_buffers([HEADER.pack(len(frame)), frame])
        await trio.lowlevel.checkpoint_if_cancelled()


class OpenTransport(FramedTransport):
    """A write that was cut between two frames leaves the stream open."""

    stream_class = _OpenStream


class _FlippingStream(FramedStream):
    """One bit a megabyte is flipped."""

    sent = 0

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        data = bytearray(b"".join(buffers))
        for place in range(-self.sent % BYTES_PER_FLIP, len(data), BYTES_PER_FLIP):
            data[place] ^= 1 if self.sent + place else 0
        self.sent += len(data)
        await super().send_buffers([data])


class FlippingTransport(FramedTransport):
    """One bit a megabyte is flipped."""

    stream_class = _FlippingStream
