"""Work on members that may outlive the call that asked for it: a member that hangs must not hang its callers.

Knows nothing of arrays: it runs functions side by side and returns what became of each, those that lag included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

__all__ = ["Background", "MemberResult"]

T = TypeVar("T")


class MemberResult(Generic[T]):
    """What became of one function: ``value``, or ``error``; ``is_late`` when neither is known yet."""

    __slots__ = ("error", "is_late", "value")

    def __init__(self) -> None:
        self.value: T | None = None
        self.error: Exception | None = None
        self.is_late = True

    @property
    def is_good(self) -> bool:
        """Whether the function has returned."""
        return not self.is_late and self.error is None

    @property
    def reason(self) -> str:
        """Why it is not good, in words."""
        # What a storage says behind that, such as which logs stop, is true of the member and not of the array.
        return "it does not answer" if self.is_late else str(self.error).partition("; ")[0]

    def get(self) -> T:
        """The value of a function that has returned."""
        assert self.is_good, "only of one that succeeded"
        return self.value  # type: ignore[return-value]  # T may itself be None


class _Race(Generic[T]):
    """Functions that run side by side; ``any_done`` is set by the first that succeeds, or the last of all."""

    def __init__(self, count: int) -> None:
        self.results: list[MemberResult[T]] = [MemberResult() for _ in range(count)]
        self.left = count
        self.any_done = trio.Event()
        self.all_done = trio.Event()

    async def run(self, number: int, function: Callable[[], Awaitable[T]]) -> None:
        result = self.results[number]
        try:
            value = await function()
            result.value = value
        except Exception as error:
            result.error = error
        result.is_late = False
        self.left -= 1
        if not self.left:
            self.all_done.set()
        if result.error is None or not self.left:
            self.any_done.set()


class _Watch:
    """Cancels scopes that are open for longer than ``late_after_s``.

    A deadline of each scope would be put into trio's and taken out of it again, which costs as much as a read from the
    page cache; nearly none is ever reached.
    """

    def __init__(self, late_after_s: float) -> None:
        self._late_after_s = late_after_s
        self.since: dict[trio.CancelScope, float] = {}
        self.begun = trio.Event()

    async def run(self) -> None:
        """Watch, until cancelled. A timer runs only while there is something to watch, and a little longer."""
        while True:
            while not self.since:
                self.begun = trio.Event()
                await self.begun.wait()
            scope, since = next(iter(self.since.items()))  # the oldest: they are in the order in which they were opened
            await trio.sleep_until(since + self._late_after_s)
            if self.since.pop(scope, None) is not None:
                scope.cancel()


class Background:
    """A nursery that lives from ``start`` to ``aclose``."""

    def __init__(self, late_after_s: float) -> None:
        self._late_after_s = late_after_s
        self._watch = _Watch(late_after_s)
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()

    async def start(self) -> None:
        """Begin. Not cancelled."""
        started = trio.Event()
        # A storage is opened and closed by calls, with no nursery around both. A system task is the one place where a
        # nursery can live that long; what it runs never raises.
        trio.lowlevel.spawn_system_task(self._run, started, name="mqcore raid")
        with trio.CancelScope(shield=True):
            await started.wait()

    async def _run(self, started: trio.Event) -> None:
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._watch.run)
                started.set()
                await trio.sleep_forever()
        finally:
            self._ended.set()

    async def aclose(self) -> None:
        """Cancel what runs and wait for it, for a bounded time: one that hangs in its device is left behind."""
        if self._nursery is None:
            return
        self._nursery.cancel_scope.cancel()
        with trio.move_on_after(self._late_after_s, shield=True):
            await self._ended.wait()

    def watch(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when it is still watched after the time in which a member has to answer."""
        self._watch.since[scope] = trio.current_time()
        self._watch.begun.set()

    def watched(self, scope: trio.CancelScope) -> None:
        """Watch ``scope`` no longer."""
        self._watch.since.pop(scope, None)

    def submit(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run ``function(*args)``, which handles its own errors."""
        assert self._nursery is not None, "start comes first"
        self._nursery.start_soon(function, *args)

    async def run_bounded(self, function: Callable[[], Awaitable[T]]) -> MemberResult[T]:
        """Run ``function`` for as long as a member may take to answer; return what became of it. A late one goes on."""
        assert self._nursery is not None, "start comes first"
        race: _Race[T] = _Race(1)
        self._nursery.start_soon(race.run, 0, function)
        with trio.move_on_after(self._late_after_s):
            await race.all_done.wait()
        return race.results[0]

    async def run_all(self, functions: Sequence[Callable[[], Awaitable[T]]]) -> list[MemberResult[T]]:
        """Run ``functions`` side by side; return what became of each, in order.

        Waits for the first success without a bound, and for the others so long after it. A late one goes on. Not
        cancelled: what is done to one member has to be done to the others too.
        """
        assert self._nursery is not None, "start comes first"
        race: _Race[T] = _Race(len(functions))
        if not functions:
            return race.results
        with trio.CancelScope(shield=True):
            if len(functions) == 1:
                await race.run(0, functions[0])
                return race.results
            for number, function in enumerate(functions):
                self._nursery.start_soon(race.run, number, function)
            await race.any_done.wait()
            if race.left:
                with trio.move_on_after(self._late_after_s):
                    await race.all_done.wait()
        return race.results
