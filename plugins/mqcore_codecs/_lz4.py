"""Codec 3: lz4, one raw block per payload (its size is in the batch header). The library comes with ``mqcore[lz4]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Buffer, Codec
from mqcore_codecs._check import damaged, missing_library, require_size

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Lz4Codec"]


class Lz4Codec(Codec):
    """lz4 in its fast mode. The library is imported when first used."""

    name = "lz4"
    tag = 3

    def compress(self, payload: Buffer) -> bytes:
        """Return ``payload`` as one block. Raises ``PluginNotFoundError`` without the library."""
        result: bytes = self._library().compress(payload, store_size=False)
        return result

    def decompress(self, payload: Buffer, size: int) -> bytes:
        """Return exactly ``size`` bytes.

        Raises ``CorruptionError``: damage, another size; ``PluginNotFoundError`` without the library.
        """
        block = self._library()
        try:
            result: bytes = block.decompress(payload, uncompressed_size=size)
        except block.LZ4BlockError as error:
            raise damaged(self.name, error) from error
        return require_size(self.name, result, size)

    def _library(self) -> ModuleType:
        try:
            import lz4.block
        except ImportError as error:
            raise missing_library(self.name, error) from error
        library: ModuleType = lz4.block
        return library
