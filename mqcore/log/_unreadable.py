"""What a device cannot read is taken for rot where other nodes have it (clause G12): it reads as zeros.

No checksum passes over them, so that everything that is done about rotten bytes is done about these: the batch is
sought on other nodes and written anew, or the copy is given up. Only below what is known to be durable: above that a
log ends at its first invalid byte, and an error that passes would cut off what was reported as held. Must not know of
batches.
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.abc import Log, Notice
from mqcore.errors import StorageError
from mqcore.log._pass_through import PassThroughLog
from mqcore.ports import Buffer

__all__ = ["UnreadableAsZeros"]

PIECE_BYTES = 4096
"""What is tried by itself when a longer read has failed: a sector of a device, and a page of memory."""
PIECES_MAX = 16
"""Pieces that one read tries: a device may take seconds for each that fails."""


class UnreadableAsZeros(PassThroughLog):
    """``inner``, of which what cannot be read shows zeros; ``report`` is told once, and again after it was mended."""

    def __init__(self, inner: Log, report: Callable[[Notice], None]) -> None:
        super().__init__(inner)
        self._report = report
        self._is_told = False

    async def read(self, position: int, size: int) -> memoryview:
        """As of ``Log``; shorter where something cannot be read."""
        try:
            return await self.inner.read(position, size)
        except StorageError as error:
            if error.kind != "io":
                raise
        pieces: list[memoryview] = []
        at, end = position, min(position + size, self.inner.end)
        while at < end and len(pieces) < PIECES_MAX:
            piece = await self._piece(at, min(PIECE_BYTES - at % PIECE_BYTES, end - at))
            pieces.append(piece)
            at += len(piece)
        return memoryview(b"".join(pieces))

    async def _piece(self, position: int, size: int) -> memoryview:
        try:
            return await self.inner.read(position, size)
        except StorageError as error:
            if error.kind != "io" or position + size > self.inner.durable_end:
                raise
            if not self._is_told:
                self._is_told = True
                text = f"log {self.name}: {error}; taken for damage, and sought on other nodes"
                self._report(Notice("log-unreadable", text, {"log": self.name, "position": position}))
            return memoryview(bytes(size))

    async def overwrite(self, position: int, data: Buffer) -> None:
        """As of ``Log``."""
        await self.inner.overwrite(position, data)
        self._is_told = False
