"""Room in a producer's buffer, given in the order in which it was asked for: a large message is not overtaken for ever.

Must not know of batches or connections.
"""

from __future__ import annotations

from collections import deque

import trio

from mqcore.client._accumulator import Accumulator

__all__ = ["Room"]


class Room:
    """Tasks that wait for room in ``accumulator``; ``give`` is called whenever some was released."""

    def __init__(self, accumulator: Accumulator) -> None:
        self.waiting: deque[tuple[int, trio.lowlevel.Task]] = deque()
        self._accumulator = accumulator
        self._granted_to: trio.lowlevel.Task | None = None

    def is_there(self, size: int) -> bool:
        """Whether ``size`` bytes may be taken now: they fit, and no task that waits for room comes first."""
        if self.waiting:
            # Called by no task at all from a shell around this client, which then waits in one.
            if not trio.lowlevel.in_trio_task() or self._granted_to is not trio.lowlevel.current_task():
                return False
            self._granted_to = None
        return self._accumulator.has_room(size)

    async def wait(self, size: int) -> None:
        """Wait for ``size`` bytes of room, in turn. They are this task's until it awaits anything else.

        A checkpoint only when it waits. No effect if cancelled.
        """
        task = trio.lowlevel.current_task()
        if self.waiting or not self._accumulator.has_room(size):
            place = (size, task)
            self.waiting.append(place)

            def abort(_: object) -> trio.lowlevel.Abort:
                self.waiting.remove(place)
                self.give()
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            # Held for this task since ``give``, so that none that runs before it takes the room away.
            self._accumulator.state.bytes_held -= size
        self._granted_to = task

    def give(self) -> None:
        """Let those go on whose turn it is, as far as there is room."""
        waiting, accumulator = self.waiting, self._accumulator
        while waiting and accumulator.has_room(waiting[0][0]):
            size, task = waiting.popleft()
            accumulator.state.bytes_held += size
            trio.lowlevel.reschedule(task)

    def give_up(self) -> None:
        """Let every task go on: the producer is closed, which each of them finds."""
        for size, task in self.waiting:
            self._accumulator.state.bytes_held += size
            trio.lowlevel.reschedule(task)
        self.waiting.clear()
