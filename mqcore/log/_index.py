"""Sparse offset and time index of one log: where to begin to walk. Pure, bounded memory.

Two tiers of (offset, position, greatest append time before it): *fine*, recent batches, at most one per few KiB, and
*coarse*, the whole log, whose spacing doubles whenever it is full. The running maximum of the times is what is kept,
so that a clock that jumps back cannot put the index out of order. Must not know of storage or recovery.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right

from mqcore.ports import Buffer

__all__ = ["OffsetIndex"]

FINE_SPACING_BYTES = 4 * 1024
FINE_ENTRIES_MAX = 128
COARSE_SPACING_BYTES = 64 * 1024
COARSE_ENTRIES_MAX = 384

_SIZES = struct.Struct("<QII")


class _Tier:
    """Entries in order: offsets, positions, times, each a plain array."""

    __slots__ = ("offsets", "positions", "times")

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.positions = array("Q")
        self.times = array("q")

    def append(self, offset: int, position: int, time_ms: int) -> None:
        self.offsets.append(offset)
        self.positions.append(position)
        self.times.append(time_ms)

    def cut(self, keep: slice) -> None:
        self.offsets = self.offsets[keep]
        self.positions = self.positions[keep]
        self.times = self.times[keep]

    def pack(self) -> bytes:
        return b"".join(_little(column).tobytes() for column in (self.offsets, self.positions, self.times))

    def unpack(self, data: memoryview, entries: int) -> None:
        for number, name in enumerate(("offsets", "positions", "times")):
            column = array("q" if name == "times" else "Q")
            column.frombytes(data[8 * entries * number : 8 * entries * (number + 1)])
            setattr(self, name, _little(column))


class OffsetIndex:
    """Where batches begin. ``note`` every batch, in order."""

    __slots__ = ("_coarse", "_coarse_at", "_fine", "_spacing", "fine_at")

    def __init__(self) -> None:
        self._fine = _Tier()
        self._coarse = _Tier()
        self._spacing = COARSE_SPACING_BYTES
        self._coarse_at = 0
        self.fine_at = 0
        """Position from which ``note`` would keep an entry; the caller may spare the call below it."""

    def note(self, offset: int, position: int, time_ms: int) -> None:
        """Take in a batch: its base offset, its position, and the greatest append time of the batches before it."""
        if position < self.fine_at:
            return
        fine = self._fine
        fine.append(offset, position, time_ms)
        self.fine_at = position + FINE_SPACING_BYTES
        # Cut by half at a time: dropping the oldest entry on each append would copy the whole tier each time.
        if len(fine.offsets) >= 2 * FINE_ENTRIES_MAX:
            fine.cut(slice(FINE_ENTRIES_MAX, None))
        if position >= self._coarse_at:
            coarse = self._coarse
            coarse.append(offset, position, time_ms)
            # Every second entry goes: a walk gets twice as long, and a log of any size costs the same memory.
            if len(coarse.offsets) > COARSE_ENTRIES_MAX:
                coarse.cut(slice(None, None, 2))
                self._spacing *= 2
            self._coarse_at = coarse.positions[-1] + self._spacing

    def floor(self, offset: int) -> tuple[int, int] | None:
        """The last entry (offset, position) at or below ``offset``; None when there is none."""
        fine, coarse = self._fine, self._coarse
        tier = fine if fine.offsets and fine.offsets[0] <= offset else coarse
        at = bisect_right(tier.offsets, offset) - 1
        return (tier.offsets[at], tier.positions[at]) if at >= 0 else None

    def floor_time(self, time_ms: int) -> tuple[int, int] | None:
        """The last entry before which every append time is less than ``time_ms``."""
        fine, coarse = self._fine, self._coarse
        tier = fine if fine.times and fine.times[0] < time_ms else coarse
        at = bisect_left(tier.times, time_ms) - 1
        return (tier.offsets[at], tier.positions[at]) if at >= 0 else None

    def below(self, position: int) -> tuple[int, int] | None:
        """The last entry (offset, position) at or below ``position``."""
        found = None
        for tier in (self._fine, self._coarse):
            at = bisect_right(tier.positions, position) - 1
            if at >= 0 and (found is None or tier.positions[at] > found[1]):
                found = (tier.offsets[at], tier.positions[at])
        return found

    def after(self, position: int) -> tuple[int, int] | None:
        """The first entry (offset, position) beyond ``position``: a boundary that can be trusted."""
        found = None
        for tier in (self._fine, self._coarse):
            at = bisect_right(tier.positions, position)
            if at < len(tier.positions) and (found is None or tier.positions[at] < found[1]):
                found = (tier.offsets[at], tier.positions[at])
        return found

    def trim(self, position: int) -> None:
        """Forget entries below ``position``."""
        for tier in (self._fine, self._coarse):
            tier.cut(slice(bisect_left(tier.positions, position), None))

    def pack(self) -> bytes:
        """All entries as bytes."""
        counts = len(self._coarse.offsets), len(self._fine.offsets)
        return _SIZES.pack(self._spacing, *counts) + self._coarse.pack() + self._fine.pack()

    @classmethod
    def unpack(cls, data: Buffer) -> OffsetIndex:
        """The index that ``pack`` wrote. Raises ``ValueError`` or ``struct.error`` when the bytes are not one."""
        view = memoryview(data)
        index = cls()
        index._spacing, coarse, fine = _SIZES.unpack_from(view)
        if len(view) != _SIZES.size + 24 * (coarse + fine):
            raise ValueError("index of another size")
        at = _SIZES.size
        index._coarse.unpack(view[at:], coarse)
        index._fine.unpack(view[at + 24 * coarse :], fine)
        if coarse:
            index._coarse_at = index._coarse.positions[-1] + index._spacing
        if fine:
            index.fine_at = index._fine.positions[-1] + FINE_SPACING_BYTES
        return index


def _little(column: array[int]) -> array[int]:
    if sys.byteorder == "little":
        return column
    swapped = array(column.typecode, column)
    swapped.byteswap()
    return swapped
