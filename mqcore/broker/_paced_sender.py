"""Writes to one stream in pieces that take about the same time, so that a slow peer can be told from a silent one.

A stream says only that all bytes went. A large reply on a slow link would look like a peer that reads nothing, and be
given up again and again; cut into pieces, it shows that bytes move. Must not know of frames or time limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from mqcore.abc import Buffer, ByteStream

__all__ = ["PacedSender"]

_JOIN_BYTES_MAX = 64 * 1024

_PIECE_BYTES_MIN = 64 * 1024
_PIECE_BYTES_MAX = 16 * 1024 * 1024
_QUICK_SECONDS = 0.1
"""A piece that went faster than this is followed by one of twice the size, another one by half of it."""


class PacedSender:
    """Sends buffers on ``stream``. ``sending_since``: when the bytes under way began to go, or went on; else None."""

    def __init__(self, stream: ByteStream, now: Callable[[], float]) -> None:
        self.sending_since: float | None = None
        self._stream = stream
        self._now = now
        # Begins small and is kept for the connection's life: a fast reader soon gets every reply in one call.
        self._piece_bytes = _PIECE_BYTES_MIN

    async def send(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers`` one after the other, all of them. If cancelled, the stream is of no more use."""
        begun = self.sending_since = self._now()
        size = sum(map(len, buffers))
        if size > self._piece_bytes:
            await self._send_in_pieces(buffers)
        elif len(buffers) > 1 and size <= _JOIN_BYTES_MAX:
            await self._stream.send_buffers((b"".join(buffers),))  # a copy of so little costs less than each iovec
        else:
            await self._stream.send_buffers(buffers)
            if self._now() - begun >= _QUICK_SECONDS:
                self._piece_bytes = max(self._piece_bytes // 2, _PIECE_BYTES_MIN)
        self.sending_since = None

    async def _send_in_pieces(self, buffers: Sequence[Buffer]) -> None:
        rest = deque(memoryview(buffer) for buffer in buffers)
        while rest:
            piece: list[memoryview] = []
            room = self._piece_bytes
            while rest and room:
                view = rest.popleft()
                if len(view) > room:
                    rest.appendleft(view[room:])
                    view = view[:room]
                piece.append(view)
                room -= len(view)
            begun = self.sending_since = self._now()
            await self._stream.send_buffers(piece)
            if self._now() - begun >= _QUICK_SECONDS:
                self._piece_bytes = max(self._piece_bytes // 2, _PIECE_BYTES_MIN)
            elif not room:  # the last piece may be small, and says nothing of how fast a full one is
                self._piece_bytes = min(2 * self._piece_bytes, _PIECE_BYTES_MAX)
