"""Codec 2: zstandard (RFC 8878), one frame per payload. The library comes with the extra ``mqcore[zstandard]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Buffer, Codec
from mqcore_codecs._check import damaged, missing_library, require_size

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ZstandardCodec"]


class ZstandardCodec(Codec):
    """zstandard at level 3, the library's own default. The library is imported when first used."""

    name = "zstandard"
    tag = 2

    def compress(self, payload: Buffer) -> bytes:
        """Return ``payload`` as one frame that states its size. Raises ``PluginNotFoundError`` without the library."""
        result: bytes = self._library().ZstdCompressor(write_content_size=True).compress(payload)
        return result

    def decompress(self, payload: Buffer, size: int) -> bytes:
        """Return exactly ``size`` bytes.

        Raises ``CorruptionError``: damage, another size, bytes after the frame; ``PluginNotFoundError`` without the
        library.
        """
        zstandard = self._library()
        try:
            # the library allocates what the frame states, not what it is told: the frame is asked first
            stated: int = zstandard.frame_content_size(payload)
            if stated not in (size, -1):
                raise damaged(self.name, f"the frame states {stated} bytes and not {size}")
            result: bytes = zstandard.ZstdDecompressor().decompress(
                payload, max_output_size=size, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise damaged(self.name, error) from error
        return require_size(self.name, result, size)

    def _library(self) -> ModuleType:
        try:
            import zstandard
        except ImportError as error:
            raise missing_library(self.name, error) from error
        return zstandard
