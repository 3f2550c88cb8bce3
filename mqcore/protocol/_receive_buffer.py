"""The bytes received and not yet parsed. Rule: memory follows the bytes that came, never a size that was announced.

Knows how many bytes are pending and how many are needed next, not what they mean.
"""

from __future__ import annotations

__all__ = ["BUFFER_BYTES_BUSY", "ReceiveBuffer"]

_BUFFER_BYTES_FIRST = 16 * 1024
BUFFER_BYTES_BUSY = 256 * 1024


class ReceiveBuffer:
    """A buffer that the transport writes into and messages are views of.

    ``buffer_bytes_max``: how far it grows for frames that would fit a smaller one, so that a busy stream is read in
    few system calls; one larger frame makes it as large as that frame.
    """

    def __init__(self, needed: int, buffer_bytes_max: int) -> None:
        self._buffer_bytes_busy = max(buffer_bytes_max, _BUFFER_BYTES_FIRST)
        self._buffer = bytearray(_BUFFER_BYTES_FIRST)
        self._view = memoryview(self._buffer)
        self._parsed = 0
        self._filled = 0
        self._needed = self._needed_first = needed
        self._at_end = False
        self._is_deaf = False

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes go. Views given out with earlier messages become invalid."""
        pending = self._filled - self._parsed
        capacity = len(self._buffer)
        if self._needed > capacity or (self._filled == capacity and capacity < self._buffer_bytes_busy):
            # Doubled as bytes arrive: a frame header may announce the limit and nothing may ever follow (G20).
            wanted = max(min(self._needed, 2 * max(pending, capacity)), min(2 * capacity, self._buffer_bytes_busy))
            self._move_to(bytearray(wanted))
        elif self._parsed:
            if pending == 0:
                self._parsed = self._filled = 0
            elif capacity - self._filled < max(self._needed - pending, capacity // 4):
                # Moved down only when the rest of the frame, or a quarter of the buffer, does not fit behind it:
                # moving at each call would copy every partial frame once per read.
                self._view[:pending] = self._view[self._parsed : self._filled]
                self._parsed, self._filled = 0, pending
        if self._filled == len(self._buffer):
            self._move_to(bytearray(min(self._needed, 2 * len(self._buffer))))
        return self._view[self._filled :]

    def _move_to(self, buffer: bytearray) -> None:
        # A new object, never a resize: views of the old one are out, and a bytearray with views cannot be resized.
        pending = self._filled - self._parsed
        view = memoryview(buffer)
        view[:pending] = self._view[self._parsed : self._filled]
        self._buffer, self._view = buffer, view
        self._parsed, self._filled = 0, pending

    def shrink_buffer(self) -> None:
        """Go back to a small receive buffer, when nothing is pending: a connection at rest costs little memory."""
        if self._filled == self._parsed and len(self._buffer) > _BUFFER_BYTES_FIRST:
            self._move_to(bytearray(_BUFFER_BYTES_FIRST))
            self._needed = self._needed_first

    @property
    def buffer_bytes(self) -> int:
        """Size of the receive buffer now."""
        return len(self._buffer)

    @property
    def bytes_pending(self) -> int:
        """Bytes received that are not part of a whole message yet."""
        return self._filled - self._parsed

    def received(self, size: int) -> None:
        """Report that ``size`` bytes were written to the receive buffer; 0 means that the stream ended."""
        if size == 0:
            self._at_end = True
        if not self._is_deaf:
            self._filled += size

    def _drop_received(self) -> None:
        """Keep nothing of what came or will come: a caller that goes on receiving must not cost memory."""
        self._is_deaf = True
        self._parsed = self._filled = 0

    @property
    def at_end(self) -> bool:
        """Whether the peer's stream ended."""
        return self._at_end
