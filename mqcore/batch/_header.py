"""The batch header: 104 bytes in front of every batch, on the wire and in the log. Little-endian. See docs/format.md.

The first 72 bytes are the producer's and never change; ``body_checksum`` (CRC-32C) covers them and the body, end to
end. The broker stamps the rest: base offset, epoch, append time; ``header_checksum`` covers all but itself and is
seeded with the log's salt, so that bytes left over from another log, offset or epoch are refused although their body
check passes. Must not know of logs, sockets or topics.
"""

from __future__ import annotations

import struct

import attrs
from crc32c import crc32c

from mqcore.errors import CorruptionError
from mqcore.ports import Buffer

__all__ = [
    "ATTRIBUTES_KNOWN",
    "ATTRIBUTE_CONTROL",
    "ATTRIBUTE_HEADERS",
    "ATTRIBUTE_KEYS",
    "ATTRIBUTE_TIMESTAMPS",
    "BODY_COLUMNAR",
    "BODY_CONTROL",
    "HEADER_BYTES",
    "MAGIC",
    "VERSION",
    "PRODUCER_BYTES",
    "BatchHeader",
    "body_checksum_of",
    "pack_header",
    "stamp",
    "unpack_header",
    "verify_header",
]

MAGIC = 0x31514D  # "MQ1" and a zero byte, read as one little-endian number
VERSION = 1
HEADER_BYTES = 104

BODY_CONTROL = 0
BODY_COLUMNAR = 1

ATTRIBUTE_KEYS = 1 << 0
ATTRIBUTE_HEADERS = 1 << 1
ATTRIBUTE_TIMESTAMPS = 1 << 2
ATTRIBUTE_CONTROL = 1 << 3
ATTRIBUTES_KNOWN = 0b1111

# the producer's part (72 bytes): magic, version, body encoding, codec, attributes, size, count, producer id, producer
# epoch, first sequence, first and last create time, payload size stored and uncompressed, reserved (zero)
# the broker's part (32 bytes): base offset, epoch, append time, body checksum, header checksum
_LAYOUT = struct.Struct("<IBBBxIIIQIQqqIIQ" "QQqII")
_PRODUCER = struct.Struct("<IBBBxIIIQIQqqIIQ")
_STAMP = struct.Struct("<QQq")
_U32 = struct.Struct("<I")
PRODUCER_BYTES = _PRODUCER.size
_BODY_CHECKSUM_AT = PRODUCER_BYTES + _STAMP.size
_HEADER_CHECKSUM_AT = _BODY_CHECKSUM_AT + 4
assert _LAYOUT.size == HEADER_BYTES == _HEADER_CHECKSUM_AT + 4


@attrs.frozen(kw_only=True, slots=True)
class BatchHeader:
    """Header of one batch. Sizes in bytes, times in ms since 1970 UTC, ``size`` counts header and body."""

    body_encoding: int
    codec: int
    attributes: int
    size: int
    count: int
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


def pack_header(header: BatchHeader) -> bytearray:
    """Return the 104 bytes of ``header`` as they are given: checksums are not computed here."""
    return bytearray(
        _LAYOUT.pack(
            MAGIC,
            VERSION,
            header.body_encoding,
            header.codec,
            header.attributes,
            header.size,
            header.count,
            header.producer_id,
            header.producer_epoch,
            header.first_sequence,
            header.created_first_ms,
            header.created_last_ms,
            header.payload_bytes,
            header.payload_uncompressed_bytes,
            0,
            header.base_offset,
            header.epoch,
            header.appended_ms,
            header.body_checksum,
            header.header_checksum,
        )
    )


def unpack_header(data: Buffer, where: str = "batch") -> BatchHeader:
    """Return the header at the beginning of ``data`` (at least 104 bytes), its form checked but not its checksums.

    Raises ``CorruptionError``: not a batch, another version, an unknown attribute (named by its bits), an impossible
    size. What a size may be at most is the caller's limit to check.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptionError("batch is shorter than its header", where=where, found=f"{len(data)} bytes")
    (
        magic, version, body_encoding, codec, attributes, size, count, producer_id, producer_epoch, first_sequence,
        created_first_ms, created_last_ms, payload_bytes, payload_uncompressed_bytes, reserved,
        base_offset, epoch, appended_ms, body_checksum, header_checksum,
    ) = _LAYOUT.unpack_from(data)  # fmt: skip
    if magic != MAGIC:
        raise CorruptionError("not a batch", where=where, expected=f"magic {MAGIC:#x}", found=f"{magic:#x}")
    if version != VERSION:
        raise CorruptionError("batch of another version", where=where, expected=str(VERSION), found=str(version))
    if attributes & ~ATTRIBUTES_KNOWN or reserved:
        unknown = attributes & ~ATTRIBUTES_KNOWN
        raise CorruptionError(f"unknown attribute bits {unknown:#x}, reserved {reserved:#x}", where=where)
    if size < HEADER_BYTES + payload_bytes:
        raise CorruptionError("batch smaller than header and payload", where=where, found=f"{size} bytes")
    return BatchHeader(
        body_encoding=body_encoding,
        codec=codec,
        attributes=attributes,
        size=size,
        count=count,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        first_sequence=first_sequence,
        created_first_ms=created_first_ms,
        created_last_ms=created_last_ms,
        payload_bytes=payload_bytes,
        payload_uncompressed_bytes=payload_uncompressed_bytes,
        base_offset=base_offset,
        epoch=epoch,
        appended_ms=appended_ms,
        body_checksum=body_checksum,
        header_checksum=header_checksum,
    )


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


def verify_header(data: Buffer, salt: int) -> bool:
    """Whether the header at the beginning of ``data`` was sealed for the log of ``salt``."""
    view = memoryview(data)
    (stored,) = _U32.unpack_from(view, _HEADER_CHECKSUM_AT)
    return bool(stored == crc32c(view[:_HEADER_CHECKSUM_AT], salt))
