"""Tests of several nodes in one process, in virtual time: leases and time-outs that no stall of the machine upsets.

In real time a process that gets no processor for as long as a lease lasts loses every lease of its nodes at once, and
the primary of the test with it. Here time goes on only when every task waits. Files are those of the machine: a test
may look at them, and damage them. A flush takes virtual time and does nothing: no test of these cuts the power.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
import pytest
import trio
import trio.testing

from mqcore.ports import File, FileSystem, Ports, system_ports
from mqcore.testing import (
    ModelClock,
    ModelDisk,
    ModelThreads,
    PassThroughFile,
    PassThroughFileSystem,
    run_simulation,
)

T = TypeVar("T")

SECONDS_MAX = 1_000.0
FLUSH_US = 300
"""Without it whoever sends again and again would do so at one moment of virtual time, for ever."""


class _File(PassThroughFile):
    def __init__(self, inner: File, flushes: Callable[[], None]) -> None:
        super().__init__(inner)
        self._flushes = flushes

    def flush(self) -> None:
        self._flushes()


class _Files(PassThroughFileSystem):
    """The files of the machine; a flush takes the time of ``disk``, on which nothing is stored."""

    def __init__(self, inner: FileSystem, disk: ModelDisk) -> None:
        super().__init__(inner)
        self._machine = disk.machine

    def wrap(self, file: File) -> PassThroughFile:
        return _File(file, self._take_time)

    def flush_directory(self, path: str) -> None:
        self._take_time()

    def flush_many(self, files: Sequence[File]) -> None:
        self._take_time()

    def _take_time(self) -> None:
        if self._machine.job is not None:  # in a device thread
            self._machine.job.latency_us += FLUSH_US
            return
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(FLUSH_US / 1_000_000)


def node_ports() -> Ports:
    """Return ports for one start of a node: of the machine, with threads and clocks of virtual time where that runs."""
    ports = system_ports()
    if getattr(trio.lowlevel.current_clock(), "autojump_threshold", math.inf) == math.inf:
        return ports
    disk = ModelDisk()
    return attrs.evolve(ports, files=_Files(ports.files, disk), threads=ModelThreads(disk), clock=ModelClock())


def _run(async_function: Callable[[], Awaitable[T]], *, clock: object, instruments: Sequence[trio.abc.Instrument]) -> T:
    assert clock is None, "the time of this test is virtual already"
    return run_simulation(async_function, seconds_max=SECONDS_MAX, instruments=instruments)


in_virtual_time = pytest.mark.trio(run=_run)
"""For a test in the place of ``pytest.mark.trio``."""
