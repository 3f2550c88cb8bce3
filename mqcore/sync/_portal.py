"""Trio in a thread of its own, and the way into it from any other thread. Knows no messages."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, TypeVar

import trio

from mqcore.client.shells import LeftByError, told_without_trio
from mqcore.errors import ClosedError

__all__ = ["Portal", "opened_portal"]

T = TypeVar("T")


class _Call:
    """One piece of work that a thread waits for and Trio does."""

    __slots__ = ("future", "is_started", "scope")

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.is_started = False
        self.scope = trio.CancelScope()

    def fail(self, error: BaseException) -> None:
        """End it with ``error``, unless it has ended."""
        if not self.future.done():
            self.future.set_exception(error)


class Portal:
    """A running Trio in a thread that does not keep the process alive. For ``opened_portal``.

    ``at_end`` are called when it ends, for threads that wait for something else of it than a call.
    """

    def __init__(self) -> None:
        self.at_end: set[Callable[[], object]] = set()
        self._pid = os.getpid()
        self._calls: set[_Call] = set()
        self._has_ended = False
        self._why_ended = "the client was closed"
        ready: Future[trio.lowlevel.TrioToken] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="mqcore-client", daemon=True)
        try:
            self._thread.start()
            self._token = ready.result()
        except BaseException:  # an interrupt: nobody will have this portal, and its thread ends once it has begun
            ready.add_done_callback(lambda begun: begun.result().run_sync_soon(self._stop.set))
            raise
        atexit.register(self._abandon)

    def _run(self, ready: Future[trio.lowlevel.TrioToken]) -> None:
        try:
            trio.run(self._main, ready)
        except BaseException as error:  # told to those who wait, each of whom is at a loss without it
            self._why_ended = f"the client's thread has failed: {error!r}"
        self._has_ended = True
        for call in list(self._calls):
            call.fail(ClosedError(self._why_ended))
        for callback in list(self.at_end):
            callback()

    async def _main(self, ready: Future[trio.lowlevel.TrioToken]) -> None:
        self._stop = trio.Event()
        async with trio.open_nursery() as self._nursery:
            ready.set_result(trio.lowlevel.current_trio_token())
            await self._stop.wait()
            # What runs by now nobody waits for, as after an interrupt that did not let it end.
            self._nursery.cancel_scope.cancel()

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Have ``function(*arguments)`` called in Trio's thread, soon; ``ClosedError`` where nothing runs there."""
        if os.getpid() != self._pid:
            raise ClosedError("the client was made before a fork, and its thread is not in this process: connect anew")
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            raise ClosedError(self._why_ended) from None

    def run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Carry out ``function(*arguments)`` in Trio and return what it returns, or raise what it raises.

        Raises ``ClosedError`` and ``BufferFullError`` for Trio's own errors. An interrupt (Ctrl-C) cancels it, waits
        for its end and is raised.
        """
        call = _Call()
        try:
            # An interrupt may come anywhere from here on: what was begun by then must not go on by itself.
            self._begin(call, function, *arguments)
            result: T = call.future.result()
            return result
        except BaseException:
            self._leave(call)
            raise
        finally:
            self._calls.discard(call)

    def run_now(self, function: Callable[[], T]) -> T:
        """Call ``function`` in Trio's thread, without a task of its own, and return what it returns. It may not wait.

        Raises as ``run``. If interrupted, it may have been called.
        """
        call = _Call()
        self._calls.add(call)

        def carry_out() -> None:
            try:
                with told_without_trio():
                    call.future.set_result(function())
            except Exception as error:
                call.fail(error)

        try:
            self.soon(carry_out)
            result: T = call.future.result()
            return result
        finally:
            self._calls.discard(call)

    def _begin(self, call: _Call, function: Callable[..., Awaitable[Any]], *arguments: object) -> None:
        self._calls.add(call)
        try:
            self.soon(self._start, call, function, arguments)
        except ClosedError:
            self._calls.discard(call)
            raise
        if self._has_ended:  # looked at after the call was noted: one of both sees the other
            call.fail(ClosedError(self._why_ended))

    def _end(self, call: _Call) -> Any:
        try:
            return call.future.result()
        except BaseException:
            self._leave(call)
            raise
        finally:
            self._calls.discard(call)

    def _leave(self, call: _Call) -> None:
        """Cancel a call that is not over, and wait until it is."""
        if not call.future.done():
            with suppress(Exception):
                self.soon(self._cancel, call)
                call.future.result()

    def _cancel(self, call: _Call) -> None:
        # What was asked for before this was called before this: a call that has not started by now never will.
        call.scope.cancel()
        if not call.is_started:
            call.fail(ClosedError("interrupted before it began"))

    def _start(self, call: _Call, function: Callable[..., Awaitable[Any]], arguments: tuple[object, ...]) -> None:
        call.is_started = True
        self._nursery.start_soon(self._carry_out, call, function, arguments)

    async def _carry_out(
        self, call: _Call, function: Callable[..., Awaitable[Any]], arguments: tuple[object, ...]
    ) -> None:
        try:
            with call.scope, told_without_trio():
                call.future.set_result(await function(*arguments))
        except Exception as error:
            call.fail(error)
        finally:
            call.fail(ClosedError("the client was closed"))

    @contextmanager
    def living(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Keep ``manager``, one of Trio's, open for the length of the block; left by an error if the block is."""
        opened: Future[T | None] = Future()
        leave = trio.Event()
        by_error = False

        async def live() -> None:
            try:
                with suppress(LeftByError):
                    async with manager as value:
                        opened.set_result(value)
                        await leave.wait()
                        if by_error:
                            raise LeftByError
            finally:
                if not opened.done():
                    opened.set_result(None)

        life = _Call()
        try:
            # An interrupt may come anywhere from here on.
            self._begin(life, live)
            value = opened.result()
            if value is None:
                self._end(life)
                raise AssertionError("a block that did not open has an error")
            yield value
        except BaseException:
            by_error = True
            if opened.done():
                with suppress(Exception):
                    self.soon(leave.set)
                    self._end(life)
            else:
                self._leave(life)
                self._calls.discard(life)
            raise
        self.soon(leave.set)
        self._end(life)

    def _abandon(self) -> None:
        """End Trio for a program that exits within the block: what was on its way is dropped.

        Later, when the interpreter closes what is left of the block, the thread would be there and not run any more,
        and its end be waited for in vain.
        """
        if os.getpid() == self._pid:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
            self._thread.join()

    def close(self) -> None:
        """End Trio and its thread. In a process that was forked off there is nothing to end."""
        atexit.unregister(self._abandon)
        if os.getpid() == self._pid:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop.set)
            self._thread.join()


@contextmanager
def opened_portal() -> Iterator[Portal]:
    """A portal for the length of the block."""
    portal = Portal()
    try:
        yield portal
    finally:
        portal.close()
