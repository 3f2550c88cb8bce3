"""Device threads of the machine: one thread, a queue, results handed back to Trio together.

It knows nothing of what the calls do. A hand-over costs about half of ``trio.to_thread.run_sync``; requests that are
in the queue together share one wake-up of the thread, and results that are ready together one wake-up of Trio.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import outcome
import trio

from mqcore.errors import ConfigurationError
from mqcore.ports._abc import DeviceThread, Threads

__all__ = ["SystemThreads"]

T = TypeVar("T")


class _Call:
    """One request. ``token`` is None when no task waits from the start, ``task`` when none waits any more."""

    __slots__ = ("args", "function", "result", "task", "token")

    def __init__(self, function: Callable[..., Any], args: tuple[object, ...]) -> None:
        self.function = function
        self.args = args
        self.result: outcome.Value[Any] | outcome.Error | None = None
        self.task: trio.lowlevel.Task | None = None
        self.token: trio.lowlevel.TrioToken | None = None


def _refuse_virtual_time(name: str) -> None:
    """Raise ``ConfigurationError`` where the clock jumps ahead while everything waits: a thread takes real time.

    Every time-out would strike while the disk works, and it would look as if the disk were at fault.
    """
    clock = trio.lowlevel.current_clock()
    if getattr(clock, "autojump_threshold", math.inf) < math.inf:
        raise ConfigurationError(
            f"time is virtual here ({type(clock).__name__} that jumps), and the thread {name!r} works in real time: "
            "use model_ports of mqcore.testing, or storage memory:// and listen inproc://, or leave out that clock"
        )


class _SystemThread(DeviceThread):
    """See ``DeviceThread``. The thread ends when ``aclose`` asks it to; it does not hold up the interpreter's exit."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: deque[_Call | None] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._done: deque[_Call] = deque()
        self._delivery_asked = False
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, function: Callable[..., T], *args: object) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._thread is None:
            _refuse_virtual_time(self._name)
        call = _Call(function, args)
        call.task = trio.lowlevel.current_task()
        call.token = trio.lowlevel.current_trio_token()
        self._put(call)

        def abort(_: object) -> trio.lowlevel.Abort:
            call.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def submit(self, function: Callable[..., object], *args: object) -> None:
        self._put(_Call(function, args))

    def _put(self, call: _Call | None) -> None:
        if self._closed and call is not None:
            raise RuntimeError(f"device thread {self._name} is closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"mqcore {self._name}", daemon=True)
            self._thread.start()
        self._queue.append(call)
        try:  # noqa: SIM105 - a context manager costs more than the rest of this
            self._wake.release()
        except RuntimeError:  # the thread has been woken already
            pass

    def _work(self) -> None:
        while True:
            self._wake.acquire()
            while self._queue:
                call = self._queue.popleft()
                if call is None:
                    return
                if call.token is not None and call.task is None:
                    continue  # cancelled before it began: no effect
                result = outcome.capture(call.function, *call.args)
                if call.token is not None:
                    call.result = result
                    self._hand_back(call, call.token)

    def _hand_back(self, call: _Call, token: trio.lowlevel.TrioToken) -> None:
        self._done.append(call)
        if not self._delivery_asked:
            self._delivery_asked = True
            try:
                token.run_sync_soon(self._deliver)
            except trio.RunFinishedError:
                self._delivery_asked = False
                self._done.clear()

    def _deliver(self) -> None:
        self._delivery_asked = False  # first, so that a result which comes now asks again
        while self._done:
            call = self._done.popleft()
            task, call.task = call.task, None
            if task is not None and call.result is not None:
                trio.lowlevel.reschedule(task, call.result)

    async def aclose(self) -> None:
        self._closed = True
        if self._thread is None:
            await trio.lowlevel.checkpoint()
            return
        thread = self._thread
        self._put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join)


class SystemThreads(Threads):
    """Real threads."""

    def start(self, name: str) -> DeviceThread:
        return _SystemThread(name)
