"""Handshakes under way at a listener: so many at once, and failed ones are told so often. Must not know of TLS itself.

Beyond the limit the oldest gives way: one that is honest is done within a few round trips, so it is one that stalls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from mqcore.abc import Notice

__all__ = ["Handshakes"]

TOLD_AT_ONCE = 10
TOLD_EVERY_S = 1.0
"""After so many notices at once, one in so long; it says how many were left out."""


class Handshakes:
    """``most`` at once. ``report`` takes notices."""

    def __init__(self, most: int, report: Callable[[Notice], None]) -> None:
        self.most = most
        self._report = report
        self._scopes: dict[trio.CancelScope, None] = {}
        self._credit = float(TOLD_AT_ONCE)
        self._told_at = -math.inf
        self._left_out = 0

    @property
    def count(self) -> int:
        """How many are under way."""
        return len(self._scopes)

    @contextmanager
    def one(self) -> Iterator[trio.CancelScope]:
        """Have a handshake within the block, which is cancelled when it has to give way to a newer one."""
        while len(self._scopes) >= self.most:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        with trio.CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)

    def tell(self, notice: Notice) -> None:
        """Report a failure, unless there were many of late."""
        now = trio.current_time()
        self._credit = min(TOLD_AT_ONCE, self._credit + (now - max(self._told_at, now - 3_600)) / TOLD_EVERY_S)
        self._told_at = now
        if self._credit < 1:
            self._left_out += 1
            return
        self._credit -= 1
        if self._left_out:
            text = f"{notice.text} ({self._left_out} more since the last such line)"
            notice = attrs.evolve(notice, text=text, facts={**notice.facts, "left_out": self._left_out})
            self._left_out = 0
        self._report(notice)
