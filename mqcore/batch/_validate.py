"""Checks batches without decoding them: what a broker does for each one that it takes, a consumer before it reads.

A constant number of C calls per batch: no Python work per message, no decompression. Must not know of codecs (only of
their numbers), logs or sockets.
"""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from mqcore.batch._columns import ABSENT, U32_BYTES, column_sum, key_column_sum, read_column
from mqcore.batch._header import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_HEADERS,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_TAGS,
    ATTRIBUTE_TIMESTAMPS,
    BODY_COLUMNAR,
    BODY_CONTROL,
    HEADER_BYTES,
    PRODUCER_BYTES,
    BatchHeader,
    is_newer,
    unpack_header,
    verify_body,
)
from mqcore.batch._refusals import batch_too_large, check_each, malformed, unknown_codec
from mqcore.batch._tags import check_tags
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.ports import Buffer

__all__ = ["PRIVATE_TAG_MIN", "Layout", "check_batch", "control_payload", "layout_of", "validate_batch"]

CODEC_TAG_KNOWN_MAX = 3
PRIVATE_TAG_MIN = 128
"""Tags of codecs and body encodings from here to 255 are private."""

_SEQUENCE_MAX = 2**64 - 1


class Layout(NamedTuple):
    """Where the columns of a columnar body begin, in bytes from the batch's start; 0 for a column that is not there."""

    lengths_at: int
    key_lengths_at: int
    header_lengths_at: int
    deltas_at: int
    tags_at: int
    keys_at: int
    headers_at: int
    payload_at: int


def validate_batch(batch: Buffer, limits: Limits, where: str = "batch") -> BatchHeader:
    """Return the header of a producer's ``batch`` after every check that needs no decompression.

    Checked: the header's form, sizes and count against ``limits`` and against each other, the body checksum, the sums
    of the lengths columns, the stated uncompressed size. A private codec or body encoding (128 and up)
    passes: whether the topic names it is the caller's to decide; a private body is opaque. Raises ``RejectedError``
    (``batch-too-large``, ``message-too-large``, ``unknown-codec``, ``malformed-batch``) for what is well formed and
    not taken, ``CorruptionError`` for bytes that contradict themselves; both name the number that is wrong.
    """
    header = check_batch(batch, limits, where)
    if header.body_encoding == BODY_COLUMNAR:
        layout_of(batch, header, limits, where)
    return header


def control_payload(batch: Buffer, where: str = "control batch") -> memoryview:
    """Return the payload of one of the broker's own batches, as a view of ``batch``, its checksum verified.

    Raises ``CorruptionError`` when ``batch`` is anything else.
    """
    header = unpack_header(batch, where)
    if header.attributes != ATTRIBUTE_CONTROL or header.body_encoding != BODY_CONTROL or header.codec:
        raise CorruptionError(
            "not a control batch",
            where=where,
            expected=f"body encoding {BODY_CONTROL}, attributes {ATTRIBUTE_CONTROL:#x}, codec 0",
            found=f"{header.body_encoding}, {header.attributes:#x}, {header.codec}",
        )
    if not len(batch) == header.size == HEADER_BYTES + header.payload_bytes:
        raise _wrong("control batch of another size", where, HEADER_BYTES + header.payload_bytes, len(batch))
    verify_body(batch, header, where)
    return memoryview(batch)[HEADER_BYTES:]


def check_batch(batch: Buffer, limits: Limits, where: str) -> BatchHeader:
    """Return the header of ``batch`` once it agrees with itself, with ``limits`` and with the body checksum.

    Raises as ``validate_batch``.
    """
    size = len(batch)
    if size > limits.batch_bytes_max:
        raise batch_too_large(f"batch of {size} bytes", limits.batch_bytes_max)
    try:
        header = unpack_header(batch, where)
    except CorruptionError as error:
        if is_newer(batch):
            raise malformed(f"{error}; it is intact and made by a newer version") from error
        raise
    if header.size != size:
        raise _wrong("batch of another size than its header says", where, header.size, size)
    if header.attributes & ATTRIBUTE_CONTROL or header.body_encoding == BODY_CONTROL:
        raise malformed("control batches are the broker's own; a producer cannot send one")
    if BODY_COLUMNAR < header.body_encoding < PRIVATE_TAG_MIN:
        raise malformed(
            f"body encoding {header.body_encoding} is not known to this version; send encoding {BODY_COLUMNAR}"
        )
    if CODEC_TAG_KNOWN_MAX < header.codec < PRIVATE_TAG_MIN:
        raise unknown_codec(
            f"codec tag {header.codec} is not known to this version; known are 0 none, 1 zlib, 2 zstandard, 3 lz4, "
            f"and {PRIVATE_TAG_MIN} to 255 for private ones"
        )
    if not 0 < header.count <= limits.batch_messages_max:
        if header.count:
            raise batch_too_large(f"batch of {header.count} messages", limits.batch_messages_max)
        raise malformed("batch without a message; a batch holds at least 1")
    if header.first_sequence + header.count > _SEQUENCE_MAX:
        raise _wrong("sequence numbers run past 64 bits", where, _SEQUENCE_MAX, header.first_sequence + header.count)
    if header.created_last_ms < header.created_first_ms:
        raise _wrong("last create time before the first", where, header.created_first_ms, header.created_last_ms)
    stored, uncompressed = header.payload_bytes, header.payload_uncompressed_bytes
    if header.codec or stored != uncompressed or uncompressed > limits.batch_uncompressed_bytes_max:
        _check_payload_sizes(header, limits, where)
    # Compared here and not by ``verify_body`` alone: each batch passes here twice, at the broker and at its reader.
    view = memoryview(batch)
    if crc32c(view[HEADER_BYTES:], crc32c(view[:PRODUCER_BYTES])) != header.body_checksum:
        verify_body(batch, header, where)
    return header


def _check_payload_sizes(header: BatchHeader, limits: Limits, where: str) -> None:
    stored, uncompressed = header.payload_bytes, header.payload_uncompressed_bytes
    if uncompressed > limits.batch_uncompressed_bytes_max:
        raise batch_too_large(f"payload of {uncompressed} bytes uncompressed", limits.batch_uncompressed_bytes_max)
    if header.codec == 0 and stored != uncompressed:
        raise _wrong("payload sizes differ without a codec", where, uncompressed, stored)
    if header.codec != 0 and not (stored and uncompressed):
        raise CorruptionError(
            "an empty payload is never compressed", where=where, expected="codec 0", found=str(header.codec)
        )


def layout_of(batch: Buffer, header: BatchHeader, limits: Limits, where: str) -> Layout:
    """Return where the columns of a columnar ``batch`` are, once their sums are the sizes that the header gives.

    ``batch`` has passed ``check_batch``. Raises ``CorruptionError`` for a sum that differs, ``RejectedError`` for a
    message, key or headers above ``limits``.
    """
    view = memoryview(batch)
    width = header.count * U32_BYTES
    attributes = header.attributes
    payload_at = header.size - header.payload_bytes
    key_lengths_at = header_lengths_at = deltas_at = tags_at = 0
    fixed_end = HEADER_BYTES + width
    if attributes & ATTRIBUTE_KEYS:
        key_lengths_at, fixed_end = fixed_end, fixed_end + width
    if attributes & ATTRIBUTE_HEADERS:
        header_lengths_at, fixed_end = fixed_end, fixed_end + width
    if attributes & ATTRIBUTE_TIMESTAMPS:
        deltas_at, fixed_end = fixed_end, fixed_end + width
    if fixed_end > payload_at:
        raise _wrong("batch too small for its columns", where, fixed_end + header.payload_bytes, header.size)
    total = column_sum(view[HEADER_BYTES : HEADER_BYTES + width])
    if total != header.payload_uncompressed_bytes:
        raise _wrong("lengths do not add up to the payload", where, header.payload_uncompressed_bytes, total)
    # A message can only be too long where all of them together are: the usual batch needs no search for the longest.
    if total > limits.message_bytes_max:
        check_each("message", read_column(view[HEADER_BYTES : HEADER_BYTES + width]), limits.message_bytes_max)
    if attributes & ATTRIBUTE_TAGS:
        tags_at, fixed_end = fixed_end, check_tags(view, fixed_end, payload_at, header.count, limits, where)
    headers_at = fixed_end
    if key_lengths_at:
        headers_at += _key_bytes(view[key_lengths_at : key_lengths_at + width], limits)
    variable_end = headers_at
    if header_lengths_at:
        variable_end += _headers_bytes(view[header_lengths_at : header_lengths_at + width], limits)
    if variable_end != payload_at:
        stated = payload_at - fixed_end
        raise _wrong("keys and headers do not add up to the body", where, stated, variable_end - fixed_end)
    if deltas_at:
        _check_deltas(view[deltas_at : deltas_at + width], header, where)
    return Layout(
        HEADER_BYTES, key_lengths_at, header_lengths_at, deltas_at, tags_at, fixed_end, headers_at, payload_at
    )


def _key_bytes(column: memoryview, limits: Limits) -> int:
    total = key_column_sum(column)
    if total > limits.key_bytes_max:
        present = [0 if length == ABSENT else length for length in read_column(column)]
        check_each("key", present, limits.key_bytes_max)
    return total


def _headers_bytes(column: memoryview, limits: Limits) -> int:
    total = column_sum(column)
    if total > limits.headers_bytes_max:
        check_each("headers", read_column(column), limits.headers_bytes_max)
    return total


def _check_deltas(column: memoryview, header: BatchHeader, where: str) -> None:
    span = header.created_last_ms - header.created_first_ms
    largest = max(read_column(column))
    if largest != span:
        raise _wrong("timestamps do not end at the last create time", where, span, largest)


def _wrong(message: str, where: str, expected: int, found: int) -> CorruptionError:
    return CorruptionError(message, where=where, expected=str(expected), found=str(found))
