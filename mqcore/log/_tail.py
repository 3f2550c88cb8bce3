"""What stands above the end of a log: torn or damaged bytes of this use of its storage, or bytes of another time.

A storage may use a file again without clearing it. Then zeros directly behind the end say that nothing was begun there;
and batches of another log, or of this one at lower offsets, are whole and yet do not fit: nothing from there on was
written by this use. Either holds only if nothing further on does fit. What a header says of its size was chosen by a
client, as were the payloads in which headers may be made up: work is bounded by the length of the tail, and what is not
decided by then counts as torn. Must not know of quarantine and notices.
"""

from __future__ import annotations

import re

import trio
from crc32c import crc32c

from mqcore.abc import END_MARK_BYTES, Log
from mqcore.batch import ATTRIBUTES_KNOWN, HEADER_BYTES, MAGIC, PRODUCER_BYTES, VERSION, BatchHeader, unpack_header
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log._scan import SEALED_BYTES, WINDOW_BYTES, read_exactly, read_whole
from mqcore.log._state import LogState

__all__ = ["CHECKSUMMED_PER_BYTE_MAX", "torn_range"]

CHECKSUMMED_PER_BYTE_MAX = 8
"""Bytes checksummed per byte of the tail before it counts as torn. Whole batches one after the other take 1 to 2."""

_FORM = re.compile(
    re.escape(MAGIC.to_bytes(4, "little") + bytes([VERSION])) + rb"..\x00[\x00-\x1f]\x00\x00\x00", re.DOTALL
)
"""How a header begins: encoding and codec of any value, then known attributes only."""
assert ATTRIBUTES_KNOWN == 0x1F
_FORM_BYTES = 12
_KEPT_BYTES_MIN = 64 * 1024
_BYTES_PER_CHECKPOINT = 64 * 1024
_ZEROS = bytes(WINDOW_BYTES)


async def torn_range(log: Log, state: LogState, salt: int, limits: Limits) -> tuple[int, int]:
    """Range of positions from ``state.end_position`` on that this use of the storage has left torn; empty if nothing.

    It ends after the last byte that is not zero. Where bytes of another time may stand it ends at the first whole batch
    of another time, and is empty behind an end mark, unless a header that fits the log's end stands anywhere above, or
    finding that out would take too long.
    """
    begin = state.end_position
    first, last = await _non_zero(log, begin)
    if last == begin or not log.may_be_stale:
        return begin, last
    stale = await _first_stale(_Tail(log, begin), state, salt, limits.batch_bytes_max)
    if stale is None:
        return begin, last
    return (begin, begin) if first - begin >= END_MARK_BYTES else (begin, min(stale, last))


class _Tail:
    """The bytes of ``log`` from ``begin`` on, read mostly forwards, and how many may still be checksummed.

    Keeps a copy of the last long piece: a tail of small batches would else take several reads for each.
    """

    def __init__(self, log: Log, begin: int) -> None:
        self.log = log
        self.begin = begin
        self.end = log.end
        self._left = CHECKSUMMED_PER_BYTE_MAX * (self.end - begin)
        self._next_checkpoint = self._left - _BYTES_PER_CHECKPOINT
        self._kept = memoryview(b"")
        self._kept_at = begin

    async def window(self, position: int) -> memoryview:
        """At least a header's bytes at ``position``, and what is at hand behind them."""
        kept = self._kept[max(position - self._kept_at, 0) :]
        if position >= self._kept_at and len(kept) >= HEADER_BYTES:
            return kept
        window = await read_whole(self.log, position, min(WINDOW_BYTES, self.end - position), HEADER_BYTES)
        if len(window) >= _KEPT_BYTES_MIN:
            self._kept, self._kept_at = memoryview(window.tobytes()), position
        return window

    async def exactly(self, position: int, size: int) -> memoryview:
        """``size`` bytes at ``position``."""
        at = position - self._kept_at
        if at >= 0 and at + size <= len(self._kept):
            return self._kept[at : at + size]
        return await read_exactly(self.log, position, size)

    async def may_checksum(self, size: int) -> bool:
        """Count ``size`` bytes as checksummed; False if that is more than a tail of this length is worth."""
        self._left -= size
        if self._left < self._next_checkpoint:
            self._next_checkpoint = self._left - _BYTES_PER_CHECKPOINT
            await trio.lowlevel.checkpoint()
        return self._left >= 0


async def _first_stale(tail: _Tail, state: LogState, salt: int, batch_bytes_max: int) -> int | None:
    """Position of the first whole batch of another time, the end without one.

    None if a header fits the log's end, or none was found when as much was checksummed as may be. What stands exactly
    at the log's end is not of another time: there would be an end mark.
    """
    position, end = tail.begin, tail.end
    stale = end
    while end - position >= HEADER_BYTES:
        window = await tail.window(position)
        match = _FORM.search(window)
        if match is None:
            position += len(window) - (_FORM_BYTES - 1)
            continue
        position += match.start()
        header = await _header_of_form(tail, position)
        step = 1
        if header is not None:
            head = await tail.exactly(position, HEADER_BYTES)
            if not await tail.may_checksum(HEADER_BYTES):
                return None
            is_ours = header.header_checksum == crc32c(head[:SEALED_BYTES], salt)
            # It fits this use of the storage, so something was lost between: the tail is torn, not of another time.
            if is_ours and header.base_offset >= state.end_offset and header.epoch >= state.epoch:
                return None
            if position > tail.begin and header.size <= min(end - position, batch_bytes_max):
                if not await tail.may_checksum(header.size):
                    return None
                if await _is_whole(tail, position, header):
                    stale = min(stale, position)
                    step = header.size  # only a whole batch is stepped over: a payload may hold made-up headers
        position += step
    return stale


async def _header_of_form(tail: _Tail, position: int) -> BatchHeader | None:
    """What has the form of a header at ``position``, of any log."""
    if tail.end - position < HEADER_BYTES:
        return None
    try:
        return unpack_header(await tail.exactly(position, HEADER_BYTES), tail.log.name)
    except CorruptionError:
        return None


async def _is_whole(tail: _Tail, position: int, header: BatchHeader) -> bool:
    batch = await tail.exactly(position, header.size)
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
