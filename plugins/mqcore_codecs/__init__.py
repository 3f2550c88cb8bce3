"""Codecs: compress the payload column of a batch with zlib (always there), zstandard or lz4 (extras)."""

from mqcore_codecs._lz4 import Lz4Codec
from mqcore_codecs._zlib import ZlibCodec
from mqcore_codecs._zstandard import ZstandardCodec

__all__ = ["Lz4Codec", "ZlibCodec", "ZstandardCodec"]
