"""What stands above the end of a log: torn or damaged bytes of this use of its storage, or bytes of another time.

A storage may use a file again without clearing it. Then zeros directly behind the end say that nothing was begun there;
and batches of another log, or of this one at lower offsets, are whole and yet do not fit: nothing from there on was
written by this use. Either holds only if nothing further on does fit. Must not know of quarantine and notices.
"""

from __future__ import annotations

import re

from crc32c import crc32c

from mqcore.abc import END_MARK_BYTES, Log
from mqcore.batch import HEADER_BYTES, MAGIC, PRODUCER_BYTES, BatchHeader, unpack_header
from mqcore.errors import CorruptionError
from mqcore.log._scan import SEALED_BYTES, WINDOW_BYTES, read_exactly, read_whole
from mqcore.log._state import LogState

__all__ = ["torn_range"]

_MAGIC = re.compile(re.escape(MAGIC.to_bytes(4, "little")))
_ZEROS = bytes(WINDOW_BYTES)


async def torn_range(log: Log, state: LogState, salt: int) -> tuple[int, int]:
    """Range of positions from ``state.end_position`` on that this use of the storage has left torn; empty if nothing.

    It ends after the last byte that is not zero. Where bytes of another time may stand it ends at the first whole batch
    of another time, and is empty behind an end mark, unless a header that fits the log's end stands anywhere above.
    """
    begin = state.end_position
    first, last = await _non_zero(log, begin)
    if last == begin or not log.may_be_stale:
        return begin, last
    stale, fits = await _first_stale(log, state, salt)
    if fits:
        return begin, last
    return (begin, begin) if first - begin >= END_MARK_BYTES else (begin, min(stale, last))


async def _first_stale(log: Log, state: LogState, salt: int) -> tuple[int, bool]:
    """Position of the first whole batch of another time (the end without one), and if a header fits the log's end.

    What stands exactly at the log's end is not of another time: there would be an end mark.
    """
    position, end = state.end_position, log.end
    stale = end
    while end - position >= HEADER_BYTES:
        window = await read_whole(log, position, min(WINDOW_BYTES, end - position), HEADER_BYTES)
        match = _MAGIC.search(window)
        if match is None:
            position += len(window) - 3
            continue
        position += match.start()
        header = await _header_of_form(log, position, end)
        step = 1
        if header is not None:
            head = await read_exactly(log, position, HEADER_BYTES)
            is_ours = header.header_checksum == crc32c(head[:SEALED_BYTES], salt)
            if is_ours and header.base_offset >= state.end_offset and header.epoch >= state.epoch:
                return stale, True
            if position > state.end_position and await _is_whole(log, position, header, end):
                stale = min(stale, position)
                step = header.size
        position += step
    return stale, False


async def _header_of_form(log: Log, position: int, end: int) -> BatchHeader | None:
    """What has the form of a header at ``position``, whoever sealed it."""
    if end - position < HEADER_BYTES:
        return None
    try:
        return unpack_header(await read_exactly(log, position, HEADER_BYTES), log.name)
    except CorruptionError:
        return None


async def _is_whole(log: Log, position: int, header: BatchHeader, end: int) -> bool:
    if header.size > end - position:
        return False
    batch = await read_exactly(log, position, header.size)
    return crc32c(batch[HEADER_BYTES:], crc32c(batch[:PRODUCER_BYTES])) == header.body_checksum


async def _non_zero(log: Log, position: int) -> tuple[int, int]:
    """Range from the first to after the last byte at or after ``position`` that is not zero; empty if all are."""
    first = last = position
    at = position
    while at < log.end:
        window = await log.read(at, min(len(_ZEROS), log.end - at))
        data = window.tobytes()
        if data != (_ZEROS if len(data) == len(_ZEROS) else bytes(len(data))):
            if last == position:
                first = at + len(data) - len(data.lstrip(b"\0"))
            last = at + len(data.rstrip(b"\0"))
        at += len(data)
    return first, last
