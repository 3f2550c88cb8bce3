"""Group commit: one task per broker, one flush for everything that was appended while the last one ran.

Must not know of connections. Logs that only have a time bound wait in order of their due time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio
from sortedcontainers import SortedDict

from mqcore.errors import FlushFailedError, MqcoreError
from mqcore.log import LogStore, PartitionLog

__all__ = ["GroupCommit", "GroupMember", "Replying"]


class Replying(Protocol):
    """What has replies to send: a connection."""

    def replied(self, *, now: bool) -> None:
        """Send what is queued: ``now`` as far as it goes without waiting, else as soon as its own tasks run."""


class GroupMember(Protocol):
    """What is flushed together with others: a partition on its primary, or a replica's copy of one."""

    @property
    def log(self) -> PartitionLog:
        """Its batches."""
        ...

    @property
    def failure(self) -> MqcoreError | None:
        """Why it has stopped; what has is not flushed any more."""
        ...

    def flushed(self, replied: set[Replying]) -> None:
        """Take in that a group commit covered the log, or left it out because it has failed.

        Those that got replies by it are added to ``replied``.
        """

    def stop(self, error: MqcoreError) -> None:
        """Stop for good after a failed flush."""


class GroupCommit:
    """Runs the flushes of one storage.

    ``now_us``: monotonic microseconds, the clock of the asynchronous windows. Logs that a failed flush covered beside
    those that were asked for (G11) are the store's to tell of.
    """

    def __init__(self, store: LogStore, now_us: Callable[[], int]) -> None:
        self._store = store
        self._now_us = now_us
        self._soon: dict[GroupMember, None] = {}
        self._due_of: dict[GroupMember, tuple[int, int]] = {}
        self._due = SortedDict()  # partitions by due time and order of asking
        self._asked = 0
        self._wake = trio.Event()
        self._done = trio.Event()
        self.flushes = 0
        self.logs_flushed = 0
        self.flush_us_total = 0

    def flush_soon(self, partition: GroupMember) -> None:
        """Flush the partition's log with the next group commit."""
        if partition not in self._soon:
            self._soon[partition] = None
            self._wake.set()

    def flush_by(self, partition: GroupMember, due_us: int) -> None:
        """Flush it at monotonic time ``due_us`` at the latest; an earlier wish stands."""
        known = self._due_of.get(partition)
        if known is not None:
            if known[0] <= due_us:
                return
            del self._due[known]
        is_first = not self._due or due_us < self._due.peekitem(0)[0][0]
        self._asked += 1
        key = (due_us, self._asked)
        self._due_of[partition] = key
        self._due[key] = partition
        if is_first:
            self._wake.set()

    def forget(self, partition: GroupMember) -> None:
        """Drop the wishes of a partition that is going away."""
        self._soon.pop(partition, None)
        self._forget_due(partition)

    def _forget_due(self, partition: GroupMember) -> None:
        key = self._due_of.pop(partition, None)
        if key is not None:
            del self._due[key]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush until cancelled."""
        task_status.started()
        while True:
            # Not a coroutine of its own: each that is nested here is entered again at every wake-up.
            while not self._soon:
                if not self._due:
                    await self._wake.wait()
                else:
                    delay_us = self._due.peekitem(0)[0][0] - self._now_us()
                    if delay_us <= 0:
                        break
                    with trio.move_on_after(delay_us / 1e6):
                        await self._wake.wait()
                self._wake = trio.Event()
            if self._due:
                self._take_due()
            partitions = list(self._soon)
            self._soon.clear()
            if self._wake.is_set():
                self._wake = trio.Event()
            await self._flush(partitions)

    def _take_due(self) -> None:
        """Put what is due now with what is to be flushed now, whose own due times are met with that."""
        now_us = self._now_us()
        while self._due and self._due.peekitem(0)[0][0] <= now_us:
            _, partition = self._due.popitem(0)
            del self._due_of[partition]
            self._soon[partition] = None
        for partition in self._soon:
            self._forget_due(partition)

    async def _flush(self, partitions: list[GroupMember]) -> None:
        logs = []
        for partition in partitions:
            if partition.failure is None:
                logs.append(partition.log)
        if not logs:
            return
        self.flushes += 1
        self.logs_flushed += len(logs)
        begun_us = self._now_us()
        try:
            await self._store.flush(logs)
            self.flush_us_total += self._now_us() - begun_us
        except FlushFailedError as error:
            for partition in partitions:
                partition.stop(error)
            return
        replied: set[Replying] = set()
        for partition in partitions:
            if partition.failure is None:
                partition.flushed(replied)
        # From here, with one send for each connection: its own task would have to be woken first, a turn of the
        # scheduler in the latency of every flushed message.
        for sink in replied:
            sink.replied(now=True)
