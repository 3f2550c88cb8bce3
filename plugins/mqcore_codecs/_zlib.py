"""Codec 1: zlib (RFC 1950), one stream per payload. Needs nothing but the standard library."""

from __future__ import annotations

import zlib

from mqcore.abc import Buffer, Codec
from mqcore_codecs._check import damaged, require_size

__all__ = ["ZlibCodec"]


class ZlibCodec(Codec):
    """zlib at level 6, the library's own default."""

    name = "zlib"
    tag = 1

    def compress(self, payload: Buffer) -> bytes:
        """Return ``payload`` as one zlib stream."""
        return zlib.compress(payload)

    def decompress(self, payload: Buffer, size: int) -> bytes:
        """Return exactly ``size`` bytes. Raises ``CorruptionError``: damage, another size, bytes after the stream."""
        stream = zlib.decompressobj()
        try:
            # one byte more than stated: a stream that has more shows it, and is not followed any further
            result = stream.decompress(payload, size + 1)
        except zlib.error as error:
            raise damaged(self.name, error) from error
        if len(result) > size:
            raise damaged(self.name, f"more than the stated {size} bytes")
        if not stream.eof or stream.unused_data:
            raise damaged(self.name, "bytes after the stream" if stream.eof else "the stream is cut short")
        return require_size(self.name, result, size)
