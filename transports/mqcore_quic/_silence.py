"""When a peer that says nothing is asked, and when it is given up. Must not know how."""

from __future__ import annotations

import math

__all__ = ["DOUBT_SECONDS", "GOODBYE_SECONDS", "Silence"]

DOUBT_SECONDS = 1.0
"""After a word that there is no such connection, which anybody may have sent: time for the peer's own answer."""
GOODBYE_SECONDS = 1.0
"""How long a peer may be silent in a goodbye; one that goes on is waited for as long as for a silent one elsewhere."""
ASKED_PART = 3
"""A third of the time after which it is given up it may be silent, then it is asked."""


class Silence:
    """``idle_seconds``: silence after which the engine gives a peer up. Times are those of one clock, in seconds."""

    def __init__(self, idle_seconds: float, now: float) -> None:
        self.heard_at = now
        self._pause = idle_seconds / ASKED_PART
        self._asked_at = now
        self._doubted_until = math.inf

    def heard(self, now: float) -> None:
        """Something has come of the peer."""
        self.heard_at = now
        self._doubted_until = math.inf

    def is_to_be_asked(self, now: float) -> bool:
        """Whether the peer is to be asked whether it lives; who is told so asks it."""
        if now < max(self.heard_at, self._asked_at) + self._pause:
            return False
        self._asked_at = now
        return True

    def doubt(self, now: float) -> bool:
        """Somebody says that the peer is gone; whether it is to be asked."""
        if self._doubted_until < math.inf:
            return False
        self._doubted_until = now + DOUBT_SECONDS
        return True

    def is_gone(self, now: float) -> bool:
        """Whether the peer has not answered a doubt."""
        return now >= self._doubted_until

    def next_at(self) -> float:
        """When to look again."""
        return min(max(self.heard_at, self._asked_at) + self._pause, self._doubted_until)
