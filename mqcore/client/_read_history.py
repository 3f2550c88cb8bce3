"""Which reigns wrote what a reader has read: by that it finds where its history leaves a log's (clauses G06, R5). Pure.

The answer ``diverged`` names an offset and a reign: up to the offset the log has that reign, and lower ones. A reader
that has read a higher reign from an offset below that left the log's history there, and has not read what the log has
from there on.
"""

from __future__ import annotations

__all__ = ["ReadHistory"]

EPOCHS_MAX = 64
"""Reigns that are remembered of one partition."""


class ReadHistory:
    """The reigns of what was read without a gap up to a position, each with its first offset."""

    __slots__ = ("_starts",)

    def __init__(self) -> None:
        self._starts: list[tuple[int, int]] = []

    def clear(self) -> None:
        """Forget all: reading goes on elsewhere."""
        self._starts.clear()

    def note(self, epoch: int, offset: int) -> None:
        """Take in that a batch of ``epoch`` was read, at ``offset``, right behind what was read before."""
        starts = self._starts
        if not starts or starts[-1][0] != epoch:
            starts.append((epoch, offset))
            del starts[:-EPOCHS_MAX]

    def copy(self) -> ReadHistory:
        """Another one that knows the same."""
        found = ReadHistory()
        found._starts = list(self._starts)
        return found

    def left_at(self, offset: int, epoch: int) -> int:
        """Where what was read before ``offset`` leaves a log of which no reign above ``epoch`` was read."""
        return min([offset, *(first for number, first in self._starts if number > epoch)])

    def go_back(self, offset: int) -> int:
        """Forget what was read from ``offset`` on; return the reign of what was read right before it, 0 if unknown."""
        while self._starts and self._starts[-1][1] >= offset:
            self._starts.pop()
        return self._starts[-1][0] if self._starts else 0
