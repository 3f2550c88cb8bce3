"""Tasks that wait for something of a connection as a whole. Must not know what it is."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["WaitingTasks"]


class WaitingTasks:
    """``is_over``: whether the connection is, after which nobody waits."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self._tasks: dict[trio.lowlevel.Task, Callable[[], object]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def look(self) -> None:
        """Wake those whose time has come. They do not look by themselves: each packet would run each of them."""
        for task, holds in list(self._tasks.items()):
            if self._is_over() or holds():
                del self._tasks[task]
                trio.lowlevel.reschedule(task)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until ``holds``, which is not asked again once it did, or the connection is over."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not holds() and not self._is_over():
            task = trio.lowlevel.current_task()
            self._tasks[task] = holds

            def abort(_: object) -> trio.lowlevel.Abort:
                self._tasks.pop(task, None)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        await trio.lowlevel.cancel_shielded_checkpoint()
