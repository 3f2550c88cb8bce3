"""How a power cut decides what survives: at random, or every possibility in turn.

Knows nothing of disks: it answers "which of so many?", where 0 is always the oldest possibility and the last one
the newest.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["AllChoices", "Choices", "RandomChoices"]

T = TypeVar("T")


class Choices(ABC):
    """A source of decisions."""

    @abstractmethod
    def choose(self, count: int) -> int:
        """Return a number from 0 to ``count - 1``; 0 means that nothing new survived."""

    def pick(self, candidates: Sequence[T]) -> T:
        """Return one of ``candidates``, which are ordered from the oldest to the newest; asks only if there are two."""
        return candidates[self.choose(len(candidates)) if len(candidates) > 1 else 0]


class RandomChoices(Choices):
    """Decisions drawn from ``rng``, biased by one draw so that "nothing", "all" and "nearly all" survive often."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._survival = rng.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))

    def choose(self, count: int) -> int:
        """See ``Choices``."""
        if self._rng.random() >= self._survival:
            return 0
        return 1 if count == 2 else self._rng.randrange(1, count)


class AllChoices(Choices):
    """Every sequence of decisions, one after the other.

    Use: ask ``choose`` as often as needed, then ``advance``; when that returns False all have been seen. The questions
    must depend on nothing but the answers before.
    """

    def __init__(self) -> None:
        self._path: list[list[int]] = []
        self._depth = 0

    def choose(self, count: int) -> int:
        """See ``Choices``."""
        if self._depth == len(self._path):
            self._path.append([0, count])
        index = self._path[self._depth][0]
        self._depth += 1
        return index

    def advance(self) -> bool:
        """Go to the next sequence; False when there is none."""
        self._depth = 0
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if not self._path:
            return False
        self._path[-1][0] += 1
        return True
