"""Checksums of a log's blocks: they say which of two copies that differ is what was appended.

One for each block of ``BLOCK_BYTES`` that is whole, taken from the appended bytes themselves. They are kept in a file
beside each member's storage, without a flush: they decide nothing alone. Copies that agree are believed against them,
and where copies differ the one that matches is right, for a checksum that is missing or old matches none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from crc32c import crc32c

from mqcore.ports import Buffer

__all__ = ["BLOCK_BYTES", "SUMS_KEPT_AT", "BlockSums", "decode_sums"]

BLOCK_BYTES = 64 * 1024
SUMS_KEPT_AT = 16
"""Blocks whose checksums wait in memory."""
_ENTRY = struct.Struct("<QI")


class BlockSums:
    """Checksums by block number. ``fresh`` are those that no file has yet."""

    def __init__(self) -> None:
        self._sums: dict[int, int] = {}
        self._running: int | None = None
        self._position = 0
        self.fresh: dict[int, int] = {}

    def load(self, sums: dict[int, int], end: int) -> None:
        """Take what a file has of a log that ends at ``end``; what was seen since is newer."""
        self._sums = {block: crc for block, crc in sums.items() if (block + 1) * BLOCK_BYTES <= end} | self._sums

    def get(self, block: int) -> int | None:
        """The checksum of a whole block; None where it is not known."""
        return self._sums.get(block)

    def put(self, block: int, crc: int) -> None:
        """Note the checksum of a block that the copies agree on."""
        if self._sums.get(block) != crc:
            self._sums[block] = self.fresh[block] = crc

    def appended(self, chunks: Sequence[Buffer], position: int) -> None:
        """Take in what was appended at ``position``."""
        if position != self._position:
            self._running = None  # the beginning of this block was not seen
        for chunk in chunks:
            view = memoryview(chunk)
            while len(view):
                offset = position % BLOCK_BYTES
                piece = view[: BLOCK_BYTES - offset]
                if offset == 0:
                    self._running = 0
                if self._running is not None:
                    self._running = crc32c(piece, self._running)
                position += len(piece)
                if position % BLOCK_BYTES == 0 and self._running is not None:
                    self.put(position // BLOCK_BYTES - 1, self._running)
                view = view[len(piece) :]
        self._position = position

    def truncated(self, position: int) -> None:
        """Forget blocks that are not whole any more."""
        first = position // BLOCK_BYTES
        for block in [each for each in self._sums if each >= first]:
            del self._sums[block]
            self.fresh.pop(block, None)
        if position < self._position:
            self._running = None

    def take_fresh(self) -> bytes:
        """What is to be put at the end of the file; it is not fresh any more."""
        fresh, self.fresh = self.fresh, {}
        return b"".join(_ENTRY.pack(block, crc) for block, crc in fresh.items())


def decode_sums(data: bytes) -> dict[int, int]:
    """The checksums in a file; later entries count, and what is not whole at its end does not."""
    whole = len(data) - len(data) % _ENTRY.size
    return {block: crc for block, crc in _ENTRY.iter_unpack(data[:whole])}
