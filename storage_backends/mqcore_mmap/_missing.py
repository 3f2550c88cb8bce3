"""Which segments of a log should be there and are not: absence is damage (clause G12). Pure, no I/O.

What is whole stays readable: a missing segment is a stretch of zeros, which is no batch, and below the durable mark.
The log above reports what is invalid there as damage with its range, and never uses those offsets again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mqcore_mmap._header import Header

__all__ = ["SegmentGap", "SegmentPlace", "find_gaps", "zeros"]

ZEROS_BYTES_MAX = 1024 * 1024
_ZEROS = memoryview(bytes(ZEROS_BYTES_MAX))


class SegmentPlace(NamedTuple):
    """A segment file that is there: first position, end of its bytes (an upper bound), header."""

    base: int
    end: int
    header: Header


class SegmentGap(NamedTuple):
    """Positions ``start`` to ``end`` are in no file; ``before``: index of the place that follows."""

    start: int
    end: int
    before: int


def find_gaps(places: Sequence[SegmentPlace], last_bytes: int) -> list[SegmentGap]:
    """Return what is missing among the segments of a log, in order.

    ``last_bytes``: how long a missing last segment is taken to have been. Nothing states its length, and a position
    that may have been used must not be used again: too long is safe.
    """
    gaps: list[SegmentGap] = []
    # A trim states the new start durably before it removes a file. The greatest statement is the newest one.
    expected = max(place.header.log_start for place in places)
    for index, place in enumerate(places):
        if place.base > expected:
            gaps.append(SegmentGap(expected, place.base, index))
        continued_at = place.header.continued_at
        # Without a statement of what follows only a base beyond the file's last byte proves that something is missing.
        expected = place.end if continued_at is None else continued_at
    if places[-1].header.continued_at is not None:
        gaps.append(SegmentGap(expected, expected + last_bytes, len(places)))
    return gaps


def zeros(size: int) -> memoryview:
    """Return ``size`` zeros, or as many as a read gives at a time."""
    return _ZEROS[:size]
