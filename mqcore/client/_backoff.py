"""How long to wait before the next attempt. Pure: chance comes in as an argument."""

from __future__ import annotations

import random

import attrs

__all__ = ["Backoff"]

QUICK_REDIRECTS = 16
REDIRECT_PAUSE_MS_MAX = 100


@attrs.frozen
class Backoff:
    """Pauses that double from ``first_ms`` to ``most_ms``, each shortened by up to a half so that clients part ways."""

    first_ms: int
    most_ms: int

    def pause(self, attempt: int, source: random.Random) -> float:
        """Seconds to wait after ``attempt`` failures in a row (1 or more)."""
        full_ms = min(self.most_ms, self.first_ms << min(attempt - 1, 20))
        return full_ms / 1000 * (1 - source.random() / 2)

    def redirect_pause(self, attempt: int, source: random.Random) -> float:
        """Seconds to wait after ``attempt`` servers in a row that said it is not theirs.

        Short for the first ones: they live and answer, and while a set takes another primary each second of a longer
        pause is one that it is not used in. Servers that name each other for ever are asked ever more slowly.
        """
        if attempt > QUICK_REDIRECTS:
            return self.pause(attempt - QUICK_REDIRECTS, source)
        return min(self.pause(attempt, source), REDIRECT_PAUSE_MS_MAX / 1000)
