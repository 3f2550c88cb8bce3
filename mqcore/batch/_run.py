"""Many small batches checked in one loop: what a copy, a recovery and a feeder do with each batch of a log.

A batch of one message costs as many calls as one of a thousand. So what is the same for nearly all of them, plain
batches of one epoch in order, is judged here with one unpacking and three checksums each; the first that is anything
else ends the run, and is judged, or refused in words, by whoever asked. Must not know of logs, only of their salt.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from mqcore.batch._header import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTES_KNOWN,
    HEADER_BYTES,
    MAGIC,
    PRODUCER_BYTES,
    VERSION,
)

__all__ = ["PlainBatch", "PlainRun", "plain_run", "whole_batches"]

# what a log asks of a header: magic, version, reserved byte, attributes, size, count, producer id, its epoch, first
# sequence, payload bytes, reserved word, base offset, epoch, append time, body checksum, header checksum
_ROW = struct.Struct("<IBxxBIIIQIQ16xI4xQQQqII")
_SIZE = struct.Struct("<12xI")
_SEALED_BYTES = HEADER_BYTES - 4
_ATTRIBUTES_OTHER = 0xFFFFFFFF & ~ATTRIBUTES_KNOWN | ATTRIBUTE_CONTROL
assert _ROW.size == HEADER_BYTES


class PlainBatch(NamedTuple):
    """What a log keeps of one batch of a producer, named as in ``BatchHeader``."""

    size: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which has no use here
    producer_id: int
    producer_epoch: int
    first_sequence: int
    base_offset: int
    appended_ms: int
    body_checksum: int


class PlainRun(NamedTuple):
    """Batches of producers in a row: what is kept of each, their ``size`` in all, and the offset after them."""

    batches: list[PlainBatch]
    size: int
    end_offset: int


_new_tuple = tuple.__new__


def plain_run(view: memoryview, at: int, *, salt: int, offset: int, epoch: int) -> PlainRun:
    """Return the batches of ``epoch`` that stand whole and intact from ``at`` on, the first one at ``offset``.

    The run ends before the first batch that is cut short, damaged, of another epoch or offset, or a control batch: the
    caller looks at that one by itself. ``salt``: of the log.
    """
    batches: list[PlainBatch] = []
    begin, last = at, len(view) - HEADER_BYTES
    unpack, checksum = _ROW.unpack_from, crc32c
    while at <= last:
        (
            magic, version, reserved, attributes, size, count, producer_id, producer_epoch, first_sequence,
            payload_bytes, reserved_word, base_offset, found_epoch, appended_ms, body_checksum, header_checksum,
        ) = unpack(view, at)  # fmt: skip
        end = at + size
        if (
            base_offset != offset
            or found_epoch != epoch
            or magic != MAGIC
            or version != VERSION
            or reserved
            or reserved_word
            or attributes & _ATTRIBUTES_OTHER
            or size < HEADER_BYTES + payload_bytes
            or end > last + HEADER_BYTES
            or checksum(view[at : at + _SEALED_BYTES], salt) != header_checksum
            or checksum(view[at + HEADER_BYTES : end], checksum(view[at : at + PRODUCER_BYTES])) != body_checksum
        ):
            break
        kept = size, count, producer_id, producer_epoch, first_sequence, base_offset, appended_ms, body_checksum
        batches.append(_new_tuple(PlainBatch, kept))
        at = end
        offset = base_offset + count
    return PlainRun(batches, at - begin, offset)


def whole_batches(view: memoryview) -> tuple[int, int]:
    """Return how many bytes of ``view`` are whole batches, and where the last of them begins, by their sizes alone.

    Nothing is checked: sizes that were damaged lead to where no batch is. ``(0, 0)`` when no whole batch is there.
    """
    at = begins = 0
    last = len(view) - HEADER_BYTES
    unpack = _SIZE.unpack_from
    while at <= last:
        (size,) = unpack(view, at)
        if size < HEADER_BYTES or size > last + HEADER_BYTES - at:
            break
        begins = at
        at += size
    return at, begins
