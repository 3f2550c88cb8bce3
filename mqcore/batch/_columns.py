"""Columns of 32-bit numbers, and the two variable columns (keys, headers): how they are written, added up and read.

A column is read with a constant number of C calls, whatever its length. Must not know of codecs, limits of a broker,
logs or sockets. Layout: docs/format.md.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from mqcore.errors import CorruptionError
from mqcore.ports import Buffer

__all__ = [
    "ABSENT",
    "U32_BYTES",
    "U32_MAX",
    "HeaderPairs",
    "MessageHeaders",
    "column_of",
    "column_sum",
    "key_column_sum",
    "pack_headers",
    "read_column",
    "unpack_headers",
]

HeaderPairs: TypeAlias = tuple[tuple[str, bytes], ...]
"""Headers of one message as they are read: names and values in order, a name possibly more than once."""
MessageHeaders: TypeAlias = Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None
"""Headers of one message as they are given: a mapping, pairs, or none."""

U32_BYTES = 4
U32_MAX = 0xFFFFFFFF
ABSENT = U32_MAX  # the length of a key that is not there (-1 when read as a signed number)

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_NATIVE = sys.byteorder == "little"


def column_of(numbers: Iterable[int]) -> bytes:
    """Return ``numbers`` (each 0 to 2**32 - 1) as a column."""
    column = array("I", numbers)
    if not _NATIVE:
        column.byteswap()
    return column.tobytes()


def read_column(column: Buffer) -> list[int]:
    """Return the numbers of ``column``, whose size is a multiple of four bytes."""
    if _NATIVE:
        return memoryview(column).cast("I").tolist()
    numbers = array("I", bytes(column))
    numbers.byteswap()
    return numbers.tolist()


def column_sum(column: Buffer) -> int:
    """Return the sum of the numbers of ``column``, exactly: 65 536 numbers of 32 bits do not wrap around.

    Equal numbers, the common case of lengths, are told by one comparison of bytes.
    """
    raw = bytes(column)
    first = raw[:U32_BYTES]
    if raw == first * (len(raw) // U32_BYTES):
        return int.from_bytes(first, "little") * (len(raw) // U32_BYTES)
    return sum(memoryview(raw).cast("I")) if _NATIVE else sum(read_column(raw))


def key_column_sum(column: Buffer) -> int:
    """Return the sum of the key lengths of ``column``; an absent key counts nothing."""
    raw = bytes(column)
    first = raw[:U32_BYTES]
    if raw == first * (len(raw) // U32_BYTES):
        length = int.from_bytes(first, "little")
        return 0 if length == ABSENT else length * (len(raw) // U32_BYTES)
    numbers = read_column(raw)
    return sum(numbers) - ABSENT * numbers.count(ABSENT)


def pack_headers(headers: MessageHeaders) -> bytes:
    """Return the headers of one message encoded: count, then name and value of each; nothing when there are none.

    ``headers``: a mapping, or pairs in their order (a name may repeat). Raises ``ValueError`` for more than 65 535
    headers, an empty name or one above 65 535 bytes of UTF-8.
    """
    if not headers:
        return b""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    if len(pairs) > 0xFFFF:
        raise ValueError(f"a message can have 65535 headers, not {len(pairs)}")
    parts = [_U16.pack(len(pairs))]
    for name, value in pairs:
        encoded = name.encode()
        if not 0 < len(encoded) <= 0xFFFF:
            raise ValueError(f"a header's name has 1 to 65535 bytes, not {len(encoded)}")
        parts += (_U16.pack(len(encoded)), encoded, _U32.pack(len(value)), value)
    return b"".join(parts)


def unpack_headers(data: bytes, where: str) -> HeaderPairs:
    """Return the headers that ``pack_headers`` encoded.

    Raises ``CorruptionError`` for anything that it would not write.
    """
    if not data:
        return ()
    pairs: list[tuple[str, bytes]] = []
    try:
        (count,) = _U16.unpack_from(data)
        position = _U16.size
        for _ in range(count):
            (name_bytes,) = _U16.unpack_from(data, position)
            value_at = position + _U16.size + name_bytes
            (value_bytes,) = _U32.unpack_from(data, value_at)
            name = data[position + _U16.size : value_at].decode()
            position = value_at + _U32.size + value_bytes
            if not name or position > len(data):
                break
            pairs.append((name, data[position - value_bytes : position]))
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptionError(f"malformed message headers: {error}", where=where) from error
    if not 0 < count == len(pairs) or position != len(data):
        raise CorruptionError(
            "malformed message headers",
            where=where,
            expected=f"{count} headers in {len(data)} bytes",
            found=f"{len(pairs)} headers in {position} bytes",
        )
    return tuple(pairs)
