"""Counts what Trio's scheduler does, and calls when a chosen step is due. Knows nothing of faults."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["StepCounter"]


class StepCounter(trio.abc.Instrument):
    """``count``: steps of all tasks so far."""

    def __init__(self) -> None:
        self.count = 0
        self._due = 0
        self._call: Callable[[int], None] = lambda step: None

    def aim(self, call: Callable[[int], None], step: int) -> None:
        """Call ``call`` before ``step``; 0: never."""
        self._call, self._due = call, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self._due:
            self._call(self.count)
