"""How much of a flush one log may take while others wait for the same flush: a busy topic must not starve a quiet one.

Logs share flushes, and a flush takes as long as its bytes. Alone, a log is flushed in pieces as large as they come:
nobody waits for them but its own senders. Beside others each log may have ``bytes_max`` unflushed, which follows what
the device does: less after a flush that took clearly longer than the fastest, more after one that did not. A log that
is over waits with its next append, so that its senders are slowed down and nobody else. Must not know of logs.
"""

from __future__ import annotations

import math

__all__ = ["LITTLE_BYTES", "FlushShare"]

LITTLE_BYTES = 64 * 1024
"""Up to here a flush shows what the device takes for any."""
_BYTES_MIN = 256 * 1024
_BYTES_AT_FIRST = 4 * 1024 * 1024
_BYTES_MOST = 256 * 1024 * 1024
_FLUSHES_CONTENDED = 64
"""Flushes of one log alone after which nobody is taken to wait beside it."""
_TARGET_US_MIN = 2_000
_TARGET_FASTEST = 1.5
"""What a shared flush should take at most: so many times the fastest of little, at least so many microseconds."""
_FASTEST_DRIFT = 1 / 64
"""By how much the fastest flush of little is forgotten with each other one: a device may have become slower."""


class FlushShare:
    """One flusher's. ``bytes_max``: what one log may have unflushed, infinite while logs are flushed alone."""

    __slots__ = ("_alone", "_bytes", "_fastest_us", "bytes_max", "is_open")

    def __init__(self) -> None:
        self.bytes_max = math.inf
        self.is_open = True
        """Whether a log may have any number of bytes unflushed: no property, each append looks."""
        self._bytes: float = _BYTES_AT_FIRST
        self._fastest_us = math.inf
        self._alone = 0

    def flushed(self, took_us: int, *, is_shared: bool, is_little: bool, held: bool) -> None:
        """Take in a flush. ``is_shared``: it was of several logs, or of another one than the flush before.

        ``held``: whether a log was held to its share while it ran.
        """
        if is_little:
            self._fastest_us += self._fastest_us * _FASTEST_DRIFT
        self._fastest_us = min(took_us, self._fastest_us)
        if not is_shared:
            self._alone += 1
            if self._alone >= _FLUSHES_CONTENDED:
                self.bytes_max, self.is_open = math.inf, True
            return
        self._alone = 0
        target_us = max(_TARGET_US_MIN, _TARGET_FASTEST * self._fastest_us)
        if took_us > target_us:
            self._bytes = max(self._bytes * max(target_us / took_us, 1 / 4), _BYTES_MIN)
        elif held:  # else it was not the share that made it short
            self._bytes = min(self._bytes * 9 / 8, _BYTES_MOST)
        self.bytes_max, self.is_open = self._bytes, False
