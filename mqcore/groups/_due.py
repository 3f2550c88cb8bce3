"""Keys by the time at which each is due, in order: what is due, and when the first is, costs no look at the others."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from sortedcontainers import SortedDict

__all__ = ["DueTimes"]

K = TypeVar("K", bound=Hashable)


class DueTimes(Generic[K]):
    """One time, in microseconds, for each key."""

    def __init__(self) -> None:
        self._entry_of: dict[K, tuple[int, int]] = {}
        self._keys = SortedDict()  # by time and order of setting, so that keys themselves are never compared
        self._count = 0

    @property
    def first_us(self) -> int | None:
        """The earliest time; None where nothing is due ever."""
        return self._keys.peekitem(0)[0][0] if self._keys else None

    def set(self, key: K, due_us: int) -> None:
        """Have ``key`` due at ``due_us``, and not at an earlier or later time that was set before."""
        known = self._entry_of.get(key)
        if known is not None:
            if known[0] == due_us:
                return
            del self._keys[known]
        self._count += 1
        entry = self._entry_of[key] = (due_us, self._count)
        self._keys[entry] = key

    def discard(self, key: K) -> None:
        """Have ``key`` never due, whether it was or not."""
        entry = self._entry_of.pop(key, None)
        if entry is not None:
            del self._keys[entry]

    def take(self, now_us: int) -> list[K]:
        """Return what is due by now, the earliest first; it is due no more."""
        taken: list[K] = []
        while self._keys and self._keys.peekitem(0)[0][0] <= now_us:
            _, key = self._keys.popitem(0)
            del self._entry_of[key]
            taken.append(key)
        return taken
