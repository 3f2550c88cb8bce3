"""How long to wait at least for an engine's next timer, so that one that asks too often keeps no processor busy."""

from __future__ import annotations

import math

__all__ = ["TimerPause"]

SECONDS_MIN = 1e-6
"""aioquic may ask for the very time at which it was called, by the rounding of a sum: on virtual time, for ever."""
SILENCE_PART = 8
"""qh3 asks for a timer each 50 us, and sends a probe each 3 ms, to a peer that is gone, until it is given up."""


class TimerPause:
    """Grows with the time for which what was sent has not been answered. Times are those of one clock, in seconds."""

    def __init__(self) -> None:
        self._unanswered_since: float | None = None
        self._ran_at = -math.inf

    def ran(self, now: float) -> None:
        """A timer was run."""
        self._ran_at = now

    def sent(self, now: float) -> None:
        """Something was sent."""
        if self._unanswered_since is None:
            self._unanswered_since = now

    def heard(self) -> None:
        """Something came."""
        self._unanswered_since = None

    def earliest(self, now: float) -> float:
        """When the next timer may be. Asking puts it off by less than the time that went by."""
        soon = now + SECONDS_MIN
        if self._unanswered_since is None:
            return soon
        return max(soon, self._ran_at + (now - self._unanswered_since) / SILENCE_PART)
