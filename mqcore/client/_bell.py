"""Waking one task with as little as Trio allows: no Event, no lock, one call. Shell helper."""

from __future__ import annotations

from functools import partial

import trio

__all__ = ["Bell", "leave", "wait_in", "wake"]


class Bell:
    """One task waits, any may ring. A ring while none waits is kept, several count as one."""

    __slots__ = ("_rung", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the task that waits, or the next that will."""
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)
        else:
            self._rung = True

    async def wait(self) -> None:
        """Wait for a ring. A checkpoint, unless one is kept. No effect if cancelled."""
        if self._rung:
            self._rung = False
            return
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


async def wait_in(waiters: list[trio.lowlevel.Task]) -> None:
    """Wait until ``wake(waiters)``. If cancelled, the task is out of the list again."""
    task = trio.lowlevel.current_task()
    waiters.append(task)
    await trio.lowlevel.wait_task_rescheduled(partial(leave, waiters, task))


def leave(waiters: list[trio.lowlevel.Task], task: trio.lowlevel.Task, _: object) -> trio.lowlevel.Abort:
    """Take a task that is cancelled out of ``waiters``: what ``wait_task_rescheduled`` calls then."""
    waiters.remove(task)
    return trio.lowlevel.Abort.SUCCEEDED


def wake(waiters: list[trio.lowlevel.Task]) -> None:
    """Wake every task in ``waiters`` and empty it."""
    for task in waiters:
        trio.lowlevel.reschedule(task)
    waiters.clear()
