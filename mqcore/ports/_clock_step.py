"""Whether somebody has set the wall clock. Must not know what hangs on it."""

from __future__ import annotations

from mqcore.ports._abc import Clock

__all__ = ["ClockStep", "clock_base_ms"]


def clock_base_ms(clock: Clock) -> int:
    """By how much the wall clock is ahead of the one since boot, in ms: it changes when the wall clock is set."""
    return clock.wall_ms() - clock.boottime_us() // 1000


class ClockStep:
    """Whether the wall clock has gone as the one since boot has, up to ``step_max_ms``, since it was right (R15)."""

    def __init__(self, clock: Clock, step_max_ms: int) -> None:
        self._clock = clock
        self._step_max_ms = step_max_ms
        self.base_ms = clock_base_ms(clock)
        """``clock_base_ms`` when the wall clock was right: at first now."""

    @property
    def step_ms(self) -> int:
        """By how much the wall clock is ahead of where it would be; negative: behind."""
        return clock_base_ms(self._clock) - self.base_ms

    @property
    def agrees(self) -> bool:
        """Whether ages can be believed."""
        return abs(self.step_ms) <= self._step_max_ms

    def confirm(self) -> None:
        """Take the wall clock as it is now for right, by word of an operator."""
        self.base_ms = clock_base_ms(self._clock)
