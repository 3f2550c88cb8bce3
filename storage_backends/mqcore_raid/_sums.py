"""Checksums of a log's blocks: they say which of two copies that differ is what was appended.

One for each block of ``BLOCK_BYTES`` that is whole, taken from the appended bytes themselves. They are kept in a file
beside each member's storage, without a flush: they decide nothing alone. Copies that agree are believed against them,
and where copies differ the one that matches is right. A checksum that is older than the block would tell a copy that
missed a write from the others as the right one: from where a log is cut, or goes on after an opening, the file says so,
and that is flushed before anything that stands there now is acknowledged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from crc32c import crc32c

from mqcore.ports import Buffer

__all__ = ["BLOCK_BYTES", "SUM_BYTES", "SUMS_KEPT_AT", "BlockSums", "decode_sums", "encode_void", "newest_block"]

BLOCK_BYTES = 64 * 1024
SUMS_KEPT_AT = 16
"""Blocks whose checksums wait in memory."""
_ENTRY = struct.Struct("<QI")
SUM_BYTES = _ENTRY.size
_VOID = 1 << 63
"""In an entry's block number: what the file has of this block, and of those behind it, is older than they are."""


class BlockSums:
    """Checksums by block number. ``fresh`` are those that no file has yet.

    ``durable_end`` and ``end`` of the log at its opening: of what stands between a file knows nothing.
    """

    def __init__(self, durable_end: int = 0, end: int = 0) -> None:
        self._sums: dict[int, int] = {}
        self._running: int | None = None
        self._position = -1  # a new log may have the name of one that a file still knows
        self._void = durable_end // BLOCK_BYTES
        self._is_void_told = durable_end == end
        self.fresh: dict[int, int] = {}

    @property
    def must_be_kept(self) -> bool:
        """Whether the file should have what is new now."""
        return not self._is_void_told or len(self.fresh) >= SUMS_KEPT_AT

    @property
    def must_tell(self) -> bool:
        """Whether the file does not say yet from where on it is old."""
        return not self._is_void_told

    def load(self, sums: dict[int, int], end: int) -> None:
        """Take what a file has of a log that ends at ``end``; what was seen since is newer."""
        first = min(self._void, end // BLOCK_BYTES)
        self._sums = {block: crc for block, crc in sums.items() if block < first} | self._sums

    def _make_void(self, first: int) -> None:
        self._void = min(self._void, first)
        self._is_void_told = False

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
            self._make_void(position // BLOCK_BYTES)
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
        self._make_void(first)

    def take_void(self) -> int | None:
        """The block from which on the file is old, which is to be told it now; None when it is told."""
        was_told, self._is_void_told = self._is_void_told, True
        return None if was_told else self._void

    def take_fresh(self) -> bytes:
        """What is to be put at the end of the file, behind what it is told; it is not fresh any more."""
        fresh, self.fresh = self.fresh, {}
        return b"".join(_ENTRY.pack(block, crc) for block, crc in fresh.items())


def encode_void(first: int) -> bytes:
    """The entry that says that those before it are older than block ``first`` and those behind that."""
    return _ENTRY.pack(_VOID | first, 0)


def newest_block(data: bytes) -> int:
    """The greatest block that an entry names, given up or not; -1 where there is none."""
    whole = len(data) - len(data) % SUM_BYTES
    return max((block for block, _ in _ENTRY.iter_unpack(data[:whole]) if not block & _VOID), default=-1)


def decode_sums(data: bytes) -> dict[int, int]:
    """The checksums in a file; later entries count, and what is not whole at its end does not."""
    whole = len(data) - len(data) % _ENTRY.size
    sums: dict[int, int] = {}
    for block, crc in _ENTRY.iter_unpack(data[:whole]):
        if block & _VOID:
            sums = {known: sum_ for known, sum_ in sums.items() if known < block & ~_VOID}
        else:
            sums[block] = crc
    return sums
