"""Fetches that wait for the committed offset of one partition to move, in order of the offset that they wait beyond.

Waking costs those that wake and no others. Must not know of connections: a fetch is a key of its owner's.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

__all__ = ["ParkedFetches", "ParkedSink"]

KeyT = TypeVar("KeyT", bound=Hashable)

_STALE_SPARE = 16


class ParkedSink(Protocol):
    """Who is waiting to read: the outbox of one connection."""

    def unpark(self, request_id: int) -> None:
        """Take note that a parked fetch may have something to read now."""


class ParkedFetches(Generic[KeyT]):
    """Keys of parked fetches, each with the offset that the committed one has to pass."""

    __slots__ = ("_heap", "_parked", "number_of")

    def __init__(self) -> None:
        self.number_of: dict[KeyT, int] = {}
        """The keys that are parked; empty when none is, which is cheaper to look at than to ask."""
        self._heap: list[tuple[int, int, KeyT]] = []  # by offset, then in order of arrival
        self._parked = 0

    def __len__(self) -> int:
        return len(self.number_of)

    def park(self, offset: int, key: KeyT) -> None:
        """Park ``key``, which is not parked, until the committed offset is beyond ``offset``."""
        self._parked += 1
        self.number_of[key] = self._parked
        heappush(self._heap, (offset, self._parked, key))

    def forget(self, key: KeyT) -> None:
        """Drop ``key`` if it is parked."""
        # Its entry stays in the heap, where to find it would cost a scan; they are swept once they are the most.
        if self.number_of.pop(key, None) is not None and len(self._heap) > 2 * len(self.number_of) + _STALE_SPARE:
            self._heap = [entry for entry in self._heap if self.number_of.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def wake(self, committed_offset: int) -> list[KeyT]:
        """Return the keys that wait below ``committed_offset``; they are parked no more."""
        woken: list[KeyT] = []
        heap, number_of = self._heap, self.number_of
        while heap and heap[0][0] < committed_offset:
            _, number, key = heappop(heap)
            if number_of.get(key) == number:
                del number_of[key]
                woken.append(key)
        return woken
