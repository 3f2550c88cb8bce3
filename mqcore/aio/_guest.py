"""Trio inside an asyncio loop: one run for each loop, in its thread, as long as there is a client. Knows no messages.

Trio's guest mode: https://trio.readthedocs.io/en/stable/reference-lowlevel.html#using-guest-mode-to-run-trio-on-top-of-other-event-loops.
Between Trio's own turns, code of the loop may call Trio's functions that do not wait, as it runs in the same thread.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import outcome
import trio

from mqcore.client.shells import LeftByError, told_without_trio
from mqcore.errors import ClosedError, ConfigurationError

__all__ = ["Guest", "hosted"]

T = TypeVar("T")

_guests: WeakKeyDictionary[asyncio.AbstractEventLoop, Guest] = WeakKeyDictionary()


class _Crossing:
    """One piece of work that asyncio waits for and Trio does."""

    __slots__ = ("end", "future", "is_over", "scope")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.scope = trio.CancelScope()
        self.is_over = False
        self.end: asyncio.Future[None] | None = None


class Guest:
    """Trio as the guest of a running asyncio loop. For ``hosted``, which keeps one for each loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start Trio; ``ConfigurationError`` where it runs in this thread already."""
        self.users = 0
        self._loop = loop
        self._thread = threading.get_ident()
        self._crossings: set[_Crossing] = set()
        self._stop = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        try:
            with _sigint_left_alone():
                trio.lowlevel.start_guest_run(
                    self._main,
                    run_sync_soon_threadsafe=self._call_soon_threadsafe,
                    run_sync_soon_not_threadsafe=self._loop.call_soon,
                    done_callback=self._on_done,
                    host_uses_signal_set_wakeup_fd=True,
                )
        except RuntimeError:
            if any(loop.is_closed() for loop in _guests):
                text = "a loop was closed within the block of a client, whose Trio is left in its thread"
                raise ConfigurationError(f"{text}: leave the block first, and use another thread now") from None
            raise ConfigurationError("Trio runs in this thread already: use mqcore.connect") from None

    async def started(self) -> None:
        """Wait until Trio has started, or has ended by then. No effect if cancelled."""
        waits: set[asyncio.Future[Any]] = {self._started, self._ended}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    def _call_soon_threadsafe(self, function: Callable[[], object]) -> None:
        # A loop that was closed under its clients takes nothing any more; there is nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._started.set_result(None)
            await self._stop.wait()

    def _on_done(self, result: outcome.Outcome[None]) -> None:
        self._nursery = None
        for crossing in list(self._crossings):
            _settle(crossing, outcome.Error(ClosedError("the client's loop has ended")))
        self._ended.set_result(result)

    async def stop(self) -> None:
        """End Trio. What it ended with, if that was an error, is raised. If cancelled, the end is waited for first."""
        cancelled: asyncio.CancelledError | None = None
        while not self._ended.done():
            try:
                await self.started()  # what has not begun cannot be told to end
                self._stop.set()
                await asyncio.wait({self._ended})
            except asyncio.CancelledError as error:
                cancelled = error  # it is near, and whoever comes next starts anew
        if cancelled is not None:
            raise cancelled
        self._ended.result().unwrap()

    async def run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Carry out ``function(*arguments)`` in Trio and return what it returns. If cancelled, that is, and waited for.

        Raises what it raises, ``ClosedError`` and ``BufferFullError`` for Trio's own.
        """
        result: T = await self._end(self._begin(function, *arguments))
        return result

    def check_place(self) -> None:
        """Refuse a call from another thread or loop, before it has done anything. Raises ``ConfigurationError``."""
        if threading.get_ident() != self._thread or asyncio._get_running_loop() not in (self._loop, None):
            raise ConfigurationError(
                "this client is of another loop: connect in this one too, or use mqcore.sync, whose client is shared "
                "by threads"
            )

    def _begin(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> _Crossing:
        self.check_place()
        if self._nursery is None:
            raise ClosedError("the client's loop has ended")
        crossing = _Crossing(self._loop.create_future())
        self._crossings.add(crossing)
        self._nursery.start_soon(self._carry_out, crossing, function, arguments)
        return crossing

    async def _end(self, crossing: _Crossing) -> Any:
        try:
            return await crossing.future
        except asyncio.CancelledError:
            crossing.scope.cancel()
            while not crossing.is_over:
                crossing.end = self._loop.create_future()
                with suppress(asyncio.CancelledError):
                    await crossing.end
            raise

    async def _carry_out(
        self, crossing: _Crossing, function: Callable[..., Awaitable[object]], arguments: tuple[object, ...]
    ) -> None:
        result: outcome.Outcome[object] = outcome.Error(ClosedError("the client was closed"))
        try:
            with crossing.scope, told_without_trio():
                result = outcome.Value(await function(*arguments))
        except Exception as error:
            result = outcome.Error(error)
        finally:
            self._crossings.discard(crossing)
            _settle(crossing, result)

    async def call(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """In Trio: have a task of asyncio do ``function(*arguments)``, and wait for its end. Raises what it raises.

        If cancelled, the task is, and waited for.
        """
        task = self._loop.create_task(function(*arguments))
        done = trio.Event()
        task.add_done_callback(lambda _: done.set())
        try:
            await done.wait()
        except trio.Cancelled:
            task.cancel()
            with trio.CancelScope(shield=True):
                await done.wait()
            raise
        if task.cancelled():
            raise RuntimeError("it was cancelled, and not by its consumer")
        error = task.exception()
        if error is not None:
            raise error

    @asynccontextmanager
    async def living(self, manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Keep ``manager``, one of Trio's, open for the length of the block; left by an error if the block is."""
        opened: asyncio.Future[T] = self._loop.create_future()
        leave = trio.Event()
        by_error = False

        async def live() -> None:
            with suppress(LeftByError):
                async with manager as value:
                    if not opened.done():
                        opened.set_result(value)
                    await leave.wait()
                    if by_error:
                        raise LeftByError

        # No task of the loop: a loop that cancels all its tasks would end the connection before what goes on over it.
        life = self._begin(live)
        try:
            waits: set[asyncio.Future[Any]] = {life.future, opened}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                life.future.result()
            yield opened.result()
        except BaseException:
            by_error = True
            leave.set()
            if not opened.done():
                life.scope.cancel()
            with suppress(Exception, asyncio.CancelledError):
                await self._end(life)
            raise
        leave.set()
        await self._end(life)


def _settle(crossing: _Crossing, result: outcome.Outcome[Any]) -> None:
    crossing.is_over = True
    if not crossing.future.done():
        if isinstance(result, outcome.Error):
            crossing.future.set_exception(result.error)
        else:
            crossing.future.set_result(result.unwrap())
    if crossing.end is not None and not crossing.end.done():
        crossing.end.set_result(None)


class _sigint_left_alone:
    """For the length of a block, keep Trio from taking Ctrl-C over, as it does from Python's own handler."""

    def __enter__(self) -> None:
        handler = signal.getsignal(signal.SIGINT)
        is_ours = threading.current_thread() is threading.main_thread() and handler is signal.default_int_handler
        self._handler = handler if is_ours else None
        if is_ours:
            signal.signal(signal.SIGINT, lambda number, frame: signal.default_int_handler(number, frame))

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)


@asynccontextmanager
async def hosted() -> AsyncIterator[Guest]:
    """The guest of the running loop, for the length of the block: one for all blocks."""
    loop = asyncio.get_running_loop()
    guest = _guests.get(loop)
    if guest is None:
        guest = _guests[loop] = Guest(loop)
    guest.users += 1
    try:
        await guest.started()
        yield guest
    finally:
        guest.users -= 1
        if not guest.users:
            del _guests[loop]
            await guest.stop()
