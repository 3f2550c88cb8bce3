"""The machine's own ports: ``system_ports()``. Clock and randomness here, files and threads in the files beside."""

from __future__ import annotations

import random
import time

from mqcore.ports._abc import Clock, Ports
from mqcore.ports._ground_probe import probe_ground
from mqcore.ports._system_files import SystemFileSystem
from mqcore.ports._system_threads import SystemThreads

__all__ = ["system_ports"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock(Clock):
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1_000

    def boottime_us(self) -> int:
        if _BOOTTIME is None:
            raise OSError("CLOCK_BOOTTIME is not available: leases need Linux")
        return time.clock_gettime_ns(_BOOTTIME) // 1_000


def system_ports(seed: int | None = None) -> Ports:
    """Return the ports of this machine.

    ``seed`` makes ``Ports.random`` repeatable, for tests; without it randomness comes from the operating system.
    """
    source: random.Random = random.SystemRandom() if seed is None else random.Random(seed)
    files, threads = SystemFileSystem(), SystemThreads()
    return Ports(files=files, threads=threads, clock=SystemClock(), random=source, ground=probe_ground)
