"""What outlives a process on a model disk: the tree, the page cache, the device's limits, planned faults, the record.

Knows nothing of handles; ``_disk`` gives each process its own view of one machine.
"""

from __future__ import annotations

import copy
import errno
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import trio.testing

from mqcore.testing._choices import Choices
from mqcore.testing._faults import Faults
from mqcore.testing._sectors import FlushInFlight
from mqcore.testing._tree import EntryChange, FileNode, Tree, os_error

__all__ = ["CALLS_KEPT", "DiskCall", "Flushable", "Job", "DiskMachine"]

CALLS_KEPT = 10_000
"""Calls that ``calls`` remembers."""


class DiskCall(NamedTuple):
    """One call of the file system port: ``number`` counts from 1 over all processes of the disk."""

    number: int
    operation: str
    path: str
    position: int
    size: int


class Flushable(Protocol):
    """A handle: remembers up to which write-back error of its file it was told."""

    error_sequence: int
    node: FileNode


class Job:
    """A function running in a device thread: the virtual time that its calls take, and the flush still under way."""

    def __init__(self) -> None:
        self.latency_us = 0
        self.completions: list[Callable[[], None]] = []

    def complete(self) -> None:
        """Let every flush that the job began reach the device."""
        for completion in self.completions:
            completion()
        self.completions.clear()


class DiskMachine:
    """See the module. ``ModelDisk`` documents what is public of it."""

    def __init__(self, rng: random.Random, device: int) -> None:
        self.rng = rng
        self.device = device
        self.tree = Tree()
        self.bytes_max: int | None = None
        self.files_max = 1024
        self.used_bytes = 0
        self.latency_us: dict[str, int] = {}
        self.faults = Faults()
        self.on_call: Callable[[DiskCall], None] | None = None
        self.kills: dict[int, bool] = {}
        self.calls: deque[DiskCall] = deque(maxlen=CALLS_KEPT)
        self.call_count = 0
        self.counts: Counter[str] = Counter()
        self.witnesses: Counter[str] = Counter()
        self.locked: set[FileNode] = set()
        self.job: Job | None = None
        self.boot_id = self._new_boot_id()

    # ---- the passage of a call -------------------------------------------------------------------------------

    def record(self, operation: str, paths: Sequence[str], position: int, size: int) -> DiskCall:
        """Count and remember a call that begins; what the same job began before has ended by now."""
        self.call_count += 1
        self.counts[operation] += 1
        call = DiskCall(self.call_count, operation, paths[0] if paths else "", position, size)
        self.calls.append(call)
        if self.job is not None and self.job.completions:
            self.job.complete()
        return call

    def spend(self, call: DiskCall, paths: Sequence[str]) -> None:
        """Take the call's virtual time and raise its planned error.

        In a device thread the time is added to the job; elsewhere it blocks everybody, as it would a real event loop.
        """
        latency_us = self.latency_us.get(call.operation, 0) if self.latency_us else 0
        error = 0
        if self.faults.active:
            stall_us = self.faults.stall_us_for(call.operation, paths)
            if stall_us:
                self.witnesses["stall"] += 1
            latency_us += stall_us
            error = self.faults.error_for(call.operation, paths)
        if latency_us:
            if self.job is not None:
                self.job.latency_us += latency_us
            else:
                _block_everybody(latency_us)
        if error:
            self.witnesses[f"error:{call.operation}"] += 1
            raise os_error(error, call.path)

    # ---- flushing --------------------------------------------------------------------------------------------

    def flush(self, handles: Sequence[Flushable], paths: Sequence[str]) -> None:
        """Flush the files of ``handles`` in one call, or fail for all of them."""
        fault = self.faults.flush_fault_for(paths) if self.faults.flushes else None
        if fault is not None:
            self.witnesses["flush-error"] += 1
            for handle in handles:
                self.witnesses["flush-error-sectors"] += handle.node.fail_flush(fault.choices)
                handle.error_sequence = handle.node.error_sequence
            raise os_error(fault.error, paths[0] if paths else None)
        untold = [handle for handle in handles if handle.error_sequence < handle.node.error_sequence]
        for handle in untold:
            handle.error_sequence = handle.node.error_sequence
        # Flushed before the error is raised, as a kernel does it: an error of earlier write-back stops no write.
        for handle in handles:
            self._start_flush(handle.node)
        if untold:
            raise os_error(errno.EIO, paths[0])

    def _start_flush(self, node: FileNode) -> None:
        if self.job is None or not self.job.latency_us:
            node.flush()
        else:
            flush: FlushInFlight = node.begin_flush()
            self.job.completions.append(flush.complete)

    def flush_directory(self, path: str) -> None:
        """Make the entries of the directory durable, at the end of the job if that takes time."""
        directory = self.tree.directory(path)
        changes = self.tree.changes_of(directory)
        if self.job is None or not self.job.latency_us:
            self._settle(changes)
        else:
            self.job.completions.append(lambda: self._settle(changes))

    def _settle(self, changes: list[EntryChange]) -> None:
        self.tree.make_durable(changes)

    def fail_write_back(self, node: FileNode) -> None:
        """See ``ModelDisk.fail_write_back``."""
        self.witnesses["write-back-error"] += 1
        self.witnesses["flush-error-sectors"] += node.fail_flush(None)

    # ---- space -----------------------------------------------------------------------------------------------

    def write(self, node: FileNode, position: int, data: bytes | bytearray | memoryview) -> None:
        """Write as much of ``data`` as the device has room for; raise ``ENOSPC`` if that is not all."""
        needed = node.unallocated_bytes(position, len(data))
        if self.bytes_max is not None and self.used_bytes + needed > self.bytes_max:
            room = max(0, self.bytes_max - self.used_bytes)
            fits = 0
            # By sectors, for what is allocated already takes no room: how much fits is no difference of two numbers.
            for size in range(0, len(data) + 1, 512):
                if node.unallocated_bytes(position, size) > room:
                    break
                fits = size
            self.used_bytes += node.unallocated_bytes(position, fits)
            node.write(position, data[:fits])
            self.witnesses["full"] += 1
            raise os_error(errno.ENOSPC)
        self.used_bytes += needed
        node.write(position, data)

    def truncate(self, node: FileNode, size: int) -> None:
        """Set a file's size and give back what it frees."""
        before = node.allocated_bytes()
        node.truncate(size)
        self.used_bytes += node.allocated_bytes() - before

    def forget_if_unused(self, node: FileNode) -> None:
        """Give back the space of a file that has neither a name nor a handle."""
        if node.links == 0 and node.handles == 0:
            self.used_bytes -= node.allocated_bytes()
            node.allocated.clear()

    # ---- power -----------------------------------------------------------------------------------------------

    def power_cut(self, choices: Choices) -> None:
        """Lose what the choices say of what was not flushed; everything in flight is void."""
        self.witnesses["power-cut"] += 1
        self.job = None
        self.locked.clear()
        self.witnesses["entries-lost"] += self.tree.crash(choices)
        self.used_bytes = 0
        for node in self.tree.files():
            self.witnesses["sectors-lost"] += node.crash(choices)
            node.links, node.handles = 1, 0
            self.used_bytes += node.allocated_bytes()
        self.boot_id = self._new_boot_id()

    def fork(self) -> DiskMachine:
        """See ``ModelDisk.fork``."""
        other = DiskMachine(copy.deepcopy(self.rng), self.device)
        other.tree = copy.deepcopy(self.tree)
        other.boot_id = self.boot_id
        other.call_count = self.call_count
        other.used_bytes = 0
        for node in other.tree.files():
            node.handles = 0
            node.windows = []
            other.used_bytes += node.allocated_bytes()
        return other

    def _new_boot_id(self) -> str:
        digits = f"{self.rng.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _block_everybody(latency_us: int) -> None:
    """Let virtual time pass without letting any task run; outside of a virtual clock nothing happens."""
    try:
        clock = trio.lowlevel.current_clock()
    except RuntimeError:
        return
    if isinstance(clock, trio.testing.MockClock):
        clock.jump(latency_us / 1_000_000)
