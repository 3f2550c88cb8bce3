"""What the final drain found in one partition, as checkers ask for it. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterable

import attrs


@attrs.define
class DrainedLog:
    """What the final drain found in a partition: message and epoch by offset, and the ranges reported as damaged.

    ``rotted``: ranges of the batches in which bits rotted, noticed or not. ``start_offset`` is 0 where nothing may
    take the oldest messages.
    """

    partition: str
    start_offset: int = 0
    end_offset: int = 0
    complete: bool = False
    messages: dict[int, tuple[int, str]] = attrs.field(factory=dict)
    order: list[tuple[int, int, str]] = attrs.field(factory=list)
    damaged: list[tuple[int, int]] = attrs.field(factory=list)
    rotted: list[tuple[int, int]] = attrs.field(factory=list)

    def is_reported(self, offset: int) -> bool:
        """Whether ``offset`` lies in a range that was reported as damaged, rightly or not."""
        return any(first <= offset < until for first, until in self.damaged)

    def is_damaged(self, offset: int) -> bool:
        """Whether ``offset`` lies in a range that was reported as damaged, and in a batch that is."""
        return self.first_undamaged(offset, offset + 1) > offset

    def first_undamaged(self, first: int, until: int) -> int:
        """The first of the offsets from ``first`` to ``until`` that is not damaged in this sense, else ``until``."""
        both = [(max(said[0], hit[0]), min(said[1], hit[1])) for said in self.damaged for hit in self.rotted]
        return first_outside(first, until, both)

    def has(self, offset: int, digest: str) -> bool:
        """Whether the message is there with this content."""
        found = self.messages.get(offset)
        return found is not None and found[1] == digest


def first_outside(first: int, until: int, ranges: Iterable[tuple[int, int]]) -> int:
    """Return the first of the offsets from ``first`` to ``until`` that none of ``ranges`` holds, else ``until``."""
    for begin, end in sorted(ranges):
        if begin <= first < end:
            first = end
    return min(first, until)
