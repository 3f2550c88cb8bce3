"""Bytes at positions, in arenas of growing size: no allocation per append, no copy per read.

An append lies whole within one arena. Views that were handed out keep their arena alive and are never written over:
after a cut, appends go to a new arena.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from mqcore.ports import Buffer

__all__ = ["Arenas"]

FIRST_ARENA_BYTES = 16 * 1024
GROWTH = 4


class Arenas:
    """The bytes of one log from ``start`` on. ``reserve(size)`` is asked for each new arena; it refuses by raising."""

    def __init__(
        self, reserve: Callable[[int], None], release: Callable[[int], None], arena_bytes_max: int, start: int = 0
    ) -> None:
        self._reserve = reserve
        self._release = release
        self._arena_bytes_max = arena_bytes_max
        self._next_bytes = min(FIRST_ARENA_BYTES, arena_bytes_max)
        self._bases: list[int] = []
        self._buffers: list[memoryview] = []
        self._room = 0
        self.start = self.end = start

    def append(self, chunks: Sequence[Buffer]) -> int:
        """Copy ``chunks`` to the end; return the position of the first byte."""
        position = self.end
        views = [chunk if isinstance(chunk, bytes) else memoryview(chunk).cast("B") for chunk in chunks]
        total = sum(map(len, views))
        if total == 0:
            return position
        if total > self._room:
            self._add_arena(total)
        buffer = self._buffers[-1]
        at = position - self._bases[-1]
        for view in views:
            after = at + len(view)
            buffer[at:after] = view
            at = after
        self._room -= total
        self.end = position + total
        return position

    def _add_arena(self, bytes_min: int) -> None:
        size = max(self._next_bytes, bytes_min)
        self._reserve(size)
        self._buffers.append(memoryview(bytearray(size)))
        self._bases.append(self.end)
        self._room = size
        self._next_bytes = min(self._next_bytes * GROWTH, self._arena_bytes_max)

    def read(self, position: int, size: int) -> memoryview:
        """Return a read-only view of up to ``size`` bytes, fewer where an arena ends."""
        if not self.start <= position <= self.end:
            raise ValueError(f"position {position} is outside the log ({self.start} to {self.end})")
        if position == self.end or size <= 0:
            return memoryview(b"")
        index = bisect_right(self._bases, position) - 1
        limit = self._bases[index + 1] if index + 1 < len(self._bases) else self.end
        base = self._bases[index]
        return self._buffers[index][position - base : min(position + size, limit) - base].toreadonly()

    def truncate(self, position: int) -> None:
        """Cut everything from ``position`` on."""
        if not self.start <= position <= self.end:
            raise ValueError(f"position {position} is outside the log ({self.start} to {self.end})")
        if position == self.end:
            return
        while self._bases and self._bases[-1] >= position:
            self._bases.pop()
            self._release(self._buffers.pop().nbytes)
        self.end = position
        self._room = 0

    def trim(self, position: int) -> int:
        """Free the arenas that lie whole below ``position``; return the new start."""
        kept = 0
        while kept + 1 < len(self._bases) and self._bases[kept + 1] <= position:
            kept += 1
        for buffer in self._buffers[:kept]:
            self._release(buffer.nbytes)
        del self._buffers[:kept], self._bases[:kept]
        if kept:
            self.start = self._bases[0]
        return self.start

    def free(self) -> None:
        """Give everything up."""
        for buffer in self._buffers:
            self._release(buffer.nbytes)
        self._buffers.clear()
        self._bases.clear()
        self._room = 0
