"""Group commit: one task per broker, one flush for everything that was appended while the last one ran.

Must not know of connections. Logs that only have a time bound wait in order of their due time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio
from sortedcontainers import SortedDict

from mqcore.broker._flush_share import LITTLE_BYTES, FlushShare
from mqcore.errors import FlushFailedError, MqcoreError
from mqcore.log import LogStore, PartitionLog

__all__ = ["FlushRequests", "GroupCommit", "GroupMember", "Replying"]

_LOGS_LITTLE = 8
"""Of more logs a flush is not taken for one of little, whatever they hold: each is a file or more."""


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

    def flushed(self, replied: dict[Replying, None]) -> None:
        """Take in that a group commit covered the log, or left it out because it has failed.

        Those that got replies by it are added to ``replied``.
        """

    def stop(self, error: MqcoreError) -> None:
        """Stop for good after a failed flush."""


class FlushRequests(Protocol):
    """What a partition asks of the flusher."""

    def flush_soon(self, partition: GroupMember) -> None:
        """Flush the partition's log with the next group commit."""

    def flush_by(self, partition: GroupMember, due_us: int) -> None:
        """Flush it at that monotonic time at the latest."""

    @property
    def share(self) -> FlushShare:
        """What each log may have unflushed."""
        ...

    def is_over(self, partition: GroupMember) -> bool:
        """Whether the partition has more unflushed than its share, and a flush of it comes."""
        ...

    async def room(self, partition: GroupMember) -> None:
        """Wait until it is not over its share any more."""


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
        self._under_way: list[GroupMember] = []
        self._last: PartitionLog | None = None  # of the flush before, to see whether logs take turns
        self._flushed: trio.Event | None = None  # made by who waits for the flush under way
        self._has_ended = False
        self.share = FlushShare()
        """What each log may have unflushed; who appends more looks whether there is ``room``."""
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
        self._let_go()

    def is_over(self, partition: GroupMember) -> bool:
        """Whether the partition has more unflushed than its share and a flush of it comes that is to be waited for.

        Not where no flush of it is asked for now, or it has stopped, or its flusher has.
        """
        log = partition.log
        return (
            log.end_position - log.durable_position > self.share.bytes_max
            and (partition in self._soon or partition in self._under_way)
            and not self._has_ended
            and partition.failure is None
        )

    async def room(self, partition: GroupMember) -> None:
        """Wait until the partition is not over its share any more. Only a wait, so that it may be cancelled."""
        while self.is_over(partition):
            if self._flushed is None:
                self._flushed = trio.Event()
            await self._flushed.wait()

    def _forget_due(self, partition: GroupMember) -> None:
        key = self._due_of.pop(partition, None)
        if key is not None:
            del self._due[key]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush until cancelled."""
        task_status.started()
        try:
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
        finally:
            self._has_ended = True
            self._let_go()

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
        # Loops and not generators, each of which is entered once more for every log.
        logs, durable_before = [], 0
        for partition in partitions:
            if partition.failure is None:
                logs.append(partition.log)
                durable_before += partition.log.durable_position
        if not logs:
            self._let_go()  # of those that stopped before it began: no later flush may come
            return
        self.flushes += 1
        self.logs_flushed += len(logs)
        begun_us = self._now_us()
        self._under_way = partitions
        try:
            await self._store.flush(logs)
        except FlushFailedError as error:
            for partition in partitions:
                partition.stop(error)
            return
        finally:
            self._under_way = []
            has_held = self._flushed is not None
            if has_held:
                self._let_go()
        took_us = self._now_us() - begun_us
        self.flush_us_total += took_us
        covered = -durable_before
        for log in logs:
            covered += log.durable_position
        is_little = len(logs) <= _LOGS_LITTLE and covered <= LITTLE_BYTES
        is_shared = len(logs) > 1 or logs[0] is not self._last
        self._last = logs[0]
        self.share.flushed(took_us, is_shared=is_shared, is_little=is_little, held=has_held)
        replied: dict[Replying, None] = {}  # in order, so that a seed replays
        for partition in partitions:
            if partition.failure is None:
                partition.flushed(replied)
        # From here, with one send for each connection: its own task would have to be woken first, a turn of the
        # scheduler in the latency of every flushed message.
        for sink in replied:
            sink.replied(now=True)

    def _let_go(self) -> None:
        """Have everybody look again who waits for room."""
        event, self._flushed = self._flushed, None
        if event is not None:
            event.set()
