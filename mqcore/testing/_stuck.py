"""Ends a simulation in which nothing can happen any more: no task can run, no deadline is pending, nothing wakes one.

A deadlock that heeds cancellation ends when the time of its run is up. One that shields itself would have the loop turn
for ever, for virtual time has nothing left to jump to. It is told here: a task that waits is ended there, whatever
shields it. Touches Trio's private names, for ``_simulation``; must not know what the tasks do.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import trio
import trio.testing

__all__ = ["Stuck"]

QUIET_S = 1.0
"""Real time without an event before nothing can happen: somebody else's thread may still have an answer."""
QUIET_TURNS = 256
"""Turns of the loop before that, between which the operating system was asked several times."""
ENDS_MAX = 100
"""Ends handed to tasks before no more are: they catch everything and wait on, so that only their process can end."""
WAITS_TOLD_MAX = 5


class _Ended(BaseException):
    """Ends a task that waits for ever. No ``Exception``: who tries again after one shall not wait once more."""


class Stuck:
    """Looks at the loop of one run whenever it has nothing to do. ``error`` is there once nothing could happen."""

    def __init__(self) -> None:
        self.error: trio.TooSlowError | None = None
        self._threads_before = set(threading.enumerate())
        self._ends = 0
        self._last_turn = -1
        self._quiet_turns = 0
        self._quiet_since = 0.0

    def look(self, runner: Any, turn: int) -> None:
        """Note that the loop is idle at ``turn`` without a deadline; end the run if that will not change."""
        if turn != self._last_turn + 1:
            self._quiet_turns, self._quiet_since = 0, time.monotonic()
        self._last_turn = turn
        self._quiet_turns += 1
        if self._quiet_turns < QUIET_TURNS or time.monotonic() - self._quiet_since < QUIET_S:
            return
        self._quiet_turns, self._quiet_since = 0, time.monotonic()
        if not self._somebody_else_may_wake(runner):
            self._end(runner)

    def _somebody_else_may_wake(self, runner: Any) -> bool:
        if trio.testing.active_thread_count() or set(threading.enumerate()) - self._threads_before:
            return True
        statistics: Any = runner.io_manager.statistics()
        reading = getattr(statistics, "tasks_waiting_read", 2)  # one is Trio's own; where it is not told: who knows
        return reading > 1 or getattr(statistics, "tasks_waiting_write", 1) > 0

    def _end(self, runner: Any) -> None:
        waiting = _waiting_tasks(runner.main_task)
        if self.error is None:
            places = [f"task {task.name} waits in {_place(task)}" for task in waiting[:WAITS_TOLD_MAX]]
            more = f"; and {len(waiting) - len(places)} more" if len(waiting) > len(places) else ""
            self.error = trio.TooSlowError(f"nothing can happen any more: {'; '.join(places) or 'no task'}{more}")
        self._ends += 1
        if self._ends <= ENDS_MAX:
            any(_end(task, str(self.error)) for task in waiting)


def _end(task: Any, text: str) -> bool:
    """Have ``task`` raise where it waits; False if it cannot be reached there."""

    def raise_ended() -> None:
        raise _Ended(text)

    if task._abort_func is None:
        return False
    task._attempt_abort(raise_ended)
    return bool(task._next_send is not None)


def _waiting_tasks(main_task: Any) -> list[Any]:
    """The tasks under ``main_task`` that do not wait for tasks of their own, oldest first."""
    found = []
    left = [] if main_task is None else [main_task]
    while left:
        task = left.pop()
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        left += children
        if not children:
            found.append(task)
    return sorted(found, key=lambda task: task._counter)


def _place(task: Any) -> str:
    """Function, file and line of the innermost frame of ``task`` that is not Trio's."""
    frames = [(frame, line) for frame, line in task.iter_await_frames()]
    own = [each for each in frames if not each[0].f_globals.get("__name__", "").startswith("trio.")]
    if not own:
        return "Trio"
    frame, line = own[-1]
    file = "/".join(frame.f_code.co_filename.split("/")[-2:])
    return f"{frame.f_code.co_qualname} ({file}:{line})"
