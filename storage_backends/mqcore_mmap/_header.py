"""The first 4 KiB of a segment file: who it is, and the durable mark. Pure bytes, no I/O.

=======  =====================================================================================================
sector   content (little-endian; each begins with its magic and ends with the CRC-32C of what stands before)
=======  =====================================================================================================
0        static: version u16, state u8, storage id 16 B, log uid 16 B, base u64, name
1, 2     mark of the flusher, alternating: log uid 16 B, base u64, durable end u64, log start u64, exact end u64, how u8
3        mark of the checkpoint, same fields
=======  =====================================================================================================

State: 0 free, 1 of a log, 2 of a log in a file that was used before. The mark of a segment is the greatest of its
valid slots: each is written only after what it states is true. ``how``: 0 the log went on after this; 1 closed: the
log ended at ``exact end`` (when both slots of the flusher say so); 2 continued: a segment that begins at ``exact end``
follows. ``log start`` and ``continued`` are there so that a segment that is missing is missed: first, last or between.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import attrs
from crc32c import crc32c

from mqcore.errors import CorruptionError

__all__ = [
    "CHECKPOINT_SLOT",
    "HEADER_BYTES",
    "SECTOR_BYTES",
    "Header",
    "SegmentIdentity",
    "decode_header",
    "encode_mark",
    "encode_static",
    "is_unwritten",
]

HEADER_BYTES = 4096
SECTOR_BYTES = 512
CHECKPOINT_SLOT = 2
VERSION = 2

_STATIC_MAGIC = b"MQSEGMNT"
_MARK_MAGIC = b"MQMK"
_STATIC = struct.Struct("<8sHB16s16sQB")
_MARK = struct.Struct("<4s16sQQQQB")
_OPEN, _CLOSED, _CONTINUED = 0, 1, 2
_CRC = struct.Struct("<I")


@attrs.frozen
class SegmentIdentity:
    """What a segment belongs to: ``uid`` (16 bytes) is drawn when a log is made; ``base`` is its first position.

    ``was_used``: its file was used before, and what it held may still stand above what this use has written.
    """

    storage_id: bytes
    uid: bytes
    name: str
    base: int
    was_used: bool = False


@attrs.frozen
class Header:
    """A decoded header. ``identity`` is None for a free file; ``mark`` is 0 when there is none.

    ``log_start``: the log's first position as far as this segment knows, 0 when it does not. ``closed_end`` is the
    exact end after a clean stop, ``continued_at`` the base of the segment that follows.
    """

    identity: SegmentIdentity | None
    mark: int = 0
    log_start: int = 0
    closed_end: int | None = None
    continued_at: int | None = None


class _Mark(NamedTuple):
    durable_end: int
    log_start: int
    end: int
    how: int


def encode_static(identity: SegmentIdentity | None, storage_id: bytes) -> bytes:
    """Return the whole header block of a new segment (of a free file when ``identity`` is None); no mark yet."""
    if identity is None:
        body = _STATIC.pack(_STATIC_MAGIC, VERSION, 0, storage_id, bytes(16), 0, 0)
    else:
        name = identity.name.encode()
        state = 2 if identity.was_used else 1
        body = _STATIC.pack(_STATIC_MAGIC, VERSION, state, storage_id, identity.uid, identity.base, len(name)) + name
    return (body + _CRC.pack(crc32c(body))).ljust(HEADER_BYTES, b"\0")


def encode_mark(
    uid: bytes,
    base: int,
    durable_end: int,
    log_start: int,
    *,
    closed_end: int | None = None,
    continued_at: int | None = None,
) -> bytes:
    """Return the bytes of one mark slot; at most one of ``closed_end`` and ``continued_at`` is given."""
    how = _CLOSED if closed_end is not None else _CONTINUED if continued_at is not None else _OPEN
    body = _MARK.pack(_MARK_MAGIC, uid, base, durable_end, log_start, closed_end or continued_at or 0, how)
    return body + _CRC.pack(crc32c(body))


def is_unwritten(block: bytes, storage_id: bytes) -> bool:
    """Whether an unnamed file's header was never completed: not a valid static sector of this storage."""
    try:
        identity = _decode_static(block, "")
    except CorruptionError:
        return True
    return identity is None or identity.storage_id != storage_id


def decode_header(block: bytes, where: str) -> Header:
    """Return what ``block`` (4 KiB) says; raises ``CorruptionError`` naming ``where``."""
    identity = _decode_static(block, where)
    if identity is None:
        return Header(None)
    slots = [_decode_mark(block, index, identity) for index in range(3)]
    broken = [index for index in range(2) if slots[index] is None and not _is_empty(block, index)]
    if len(broken) == 2:
        raise CorruptionError("both durable marks are damaged", where=where, expected="a checksum that fits")
    valid = [slot for slot in slots if slot is not None]
    first = slots[0]
    return Header(
        identity,
        mark=max((slot.durable_end for slot in valid), default=0),
        log_start=max((slot.log_start for slot in valid), default=0),
        # Two slots, because one of them may be what a power cut left of the statement's removal.
        closed_end=first.end if first is not None and first.how == _CLOSED and first == slots[1] else None,
        # One slot is enough: it is written when the next segment is on the disk, and removed before that one is.
        continued_at=next((slot.end for slot in valid if slot.how == _CONTINUED), None),
    )


def _decode_static(block: bytes, where: str) -> SegmentIdentity | None:
    if len(block) < SECTOR_BYTES:
        raise CorruptionError(
            "segment header is cut off", where=where, expected=f"{HEADER_BYTES} bytes", found=f"{len(block)}"
        )
    magic, version, state, storage_id, uid, base, name_bytes = _STATIC.unpack_from(block)
    end = _STATIC.size + name_bytes
    (found,) = _CRC.unpack_from(block, end)
    expected = crc32c(block[:end])
    if magic != _STATIC_MAGIC or found != expected:
        raise CorruptionError(
            "damaged segment header; restore the file from a copy",
            where=where,
            expected=f"magic {_STATIC_MAGIC!r} and checksum {expected:08x}",
            found=f"{magic!r} and {found:08x}",
        )
    if version != VERSION:
        raise CorruptionError("segment of another version", where=where, expected=str(VERSION), found=str(version))
    if state == 0:
        return None
    name = block[_STATIC.size : end].decode("ascii", "replace")
    return SegmentIdentity(storage_id, uid, name, base, was_used=state == 2)


def _decode_mark(block: bytes, index: int, identity: SegmentIdentity) -> _Mark | None:
    start = (index + 1) * SECTOR_BYTES
    if len(block) < start + _MARK.size + _CRC.size:
        return None
    magic, uid, base, *stated = _MARK.unpack_from(block, start)
    (found,) = _CRC.unpack_from(block, start + _MARK.size)
    if magic != _MARK_MAGIC or found != crc32c(block[start : start + _MARK.size]):
        return None
    if uid != identity.uid or base != identity.base:
        return None
    return _Mark(*stated)


def _is_empty(block: bytes, index: int) -> bool:
    start = (index + 1) * SECTOR_BYTES
    return not any(block[start : start + _MARK.size])
