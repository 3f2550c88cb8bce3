"""Clocks on virtual time: they go on with ``trio.current_time`` and jump when a test says so."""

from __future__ import annotations

import contextlib

import trio

from mqcore.ports import Clock

__all__ = ["WALL_MS_START", "ModelClock"]

WALL_MS_START = 1_767_225_600_000
"""Wall time at the start of a simulation: 2026-01-01 00:00 UTC."""


class ModelClock(Clock):
    """Clocks that a test moves. Outside of a Trio run they stand still at what they showed last.

    ``drift_ppm``: how much faster all of them run than Trio's own, in millionths; negative for slower.
    """

    def __init__(self, wall_ms_start: int = WALL_MS_START, *, drift_ppm: int = 0) -> None:
        self._wall_offset_ms = wall_ms_start
        self._rate_ppm = 1_000_000 + drift_ppm
        self._suspended_us = 0
        self._last_seconds = 0.0

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return self._now_us() // 1000 + self._wall_offset_ms

    def monotonic_us(self) -> int:
        """See ``Clock``."""
        return self._now_us()

    def boottime_us(self) -> int:
        """See ``Clock``."""
        return self._now_us() + self._suspended_us

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back when negative, as an operator or NTP does. Nothing else moves."""
        self._wall_offset_ms += round(seconds * 1000)

    def suspend(self, seconds: float) -> None:
        """Let the machine have slept so long: wall clock and boot time go on, the monotonic clock does not."""
        if seconds < 0:
            raise ValueError(f"seconds = {seconds}: a suspension cannot be negative")
        self._suspended_us += round(seconds * 1_000_000)
        self._wall_offset_ms += round(seconds * 1000)

    def _now_us(self) -> int:
        with contextlib.suppress(RuntimeError):
            self._last_seconds = trio.current_time()
        return round(self._last_seconds * self._rate_ppm)
