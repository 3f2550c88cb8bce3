"""Model device threads: functions run in the event loop, in the order asked, and take the disk's virtual time.

A function runs all at once; what it began to flush reaches the device only when its time is over, so that a power cut
in between may still take it. Must not know what the functions do.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TypeVar, cast

import trio

from mqcore.ports import DeviceThread, Threads
from mqcore.testing._disk import ModelDisk
from mqcore.testing._machine import DiskMachine, Job

__all__ = ["ModelThread", "ModelThreads"]

T = TypeVar("T")


class _Work:
    """A function that was asked for, and what became of it."""

    __slots__ = ("args", "begun", "done", "error", "finished", "function", "result")

    def __init__(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self.function = function
        self.args = args
        self.begun = False
        self.done = False
        self.result: object = None
        self.error: BaseException | None = None
        self.finished: trio.Event | None = None

    def finish(self) -> None:
        self.done = True
        if self.finished is not None:
            self.finished.set()


class ModelThread(DeviceThread):
    """A device thread without a thread; see the module."""

    def __init__(self, machine: DiskMachine, name: str) -> None:
        self.name = name
        self._machine = machine
        self._queue: deque[_Work] = deque()
        self._busy = False
        self._closed = False
        self._idle = trio.Event()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """See ``DeviceThread``. A function that takes no virtual time is done after one checkpoint."""
        if self._closed:
            raise RuntimeError(f"the device thread {self.name} was closed")
        work = _Work(function, args)
        self._queue.append(work)
        try:
            # A checkpoint first: what other tasks ask for at this moment may come before it, as with a thread.
            await trio.lowlevel.checkpoint()
            self._drain()
            if not work.done:
                work.finished = trio.Event()
                await work.finished.wait()
        except trio.Cancelled:
            if not work.begun:
                self._queue.remove(work)
            self._drain()
            raise
        if work.error is not None:
            try:
                raise work.error
            finally:
                del work  # a traceback that holds its own error is freed late, at a time that no seed decides
        return cast(T, work.result)

    def submit(self, function: Callable[..., object], *args: object) -> None:
        """See ``DeviceThread``. Runs at once unless something is asked for already."""
        if self._closed:
            raise RuntimeError(f"the device thread {self.name} was closed")
        waiting = bool(self._queue)
        self._queue.append(_Work(function, args))
        if not waiting:
            self._drain()

    async def aclose(self) -> None:
        """See ``DeviceThread``."""
        self._closed = True
        with trio.CancelScope(shield=True):
            while self._busy or self._queue:
                self._idle = trio.Event()
                await self._idle.wait()
            await trio.lowlevel.checkpoint()

    def _drain(self) -> None:
        """Run what was asked, up to the first function that takes time; a task then waits out that time."""
        while self._queue and not self._busy:
            work = self._queue.popleft()
            job = self._run_one(work)
            if job.latency_us:
                self._busy = True
                trio.lowlevel.spawn_system_task(self._spend, work, job, name=f"model thread {self.name}")
            else:
                work.finish()
        self._announce_idle()

    def _run_one(self, work: _Work) -> Job:
        job = Job()
        work.begun = True
        self._machine.job = job
        try:
            work.result = work.function(*work.args)
        except BaseException as error:
            work.error = error
        finally:
            self._machine.job = None
        return job

    async def _spend(self, work: _Work, job: Job) -> None:
        """Let the time of ``work`` pass, then go on with what was asked meanwhile."""
        try:
            await trio.sleep(job.latency_us / 1_000_000)
        except trio.Cancelled:
            # The run is over, of which this is a system task. Another one may wait for it, shielded.
            for each in (work, *self._queue):
                each.error = each.error or OSError(errno.EIO, "the simulation is over")
                each.finish()
            self._queue.clear()
            self._busy = False
            self._announce_idle()
            raise
        job.complete()
        work.finish()
        self._busy = False
        self._drain()

    def _announce_idle(self) -> None:
        if not self._busy and not self._queue:
            self._idle.set()


class ModelThreads(Threads):
    """Makes model device threads over one model disk, whose latencies they take."""

    def __init__(self, disk: ModelDisk) -> None:
        self._machine = disk.machine

    def start(self, name: str) -> ModelThread:
        """See ``Threads``."""
        return ModelThread(self._machine, name)
