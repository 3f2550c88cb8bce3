"""Splits batches into messages, lazily: a column is read when it is asked for, the payload decompressed once.

Must not know of plug-ins: a codec is found by its tag, through a function that is handed in or the registry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import TypeAlias

from mqcore.abc import Codec
from mqcore.batch._columns import ABSENT, U32_BYTES, HeaderPairs, read_column, unpack_headers
from mqcore.batch._header import BODY_COLUMNAR, BatchHeader
from mqcore.batch._refusals import malformed
from mqcore.batch._tags import read_tags
from mqcore.batch._validate import Layout, check_batch, layout_of
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.ports import Buffer

__all__ = ["CodecLookup", "DecodedBatch", "decode_batch"]

CodecLookup: TypeAlias = Callable[[int], Codec]
"""Finds the codec of a tag; raises ``PluginNotFoundError``."""

# struct keeps 32 bytes per message: 64 entries of 1 024 messages are 2 MiB, whatever peers send
_CACHED_COUNT_MAX = 1024


class DecodedBatch:
    """One batch, read lazily. It keeps a view of the buffer it was decoded from, which must not change meanwhile.

    ``header`` is checked; each property is computed at its first use and kept.
    """

    __slots__ = (
        "_codec_of",
        "_headers",
        "_keys",
        "_layout",
        "_tags",
        "_timestamps_ms",
        "_values",
        "_view",
        "header",
        "where",
    )

    def __init__(
        self, view: memoryview, header: BatchHeader, layout: Layout, codec_of: CodecLookup | None, where: str
    ) -> None:
        self.header = header
        self.where = where
        self._view = view
        self._layout = layout
        self._codec_of = codec_of
        self._values: list[bytes] | None = None
        self._keys: list[bytes | None] | None = None
        self._headers: list[HeaderPairs] | None = None
        self._timestamps_ms: list[int] | None = None
        self._tags: list[str | None] | None = None

    def __len__(self) -> int:
        return self.header.count

    @property
    def values(self) -> list[bytes]:
        """Payload of each message.

        Raises ``CorruptionError`` when the payload does not decompress to the stated size, ``PluginNotFoundError`` when
        its codec is not installed.
        """
        if self._values is None:
            self._values = _split(self._payload(), self._column(self._layout.lengths_at))
        return self._values

    @property
    def keys(self) -> list[bytes | None] | None:
        """Key of each message, ``None`` for a message without; ``None`` when no message has one."""
        if self._keys is None and self._layout.key_lengths_at:
            lengths = read_column(self._column(self._layout.key_lengths_at))
            read = BytesIO(self._view[self._layout.keys_at : self._layout.headers_at]).read
            self._keys = [None if length == ABSENT else read(length) for length in lengths]
        return self._keys

    @property
    def headers(self) -> list[HeaderPairs] | None:
        """Headers of each message, pairs of name and value in the order in which they were given; ``None`` when no
        message has any. Raises ``CorruptionError`` when they are malformed (a broker does not look into them).
        """
        if self._headers is None and self._layout.header_lengths_at:
            lengths = read_column(self._column(self._layout.header_lengths_at))
            read = BytesIO(self._view[self._layout.headers_at : self._layout.payload_at]).read
            self._headers = [unpack_headers(read(length), self.where) for length in lengths]
        return self._headers

    @property
    def timestamps_ms(self) -> list[int]:
        """Create time of each message, ms since 1970 UTC."""
        if self._timestamps_ms is None:
            first = self.header.created_first_ms
            if self._layout.deltas_at:
                self._timestamps_ms = [first + delta for delta in read_column(self._column(self._layout.deltas_at))]
            else:
                self._timestamps_ms = [first] * self.header.count
        return self._timestamps_ms

    @property
    def tags(self) -> list[str | None] | None:
        """Tag of each message, ``None`` for a message without; ``None`` when no message has one."""
        if self._tags is None and self._layout.tags_at:
            self._tags = read_tags(self._view, self._layout.tags_at, self.header.count)
        return self._tags

    def _column(self, position: int) -> memoryview:
        return self._view[position : position + self.header.count * U32_BYTES]

    def _payload(self) -> Buffer:
        stored = self._view[self._layout.payload_at :]
        tag = self.header.codec
        if tag == 0:
            return stored
        size = self.header.payload_uncompressed_bytes
        payload = (self._codec_of or _registered_codec)(tag).decompress(stored, size)
        if len(payload) != size:
            raise CorruptionError(
                "payload decompressed to another size", where=self.where, expected=str(size), found=str(len(payload))
            )
        return payload


def decode_batch(
    batch: Buffer, limits: Limits, codec_of: CodecLookup | None = None, *, where: str = "batch"
) -> DecodedBatch:
    """Return ``batch`` ready to be read, after the checks of ``validate_batch``.

    ``codec_of`` finds a codec by its tag, by default in the registry; it is called only for a compressed batch whose
    values are read. ``where`` names the batch in errors. Raises as ``validate_batch``, and ``RejectedError`` for a
    private body encoding.
    """
    header = check_batch(batch, limits, where)
    if header.body_encoding != BODY_COLUMNAR:
        raise malformed(
            f"{where}: private body encoding {header.body_encoding} cannot be split into messages here; "
            "read the batch as it is"
        )
    return DecodedBatch(memoryview(batch), header, layout_of(batch, header, limits, where), codec_of, where)


def _registered_codec(tag: int) -> Codec:
    # imported here: a broker, which never decompresses, does not need the registry for its batches
    from mqcore.registry import codec_of_tag

    return codec_of_tag(tag)


def _split(payload: Buffer, column: memoryview) -> list[bytes]:
    """Return ``payload`` cut into the lengths of ``column``, whose sum is its size."""
    count = len(column) // U32_BYTES
    raw = bytes(column)
    first = raw[:U32_BYTES]
    if raw == first * count:
        return list(_equal_parts(int.from_bytes(first, "little"), count, payload))
    return list(map(BytesIO(payload).read, read_column(raw)))


def _equal_parts(size: int, count: int, payload: Buffer) -> Sequence[bytes]:
    parts = _cached_parts_struct if count <= _CACHED_COUNT_MAX else _parts_struct
    return parts(size, count).unpack(payload)


def _parts_struct(size: int, count: int) -> struct.Struct:
    return struct.Struct(f"{size}s" * count)


_cached_parts_struct = lru_cache(maxsize=64)(_parts_struct)
