"""The tags column: a number for each message, and behind the numbers the table of the tags that they stand for.

A tag stands in the table once, however many messages have it, and the table is found by the header alone: a broker
tells by it whether a batch has what a reader asks for, with a constant number of C calls. Layout: docs/format.md.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import NamedTuple

from mqcore.batch._columns import U32_BYTES
from mqcore.batch._header import (
    ATTRIBUTE_HEADERS,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_TAGS,
    ATTRIBUTE_TIMESTAMPS,
    BODY_COLUMNAR,
    HEADER_BYTES,
    BatchHeader,
)
from mqcore.batch._refusals import batch_too_large, check_each
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.ports import Buffer

__all__ = ["TagTable", "check_tags", "pack_tag_table", "pack_tags", "read_tag_table", "read_tags", "tags_in"]

NO_TAG = 0xFFFF
"""Number of a message that has no tag; so a table has at most as many tags."""
U16_BYTES = 2

_U16 = struct.Struct("<H")
_COLUMNS_BEFORE = (0, ATTRIBUTE_KEYS, ATTRIBUTE_HEADERS, ATTRIBUTE_TIMESTAMPS)
_NATIVE = sys.byteorder == "little"


class TagTable(NamedTuple):
    """The tags of a batch, encoded, and the position after them."""

    tags: list[bytes]
    end: int


def pack_tags(tags: Sequence[str | None], limits: Limits) -> bytes:
    """Return the column of ``tags``, one item per message; nothing when no message has one.

    Raises ``RejectedError`` (``batch-too-large``, ``message-too-large``) above ``limits``, ``ValueError`` for an empty
    tag.
    """
    numbers: dict[str | None, int] = dict.fromkeys(tags, 0)
    numbers.pop(None, None)
    if not numbers:
        return b""
    tags_max = min(limits.batch_tags_max, NO_TAG)
    if len(numbers) > tags_max:
        raise batch_too_large(f"batch with {len(numbers)} different tags", tags_max)
    encoded = [tag.encode() for tag in numbers if tag is not None]
    lengths = list(map(len, encoded))
    _check_lengths(lengths, limits)
    if not min(lengths):
        raise ValueError("a tag has at least one character; None stands for a message without")
    numbers = dict(zip(numbers, range(len(numbers)), strict=True))
    numbers[None] = NO_TAG
    return _column_of(map(numbers.__getitem__, tags)) + pack_tag_table(encoded)


def pack_tag_table(tags: Sequence[bytes]) -> bytes:
    """Return the table of ``tags``, at most 65 535 of at most as many bytes: their number, their lengths, and they."""
    return b"".join((_U16.pack(len(tags)), _column_of(map(len, tags)), *tags))


def check_tags(view: memoryview, at: int, end: int, count: int, limits: Limits, where: str) -> int:
    """Return where the column of ``count`` messages that begins at ``at``, below ``end``, stops, once it is right.

    Raises ``CorruptionError`` for what ``pack_tags`` would not write, ``RejectedError`` for tags above ``limits``.
    """
    table_at = at + count * U16_BYTES
    table = read_tag_table(view, table_at, end)
    if table is None:
        raise CorruptionError(
            "tags do not fit the body", where=where,
            expected=f"a table of them from byte {table_at} on, below {end}", found="none",
        )  # fmt: skip
    tags, stop = table
    tags_max = min(limits.batch_tags_max, NO_TAG)
    if len(tags) > tags_max:
        raise batch_too_large(f"batch with {len(tags)} different tags", tags_max)
    _check_lengths(list(map(len, tags)), limits)
    try:
        b"\0".join(tags).decode()  # all at once: a separator of ASCII leaves no character across two of them
    except UnicodeDecodeError as error:
        raise CorruptionError(f"tags that are not UTF-8: {error}", where=where) from None
    if b"" in tags or len(set(tags)) < len(tags):
        raise CorruptionError("an empty tag, or one that is in the table twice", where=where)
    used = set(_numbers(view[at:table_at]))
    used.discard(NO_TAG)
    if len(used) != len(tags) or max(used) >= len(tags):
        raise CorruptionError(
            "messages do not have the tags of the table",
            where=where, expected=f"each of {len(tags)}", found=f"{len(used)}, up to number {max(used, default=-1)}",
        )  # fmt: skip
    return stop


def read_tags(view: memoryview, at: int, count: int) -> list[str | None]:
    """Return the tag of each of ``count`` messages from a column that ``check_tags`` has passed."""
    table_at = at + count * U16_BYTES
    table = read_tag_table(view, table_at, len(view))
    assert table is not None
    tags: dict[int, str | None] = dict(enumerate(tag.decode() for tag in table.tags))
    tags[NO_TAG] = None
    return list(map(tags.__getitem__, _numbers(view[at:table_at])))


def tags_in(batch: Buffer, header: BatchHeader) -> Sequence[bytes] | None:
    """Return the different tags of a whole ``batch``, encoded: a look at its table, none at its messages.

    Empty where no message has one. None where that cannot be told: the body is private, or no table is where one must
    be.
    """
    attributes = header.attributes
    if header.body_encoding != BODY_COLUMNAR:
        return None
    if not attributes & ATTRIBUTE_TAGS:
        return ()
    columns = sum(not bit or bool(attributes & bit) for bit in _COLUMNS_BEFORE)
    table_at = HEADER_BYTES + header.count * (columns * U32_BYTES + U16_BYTES)
    table = read_tag_table(memoryview(batch), table_at, header.size - header.payload_bytes)
    return None if table is None else table.tags


def read_tag_table(view: memoryview, at: int, end: int) -> TagTable | None:
    """Return the table at ``at``, of at least one tag; None if there is none that ends at ``end`` or before."""
    lengths_at = at + U16_BYTES
    if lengths_at > end:
        return None
    (count,) = _U16.unpack_from(view, at)
    tags_at = lengths_at + count * U16_BYTES
    if not count or tags_at > end:
        return None
    lengths = _numbers(view[lengths_at:tags_at]).tolist()
    stop = tags_at + sum(lengths)
    if stop > end:
        return None
    return TagTable(list(map(BytesIO(view[tags_at:stop]).read, lengths)), stop)


def _check_lengths(lengths: list[int], limits: Limits) -> None:
    if sum(lengths) > limits.tag_bytes_max:
        check_each("tag", lengths, limits.tag_bytes_max)


def _column_of(numbers: Iterable[int]) -> bytes:
    column = array("H", numbers)
    if not _NATIVE:
        column.byteswap()
    return column.tobytes()


def _numbers(column: memoryview) -> memoryview:
    if _NATIVE:
        return column.cast("H")
    numbers = array("H", bytes(column))
    numbers.byteswap()
    return memoryview(numbers)
