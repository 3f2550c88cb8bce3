"""Calls that block, of a part that has no other kind: in a device thread of its own, each within its time.

What coordinators and offset stores on this machine's own files have in common. What an outcome that is not known means
to whoever asked is the part's to say. Must not know what is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from mqcore.ports import DeviceThread, Ports

__all__ = ["BlockingCalls", "CallLate"]

T = TypeVar("T")

_LOCK_PAUSE_MS = (1, 10)


class CallLate(Exception):
    """No answer in time. ``is_begun``: the call may go on and be done later; else other processes had the lock."""

    def __init__(self, *, is_begun: bool) -> None:
        super().__init__()
        self.is_begun = is_begun


class BlockingCalls:
    """Calls one after the other in a thread called ``name``, which begins with the first of them.

    ``timeout_ms``: for each, the waiting for its turn included. ``closed``: makes the error for one after ``aclose``.
    """

    def __init__(self, ports: Ports, name: str, *, timeout_ms: int, closed: Callable[[], Exception]) -> None:
        self._ports = ports
        self._name = name
        self._timeout_ms = timeout_ms
        self._closed = closed
        self._thread: DeviceThread | None = None
        self._is_closed = False

    async def call(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns; it is called again while it raises ``BlockingIOError``: another has a lock.

        Raises ``CallLate``, and what else it raises. If cancelled, it may go on in the thread.
        """
        is_begun = False
        with trio.move_on_after(self._timeout_ms / 1000):
            while True:
                try:
                    is_begun = True
                    return await self._run(function)
                except BlockingIOError:
                    is_begun = False  # nothing of ours was begun
                    await trio.sleep(self._ports.random.uniform(*_LOCK_PAUSE_MS) / 1000)
        raise CallLate(is_begun=is_begun)

    async def _run(self, function: Callable[[], T]) -> T:
        if self._is_closed:
            raise self._closed()
        if self._thread is None:
            self._thread = self._ports.threads.start(self._name)
        return await self._thread.run(function)

    async def aclose(self, last: Callable[[], object] | None = None) -> None:
        """End the thread, after ``last`` if it has begun at all. May be called again; ends so if cancelled, too.

        A thread that does not come back from a call within the time of one is left behind: nothing waits for it.
        """
        self._is_closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            if last is not None:
                thread.submit(last)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._timeout_ms / 1000) as patience:
                await thread.run(_nothing)
            if not patience.cancelled_caught:
                await thread.aclose()
        await trio.lowlevel.checkpoint()


def _nothing() -> None:
    """Done when everything before it is."""
