"""Contract of a codec: compresses the payload column of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from mqcore.ports import Buffer

__all__ = ["Codec"]


class Codec(ABC):
    """A compression codec (entry-point group ``mqcore.codecs``). ``tag`` is its number in the batch header.

    Tags: 0 none, 1 zlib, 2 zstandard, 3 lz4; 128 and up are private.
    """

    name: ClassVar[str]
    tag: ClassVar[int]

    @abstractmethod
    def compress(self, payload: Buffer) -> bytes:
        """Return ``payload`` compressed."""

    @abstractmethod
    def decompress(self, payload: Buffer, size: int) -> bytes:
        """Return exactly ``size`` bytes or raise ``CorruptionError``; holds at most twice ``size`` plus a constant.

        ``payload`` is hostile; bytes that are left over after it are damage too.
        """
