"""Faults planned for a model disk: which call of which operation on which path shall fail, wait or lie.

Knows operation names, paths and error numbers; nothing of what the calls do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import attrs

from mqcore.testing._choices import Choices
from mqcore.testing._sectors import PAGE_BYTES

__all__ = ["Faults", "FlushFault"]


@attrs.define
class _Rule:
    """Applies to ``times`` calls like (operation, path pattern) after letting ``after`` of them pass."""

    operation: str
    pattern: str
    value: int
    times: int
    after: int = 0

    def hits(self, operation: str, paths: Iterable[str]) -> bool:
        if self.operation not in (operation, "*") or not any(fnmatchcase(path, self.pattern) for path in paths):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@attrs.define
class FlushFault:
    """A flush that fails with ``error``; ``choices`` decides which sectors reach the device all the same."""

    pattern: str
    error: int
    times: int
    choices: Choices | None


class Faults:
    """The rules in force. ``active`` is False when there are none, so that a call asks one attribute only."""

    def __init__(self) -> None:
        self.errors: list[_Rule] = []
        self.stalls: list[_Rule] = []
        self.flushes: list[FlushFault] = []
        self.bad_ranges: list[tuple[int, int, int | None]] = []
        self.active = False

    def add_error(self, operation: str, path: str, error: int, times: int, after: int) -> None:
        """Plan an ``OSError``."""
        self.errors.append(_Rule(operation, path, error, times, after))
        self.active = True

    def add_stall(self, operation: str, path: str, stall_us: int, times: int) -> None:
        """Plan a delay."""
        self.stalls.append(_Rule(operation, path, stall_us, times))
        self.active = True

    def add_flush(self, path: str, error: int, times: int, choices: Choices | None) -> None:
        """Plan a failing flush."""
        self.flushes.append(FlushFault(path, error, times, choices))

    def add_bad_range(self, inode: int, position: int, size: int | None) -> None:
        """Make a range of a file unreadable; ``size`` None means to its end."""
        self.bad_ranges.append((inode, position, size))

    def error_for(self, operation: str, paths: Sequence[str]) -> int:
        """Return the error number with which this call shall fail, or 0."""
        return self._take(self.errors, operation, paths)

    def stall_us_for(self, operation: str, paths: Sequence[str]) -> int:
        """Return how much longer this call shall take."""
        return self._take(self.stalls, operation, paths)

    def flush_fault_for(self, paths: Sequence[str]) -> FlushFault | None:
        """Return the fault that hits this flush, or None."""
        for fault in self.flushes:
            if any(fnmatchcase(path, fault.pattern) for path in paths):
                fault.times -= 1
                if fault.times <= 0:
                    self.flushes.remove(fault)
                return fault
        return None

    def unreadable(self, inode: int, position: int, size: int) -> bool:
        """Say whether a read of the range touches a bad one."""
        for bad_inode, start, length in self.bad_ranges:
            if bad_inode == inode and position + size > start and (length is None or position < start + length):
                return True
        return False

    def takes_write(self, inode: int, position: int, size: int) -> bool:
        """Take in a write; False if it fails: it covers a part of a page that would have to be read for it.

        Of what it covers whole the device makes new sectors: that can be read again.
        """
        end = position + size
        whole = -(-position // PAGE_BYTES) * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES
        left: list[tuple[int, int, int | None]] = []
        for bad in self.bad_ranges:
            bad_inode, start, length = bad
            if bad_inode != inode or length is None:
                left.append(bad)
                continue
            pieces = [(start, min(start + length, whole[0])), (max(start, whole[1]), start + length)]
            if whole[0] >= whole[1]:
                pieces = [(start, start + length)]
            for first, last in pieces:
                touched = first // PAGE_BYTES * PAGE_BYTES, -(-last // PAGE_BYTES) * PAGE_BYTES
                if first < last and position < touched[1] and touched[0] < end:
                    return False
            left += [(inode, first, last - first) for first, last in pieces if first < last]
        self.bad_ranges = left
        return True

    def _take(self, rules: list[_Rule], operation: str, paths: Sequence[str]) -> int:
        for rule in rules:
            if rule.hits(operation, paths):
                if rule.times <= 0:
                    rules.remove(rule)
                    self.active = bool(self.errors or self.stalls)
                return rule.value
        return 0
