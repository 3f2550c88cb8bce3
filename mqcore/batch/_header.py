"""The batch header: 104 bytes in front of every batch, on the wire and in the log. Little-endian. See docs/format.md.

The first 72 bytes are the producer's and never change; ``body_checksum`` (CRC-32C) covers them and the body, end to
end. The broker stamps the rest: base offset, epoch, append time; ``header_checksum`` covers all but itself and is
seeded with the log's salt, so that bytes left over from another log, offset or epoch are refused although their body
check passes. Must not know of logs, sockets or topics.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from mqcore.errors import CorruptionError
from mqcore.ports import Buffer

__all__ = [
    "ATTRIBUTES_KNOWN",
    "ATTRIBUTE_CONTROL",
    "ATTRIBUTE_HEADERS",
    "ATTRIBUTE_KEYS",
    "ATTRIBUTE_TAGS",
    "ATTRIBUTE_TIMESTAMPS",
    "BODY_COLUMNAR",
    "BODY_CONTROL",
    "HEADER_BYTES",
    "MAGIC",
    "VERSION",
    "PRODUCER_BYTES",
    "BatchHeader",
    "body_checksum_of",
    "is_newer",
    "pack_header",
    "seal",
    "seal_body",
    "stamp",
    "unpack_header",
    "verify_body",
]

MAGIC = 0x31514D
"""``MQ1`` and a zero byte, read as one little-endian number."""
VERSION = 1
"""The version of the format that is written, and the only one that is read."""
HEADER_BYTES = 104
"""Size of a header."""

BODY_CONTROL = 0
"""Body encoding of the broker's own batches."""
BODY_COLUMNAR = 1
"""Body encoding of messages in columns."""

ATTRIBUTE_KEYS = 1 << 0
"""Attribute bit: the body has a key column."""
ATTRIBUTE_HEADERS = 1 << 1
"""Attribute bit: the body has a headers column."""
ATTRIBUTE_TIMESTAMPS = 1 << 2
"""Attribute bit: the body has a timestamps column."""
ATTRIBUTE_CONTROL = 1 << 3
"""Attribute bit: the batch is the broker's own."""
ATTRIBUTE_TAGS = 1 << 4
"""Attribute bit: the body has a tags column."""
ATTRIBUTES_KNOWN = 0b11111
"""The bits that have a meaning; a batch with another one is refused."""

# the producer's part (72 bytes): magic, version, body encoding, codec, reserved byte, attributes, size, count, producer
# id, producer epoch, first sequence, first and last create time, payload size stored and uncompressed, reserved word
# the broker's part (32 bytes): base offset, epoch, append time, body checksum, header checksum
_LAYOUT = struct.Struct("<IBBBBIIIQIQqqIIQQQqII")
_PRODUCER = struct.Struct("<IBBBBIIIQIQqqIIQ")
_STAMP = struct.Struct("<QQq")
_U32 = struct.Struct("<I")
# the same 104 bytes read in two calls: what is constant, and what makes a ``BatchHeader``
_CONSTANT = struct.Struct("<IB2xB56xQ")
_VARIABLE = struct.Struct("<5xBBxIIIQIQqqII8xQQqII")
PRODUCER_BYTES = _PRODUCER.size
"""Size of the part of a header that is the producer's and never changes."""
_BODY_CHECKSUM_AT = PRODUCER_BYTES + _STAMP.size
_HEADER_CHECKSUM_AT = _BODY_CHECKSUM_AT + 4
assert _LAYOUT.size == _VARIABLE.size == HEADER_BYTES == _HEADER_CHECKSUM_AT + 4
assert _CONSTANT.size == PRODUCER_BYTES


class BatchHeader(NamedTuple):
    """Header of one batch. Sizes in bytes, times in ms since 1970 UTC, ``size`` counts header and body.

    A named tuple because the broker makes one per batch: it costs a tenth of a class with as many fields.
    """

    body_encoding: int
    codec: int
    attributes: int
    size: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which has no use for a header
    producer_id: int
    producer_epoch: int
    first_sequence: int
    created_first_ms: int
    created_last_ms: int
    payload_bytes: int
    payload_uncompressed_bytes: int
    base_offset: int
    epoch: int
    appended_ms: int
    body_checksum: int
    header_checksum: int

    @property
    def end_offset(self) -> int:
        """Offset after the last message."""
        return self.base_offset + self.count

    @property
    def is_control(self) -> bool:
        """Whether the batch is the broker's own (takes no offsets, is never delivered)."""
        return bool(self.attributes & ATTRIBUTE_CONTROL)


_FORM = (MAGIC, VERSION, 0, 0)
_FIELDS_BEFORE_RESERVED = BatchHeader._fields.index("base_offset")
_new_tuple = tuple.__new__


def pack_header(header: BatchHeader) -> bytearray:
    """Return the 104 bytes of ``header`` as they are given: checksums are not computed here.

    Raises ``ValueError`` for a field that does not fit its width.
    """
    encoding, codec, *rest = header[:_FIELDS_BEFORE_RESERVED]
    broker = header[_FIELDS_BEFORE_RESERVED:]
    try:
        return bytearray(_LAYOUT.pack(MAGIC, VERSION, encoding, codec, 0, *rest, 0, *broker))
    except struct.error as error:
        raise ValueError(f"a field does not fit the batch header ({error}): {header}") from error


def unpack_header(data: Buffer, where: str = "batch") -> BatchHeader:
    """Return the header at the beginning of ``data`` (at least 104 bytes), its form checked but not its checksums.

    Raises ``CorruptionError``: not a batch, another version, an unknown attribute (named by its bits), an impossible
    size. What a size may be at most is the caller's limit to check.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptionError("batch is shorter than its header", where=where, found=f"{len(data)} bytes")
    form = _CONSTANT.unpack_from(data)
    header = _new_tuple(BatchHeader, _VARIABLE.unpack_from(data))
    if form != _FORM or header.attributes > ATTRIBUTES_KNOWN:
        raise _malformed(form, header.attributes, where)
    if header.size < HEADER_BYTES + header.payload_bytes:
        raise CorruptionError(
            "batch smaller than header and payload",
            where=where,
            expected=f"at least {HEADER_BYTES + header.payload_bytes} bytes",
            found=f"{header.size} bytes",
        )
    return header


def _malformed(form: tuple[int, ...], attributes: int, where: str) -> CorruptionError:
    magic, version, reserved_byte, reserved_word = form
    if magic != MAGIC:
        return CorruptionError("not a batch", where=where, expected=f"magic {MAGIC:#x}", found=f"{magic:#x}")
    if version != VERSION:
        return CorruptionError("batch of another version", where=where, expected=str(VERSION), found=str(version))
    unknown = attributes & ~ATTRIBUTES_KNOWN
    reserved = reserved_word << 8 | reserved_byte
    return CorruptionError(f"unknown attribute bits {unknown:#x}, reserved {reserved:#x}", where=where)


def body_checksum_of(batch: Buffer) -> int:
    """CRC-32C of the producer's 72 header bytes followed by the body of a whole ``batch``."""
    view = memoryview(batch)
    return crc32c(view[HEADER_BYTES:], crc32c(view[:PRODUCER_BYTES]))


def stamp(header: bytearray | memoryview, *, base_offset: int, epoch: int, appended_ms: int, salt: int) -> None:
    """Write the broker's part into the 104 bytes of ``header``, in place, and seal it with the header checksum.

    ``salt``: 32 bits that belong to the log (see ``mqcore.log``); the checksum is CRC-32C seeded with it.
    """
    _STAMP.pack_into(header, PRODUCER_BYTES, base_offset, epoch, appended_ms)
    view = memoryview(header)
    _U32.pack_into(header, _HEADER_CHECKSUM_AT, crc32c(view[:_HEADER_CHECKSUM_AT], salt))


def is_newer(batch: Buffer) -> bool:
    """Whether a whole ``batch`` is intact and uses what this version does not know (version, attribute, reserved bits).

    Later versions keep magic, version, size and body checksum where they are, so that this can be told from damage.
    """
    if len(batch) < HEADER_BYTES:
        return False
    form = _CONSTANT.unpack_from(batch)
    header = _new_tuple(BatchHeader, _VARIABLE.unpack_from(batch))
    if form[0] != MAGIC or header.size != len(batch) or (form == _FORM and header.attributes <= ATTRIBUTES_KNOWN):
        return False
    return body_checksum_of(batch) == header.body_checksum


def seal(batch: bytearray, header: BatchHeader) -> bytearray:
    """Write ``header`` and the body checksum into a whole ``batch``, in place, and return it.

    The same as ``pack_header`` and ``seal_body``, in one step: this is on the way of every batch that is made. Raises
    ``ValueError`` for a field that does not fit its width.
    """
    encoding, codec, *rest = header[:_FIELDS_BEFORE_RESERVED]
    try:
        _LAYOUT.pack_into(batch, 0, MAGIC, VERSION, encoding, codec, 0, *rest, 0, *header[_FIELDS_BEFORE_RESERVED:])
    except struct.error as error:
        raise ValueError(f"a field does not fit the batch header ({error}): {header}") from error
    view = memoryview(batch)
    _U32.pack_into(batch, _BODY_CHECKSUM_AT, crc32c(view[HEADER_BYTES:], crc32c(view[:PRODUCER_BYTES])))
    return batch


def seal_body(batch: bytearray | memoryview) -> None:
    """Write the body checksum of a whole ``batch`` into its header, in place."""
    _U32.pack_into(batch, _BODY_CHECKSUM_AT, body_checksum_of(batch))


def verify_body(batch: Buffer, header: BatchHeader, where: str = "batch") -> None:
    """Raise ``CorruptionError`` unless the body checksum of ``header`` is that of the whole ``batch``."""
    found = body_checksum_of(batch)
    if found != header.body_checksum:
        raise CorruptionError(
            "body checksum does not match",
            where=where,
            expected=f"{header.body_checksum:#010x}",
            found=f"{found:#010x}",
        )
