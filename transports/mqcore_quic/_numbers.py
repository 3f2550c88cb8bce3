"""Which of a peer's streams have been there, in memory that does not grow with their number. No I/O."""

from __future__ import annotations

__all__ = ["StreamNumbers"]


class StreamNumbers:
    """Numbers of the streams that a peer has opened, which come nearly in order: kept are those that were left out.

    A stream that opens opens all below it (RFC 9000, section 3.2), so that what is left out counts as open.
    """

    def __init__(self) -> None:
        self._next = 0
        self._left_out: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._next and number not in self._left_out

    def left_out_with(self, number: int) -> int:
        """How many would be left out if ``number`` were taken; to be asked before it is."""
        if number < self._next:
            return len(self._left_out - {number})
        return len(self._left_out) + number - self._next

    def take(self, number: int) -> None:
        """Take note of ``number``. Costs what it leaves out."""
        if number < self._next:
            self._left_out.discard(number)
        else:
            self._left_out.update(range(self._next, number))
            self._next = number + 1

    def has_all_below(self, number: int) -> bool:
        """Whether every number below ``number`` has been there."""
        return self._next >= number and all(left_out >= number for left_out in self._left_out)
