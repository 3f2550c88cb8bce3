"""The bytes of one model file: what the page cache holds, what the device holds, and what lies between them.

Knows sectors and pages, nothing of names, handles, faults' causes or time. A sector is the unit that reaches the
device whole or not at all; between two flushes any version that a dirty sector had may be what a power cut leaves.
"""

from __future__ import annotations

import random
import re
import weakref
from collections.abc import Sequence

import attrs

from mqcore.testing._choices import Choices

__all__ = ["PAGE_BYTES", "SECTOR_BYTES", "FlushInFlight", "SectorFile", "Window"]

SECTOR_BYTES = 512
PAGE_BYTES = 4096
FOLIO_BYTES = 64 * 1024
SECTORS_PER_PAGE = PAGE_BYTES // SECTOR_BYTES
VERSIONS_MAX = 4
"""Most superseded versions of a dirty sector that a power cut may bring back."""
SIZES_MAX = 32
"""Most superseded sizes of a file that a power cut may bring back."""

WINDOWS_KEPT = 64
"""Windows that a file remembers before it looks which of them are held."""

CLEAN, DIRTY, STALE, IN_FLIGHT = 0, 1, 2, 3
"""State of a sector. ``STALE``: marked clean by a failed flush although the device holds older bytes."""

UNFLUSHED_RUN = re.compile(rb"[\x01\x03]+")
STALE_RUN = re.compile(rb"\x02+")


@attrs.define(eq=False)
class FlushInFlight:
    """A flush that has begun and not ended: the runs ``(first sector, end sector, bytes)`` it carries, and the size."""

    file: SectorFile
    runs: list[tuple[int, int, bytes]]
    size: int
    older: dict[int, list[bytes]]
    sizes: list[int]

    def complete(self) -> None:
        """Let the flush reach the device, with every earlier one of the same file; no effect after a power cut."""
        self.file.complete_flush(self)


class Window(bytearray):
    """What a mapped view shows: it follows later writes to the file, as shared pages do."""

    __slots__ = ("__weakref__", "position")

    position: int


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _sectors_of(size: int) -> int:
    return -(-size // SECTOR_BYTES)


class SectorFile:
    """Content of one file in the cache (``cached``) and on the device (``durable``)."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.allocated = bytearray()
        self.error_sequence = 0
        self.windows: list[weakref.ref[Window]] = []
        self._state = bytearray()
        self._older: dict[int, list[bytes]] = {}
        self._sizes: list[int] = []
        self._in_flight: list[FlushInFlight] = []
        self._first_unflushed = 0
        self._end_unflushed = 0

    # ---- what the process does -------------------------------------------------------------------------------

    def unallocated_bytes(self, position: int, size: int) -> int:
        """Return how many bytes of device space a write to the range would newly take."""
        first, end = position // SECTOR_BYTES, _sectors_of(position + size)
        return (end - first - self.allocated.count(1, first, end)) * SECTOR_BYTES

    def allocated_bytes(self) -> int:
        """Return the device space that the file takes."""
        return self.allocated.count(1) * SECTOR_BYTES

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` into the cache at ``position``."""
        size = len(data)
        if not size:
            return
        end = position + size
        first, end_sector = position // SECTOR_BYTES, _sectors_of(end)
        if end > len(self.cached):
            _resize(self.cached, end)
            self._note_size(end)
        self._mark_dirty(first, end_sector)
        if len(self.allocated) < end_sector:
            _resize(self.allocated, end_sector)
        self.allocated[first:end_sector] = b"\1" * (end_sector - first)
        self.cached[position:end] = data
        if self.windows:
            self._show(position, end)

    def read(self, position: int, size: int) -> bytes:
        """Return up to ``size`` cached bytes at ``position``."""
        with memoryview(self.cached) as content:
            return bytes(content[position : position + size])

    def window(self, position: int, size: int) -> Window:
        """Return the cached bytes of the range; they follow later writes for as long as somebody holds them."""
        window = Window(self.read(position, size))
        window.position = position
        if len(self.windows) > WINDOWS_KEPT:
            self.windows = [known for known in self.windows if known() is not None]
        self.windows.append(weakref.ref(window))  # weak: a view that nobody holds is to cost no later write
        return window

    def truncate(self, size: int) -> None:
        """Set the cached size; what is cut is zeros if the file grows again."""
        old = len(self.cached)
        if size == old:
            return
        if size < old:
            self._mark_dirty(size // SECTOR_BYTES, _sectors_of(old))
            del self.allocated[_sectors_of(size) :]
        _resize(self.cached, size)
        self._note_size(size)
        self._show(size, old)

    def flush(self) -> None:
        """Make everything cached durable at once, except what an earlier failed flush has marked clean."""
        _resize(self.durable, len(self.cached))
        for first, end in self._unflushed_runs():
            start, stop = first * SECTOR_BYTES, end * SECTOR_BYTES
            self.durable[start:stop] = self.cached[start:stop]
            self._state[first:end] = bytes(end - first)
        del self._state[_sectors_of(len(self.cached)) :]
        self._settled()

    def begin_flush(self) -> FlushInFlight:
        """Begin a flush of what is cached now; until ``complete`` a power cut may still take any of it."""
        runs = []
        for first, end in self._unflushed_runs():
            runs.append((first, end, bytes(self.cached[first * SECTOR_BYTES : end * SECTOR_BYTES])))
            self._state[first:end] = bytes([IN_FLIGHT]) * (end - first)
        flush = FlushInFlight(self, runs, len(self.cached), self._older, self._sizes)
        self._older, self._sizes = {}, []
        self._in_flight.append(flush)
        return flush

    def complete_flush(self, flush: FlushInFlight) -> None:
        """See ``FlushInFlight.complete``."""
        if flush not in self._in_flight:
            return
        count = self._in_flight.index(flush) + 1
        for one in self._in_flight[:count]:
            _resize(self.durable, one.size)
            for first, end, data in one.runs:
                start = first * SECTOR_BYTES
                self.durable[start : start + len(data)] = data
                self._state[first:end] = self._state[first:end].replace(b"\3", b"\0")
        del self._in_flight[:count]
        if not self._in_flight and DIRTY not in self._state and not self._sizes:
            self._settled()

    def fail_flush(self, choices: Choices | None) -> int:
        """Fail a flush as Linux does: mark every dirty page clean; return how many sectors the device lacks.

        With ``choices`` any of the sectors may have reached the device before the error, else none. The new size
        is still dirty: the next flush makes it durable, over old bytes.
        """
        lost = 0
        for first, end in self._unflushed_runs():
            for sector in range(first, end):
                if self._state[sector] != DIRTY:
                    continue  # on its way in a flush that began before, whose outcome is its own
                newest = self._sector_of(self.cached, sector)
                reached = newest == self._sector_of(self.durable, sector)
                if not reached and choices is not None and choices.choose(2):
                    reached = self._put_durable(sector, newest)
                self._state[sector] = CLEAN if reached else STALE
                lost += not reached
        self._older.clear()
        self.error_sequence += 1
        return lost

    def drop_cache(self, position: int, size: int) -> None:
        """Drop clean pages that lie wholly in the range, as ``POSIX_FADV_DONTNEED`` does; 0 means to the end.

        Pages that were read or written together may be one *folio* in the cache; one that begins before the range
        stays whole. Here every ``FOLIO_BYTES`` are one.
        """
        length = len(self.cached)
        end = length if size == 0 else min(position + size, length)
        first_page = -(-position // FOLIO_BYTES) * FOLIO_BYTES // PAGE_BYTES
        end_page = -(-end // PAGE_BYTES) if end >= length else end // PAGE_BYTES
        low, high = first_page * SECTORS_PER_PAGE, end_page * SECTORS_PER_PAGE
        for run in list(STALE_RUN.finditer(self._state, low, max(low, high))):
            for sector in range(run.start(), run.end()):
                page = sector - sector % SECTORS_PER_PAGE
                if not UNFLUSHED_RUN.search(self._state[page : page + SECTORS_PER_PAGE]):
                    self._reload(sector)

    # ---- what the device does --------------------------------------------------------------------------------

    def rot(self, position: int, size: int, rng: random.Random) -> None:
        """Flip one bit in each of ``size`` durable bytes at ``position``, and forget the clean cached sectors there."""
        if size < 1 or position + size > len(self.durable):
            raise ValueError(
                f"the device holds {len(self.durable)} bytes of the file; "
                f"bytes {position} to {position + size} cannot rot"
            )
        for index in range(position, position + size):
            self.durable[index] ^= 1 << rng.randrange(8)
        for sector in range(position // SECTOR_BYTES, _sectors_of(position + size)):
            if self._state_of(sector) in (CLEAN, STALE):
                self._reload(sector)

    def unflushed_sectors(self) -> int:
        """Return how many sectors a power cut could take."""
        return sum(end - first for first, end in self._unflushed_runs())

    def crash(self, choices: Choices) -> int:
        """Become what a power cut leaves; return how many sectors are not the newest that was written."""
        size = choices.pick(self._size_candidates())
        content = bytearray(self.durable)
        _resize(content, size)
        lost = 0
        for first, end in self._unflushed_runs():
            for sector in range(first, min(end, _sectors_of(size))):
                versions = self._candidates(sector)
                if len(versions) == 1:
                    continue
                version = choices.pick(versions)
                lost += version != versions[-1]
                stop = min((sector + 1) * SECTOR_BYTES, size)
                content[sector * SECTOR_BYTES : stop] = version[: stop - sector * SECTOR_BYTES]
        lost += size < len(self.cached)
        self.durable = content
        self.cached = bytearray(content)
        self.windows = []
        self._state = bytearray(_sectors_of(size))
        self.allocated = bytearray(b"\1") * _sectors_of(size)
        self._settled()
        return lost

    # ---- inside ----------------------------------------------------------------------------------------------

    def _settled(self) -> None:
        self._older.clear()
        self._sizes.clear()
        self._in_flight.clear()
        self._first_unflushed = self._end_unflushed = 0

    def _unflushed_runs(self) -> list[tuple[int, int]]:
        runs = UNFLUSHED_RUN.finditer(self._state, self._first_unflushed, self._end_unflushed)
        return [run.span() for run in runs]

    def _show(self, position: int, end: int) -> None:
        """Let the windows on the range show what is there now: zeros beyond the end."""
        for known in self.windows:
            window = known()
            if window is None:
                continue
            start = max(position, window.position)
            stop = min(end, window.position + len(window))
            if start < stop:
                shown = self.read(start, stop - start).ljust(stop - start, b"\0")
                window[start - window.position : stop - window.position] = shown

    def _note_size(self, size: int) -> None:
        self._sizes.append(size)
        # Thinned and not cut off: a file that grows in many steps is to come back short as well as nearly whole.
        if len(self._sizes) > SIZES_MAX:
            del self._sizes[1::2]

    def _mark_dirty(self, first: int, end: int) -> None:
        if len(self._state) < end:
            _resize(self._state, end)
        state = self._state
        if DIRTY in state[first:end]:
            for sector in range(first, end):
                if state[sector] == DIRTY:
                    versions = self._older.setdefault(sector, [])
                    versions.append(self._sector_of(self.cached, sector))
                    if len(versions) > VERSIONS_MAX:
                        del versions[1]  # not the oldest: it is the one that code under test expects the least
        state[first:end] = b"\1" * (end - first)
        if self._end_unflushed == 0:
            self._first_unflushed = first
        self._first_unflushed = min(self._first_unflushed, first)
        self._end_unflushed = max(self._end_unflushed, end)

    @staticmethod
    def _sector_of(content: bytearray, sector: int) -> bytes:
        data = bytes(content[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
        return data if len(data) == SECTOR_BYTES else data.ljust(SECTOR_BYTES, b"\0")

    def _state_of(self, sector: int) -> int:
        return self._state[sector] if sector < len(self._state) else CLEAN

    def _candidates(self, sector: int) -> Sequence[bytes]:
        """Versions that the device may hold after a power cut, the durable one first and the cached one last."""
        versions = [self._sector_of(self.durable, sector)]
        for flush in self._in_flight:
            versions += flush.older.get(sector, ())
            for first, end, data in flush.runs:
                if first <= sector < end:
                    offset = (sector - first) * SECTOR_BYTES
                    versions.append(data[offset : offset + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0"))
        versions += self._older.get(sector, ())
        newest = self._sector_of(self.cached, sector)
        between = dict.fromkeys(versions)
        between.pop(newest, None)
        # The newest stands at both ends then: the first is what is left when nothing survives, the last when all does.
        if versions[0] == newest and between:
            return [newest, *between, newest]
        return [*between, newest]

    def _size_candidates(self) -> list[int]:
        sizes = [len(self.durable)]
        for flush in self._in_flight:
            sizes += flush.sizes
            sizes.append(flush.size)
        return list(dict.fromkeys([*sizes, *self._sizes]))

    def _put_durable(self, sector: int, data: bytes) -> bool:
        """Write a sector to the device; False beyond the durable size, where the device has no place for it."""
        start, stop = sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES
        if stop > len(self.durable):
            return False
        self.durable[start:stop] = data
        return True

    def _reload(self, sector: int) -> None:
        stop = min((sector + 1) * SECTOR_BYTES, len(self.cached))
        start = sector * SECTOR_BYTES
        if start < stop:
            self.cached[start:stop] = self._sector_of(self.durable, sector)[: stop - start]
        if sector < len(self._state):
            self._state[sector] = CLEAN
