"""The journal: sets of small ranges of many logs, made durable by one flush. Format, writing and reading.

Two files take turns. Each begins with a 4 KiB block whose first sector names the *generation*; sets follow, each at
a multiple of 4 KiB, so that no flushed sector is ever written again within a generation::

    set       magic, generation u64, number u64, sets of the generation before u64, table bytes u32, data bytes u64,
              ranges u32, crc32c of all of the set but itself
    table     per range: log uid 16 B, base u64, name length u8, name, position u64, bytes u32
    data      the bytes of the ranges, one after the other

A set counts when its generation is the file's, its number follows the one before, and its checksum fits. What follows
the last such set is a torn tail, unless a whole set of the same generation stands there: then something between was
damaged, and that is loud. It knows nothing of segments; a range says where its bytes belong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from mqcore.errors import CorruptionError
from mqcore.ports import Buffer, File

__all__ = ["BLOCK_BYTES", "FoundRange", "JournalFile", "Range", "encode_journal_header", "encode_place", "set_bytes"]

BLOCK_BYTES = 4096

SCAN_BYTES = 256 * BLOCK_BYTES

_FILE_MAGIC = b"MQJOURNL"
_SET_MAGIC = b"MQJSET01"
_VERSION = 1
_FILE = struct.Struct("<8sH16sQ")
_SET = struct.Struct("<8sQQQIQII")
_PLACE = struct.Struct("<16sQB")
_SPAN = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_SET_BODY = _SET.size - _CRC.size


class Range(NamedTuple):
    """Bytes of one segment, as written: ``place`` (see ``encode_place``), first ``position``, ``data`` in pieces."""

    place: bytes
    position: int
    size: int
    data: Sequence[Buffer]


class FoundRange(NamedTuple):
    """Bytes of one segment, as read back: log ``uid`` and ``name``, the segment's ``base``, first ``position``."""

    uid: bytes
    name: str
    base: int
    position: int
    data: memoryview


def encode_place(uid: bytes, base: int, name: str) -> bytes:
    """Return what says in a table to which segment a range belongs."""
    return _PLACE.pack(uid, base, len(name)) + name.encode()


def encode_journal_header(storage_id: bytes, generation: int) -> bytes:
    """Return the first block of a journal file."""
    body = _FILE.pack(_FILE_MAGIC, _VERSION, storage_id, generation)
    return (body + _CRC.pack(crc32c(body))).ljust(BLOCK_BYTES, b"\0")


def _round_up(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


RANGE_BYTES_MAX = _PLACE.size + 255 + _SPAN.size
"""What a range takes in a table, at most."""


def set_bytes(ranges: int, data_bytes: int) -> int:
    """Room that a set takes in the file, at most."""
    return _round_up(_SET.size + ranges * RANGE_BYTES_MAX + data_bytes)


class JournalFile:
    """One of the two files. All calls block; one thread at a time."""

    def __init__(self, file: File, storage_id: bytes) -> None:
        self.file = file
        self._storage_id = storage_id
        self.generation = _decode_file_header(file, storage_id)
        self.position = BLOCK_BYTES
        self.sets_written = 0
        self.sets_before: int | None = None

    def append(self, ranges: Sequence[Range], sets_before: int) -> None:
        """Write one set; ``sets_before`` is how many the generation before has. Not durable by itself."""
        parts: list[bytes] = []
        pieces: list[Buffer] = []
        data_bytes = 0
        for place, position, size, data in ranges:
            parts.append(place)
            parts.append(_SPAN.pack(position, size))
            pieces += data
            data_bytes += size
        table = b"".join(parts)
        head = _SET.pack(
            _SET_MAGIC, self.generation, self.sets_written + 1, sets_before, len(table), data_bytes, len(ranges), 0
        )[:_SET_BODY]
        checksum = crc32c(table, crc32c(head))
        for piece in pieces:
            checksum = crc32c(piece, checksum)
        self.file.pwritev([head + _CRC.pack(checksum) + table, *pieces], self.position)
        self.sets_written += 1
        self.position = _round_up(self.position + _SET.size + len(table) + data_bytes)

    def begin(self, generation: int) -> None:
        """Forget every set, durably: from now on only sets of ``generation`` count."""
        self.file.pwritev([encode_journal_header(self._storage_id, generation)], 0)
        self.file.flush()
        self.generation = generation
        self.position = BLOCK_BYTES
        self.sets_written = 0

    def sets(self) -> Iterator[list[FoundRange]]:
        """Read every set that counts, in order. Raises ``CorruptionError`` when one in the middle is damaged.

        Then ``sets_before`` is what they say of the generation before, None when there are none.
        """
        position, number = BLOCK_BYTES, 0
        while True:
            found = self._read_set(position)
            if found is None or found[0] != number + 1:
                break
            number, ranges, position = found
            yield ranges
        self._check_tail(position, number)
        self.position, self.sets_written = position, number

    def _read_set(self, position: int) -> tuple[int, list[FoundRange], int] | None:
        """Return number, ranges and end of the set at ``position`` if it is whole and of this generation."""
        head = self.file.pread(_SET.size, position)
        if len(head) < _SET.size:
            return None
        magic, generation, number, before, table_bytes, data_bytes, count, checksum = _SET.unpack(head)
        if magic != _SET_MAGIC or generation != self.generation:
            return None  # the file is not cleared between generations: what stands there may be whole, and is over
        size = table_bytes + data_bytes
        if size > max(0, self.file.size() - position):
            return None
        body = self.file.pread(size, position + _SET.size)
        if len(body) != size or crc32c(body, crc32c(head[:_SET_BODY])) != checksum:
            return None
        ranges = _decode_ranges(body, table_bytes, count)
        self.sets_before = before
        return (number, ranges, _round_up(position + _SET.size + size)) if ranges is not None else None

    def _check_tail(self, position: int, number: int) -> None:
        """Refuse a file in which a whole set of this generation stands beyond the first one that does not count."""
        size = self.file.size()
        # All of the rest is looked at: of a damaged set not even its length can be believed, so where the next one
        # would begin is not known.
        for start in range(position, size, SCAN_BYTES):
            piece = self.file.pread(SCAN_BYTES, start)
            for at in range(0, len(piece) - _SET.size, BLOCK_BYTES):
                if not piece.startswith(_SET_MAGIC, at):
                    continue
                found = self._read_set(start + at)
                if found is not None and found[0] > number:
                    raise CorruptionError(
                        f"damaged journal: set {number + 1} of generation {self.generation} does not count but set "
                        f"{found[0]} at {start + at} does; restore the storage from a copy",
                        where=f"{self.file.path} at {position}",
                    )


def _decode_ranges(body: bytes, table_bytes: int, count: int) -> list[FoundRange] | None:
    ranges: list[FoundRange] = []
    at, data_at = 0, table_bytes
    view = memoryview(body)
    for _ in range(count):
        if at + _PLACE.size > table_bytes:
            return None
        uid, base, name_bytes = _PLACE.unpack_from(body, at)
        at += _PLACE.size + name_bytes
        if at + _SPAN.size > table_bytes:
            return None
        name = body[at - name_bytes : at].decode("ascii", "replace")
        position, size = _SPAN.unpack_from(body, at)
        at += _SPAN.size
        ranges.append(FoundRange(uid, name, base, position, view[data_at : data_at + size]))
        data_at += size
    return ranges if at == table_bytes and data_at == len(body) else None


def _decode_file_header(file: File, storage_id: bytes) -> int:
    block = file.pread(BLOCK_BYTES, 0)
    if len(block) < BLOCK_BYTES:
        raise CorruptionError("damaged journal: its header is cut off; restore it from a copy", where=file.path)
    magic, version, found_id, generation = _FILE.unpack_from(block)
    (found,) = _CRC.unpack_from(block, _FILE.size)
    expected = crc32c(block[: _FILE.size])
    if magic != _FILE_MAGIC or found != expected:
        raise CorruptionError(
            "damaged journal header; restore it from a copy",
            where=file.path,
            expected=f"checksum {expected:08x}",
            found=f"{found:08x}",
        )
    if version != _VERSION or found_id != storage_id:
        raise CorruptionError(
            "journal of another version or another storage",
            where=file.path,
            expected=f"version {_VERSION}, storage {storage_id.hex()}",
            found=f"version {version}, storage {bytes(found_id).hex()}",
        )
    return int(generation)
