"""Retention: the primary gives up the oldest messages of its logs, by age and by size (rule R15).

One task for all logs. What is to go is written into the metadata log first, then it goes, here and on every replica; a
log that was not trimmed yet when the process died is trimmed when it is opened. Must not know of segments: a storage
frees those that lie whole below a log's start.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import trio

from mqcore.abc import Notice
from mqcore.broker._kept_producers import keep_producers
from mqcore.broker._partition import Partition
from mqcore.broker._topics import Topic, Topics
from mqcore.config import RetentionTable, TopicConfig
from mqcore.errors import MqcoreError, StorageError
from mqcore.log import DamagedRangeError, LogStart, LogStore, PartitionLog
from mqcore.ports import Clock, ClockStep

__all__ = ["RetainedReign", "Retention", "open_retained"]

_STEP_SHARE = 16
"""Nothing goes before a log exceeds a bound by so small a part of it: each time costs a flush."""
_STEP_BYTES_MAX = 16 * 1024 * 1024
_STEP_BYTES_MIN = 4096


class RetainedReign(Protocol):
    """What retention uses of the reign."""

    topics: Topics

    def own_partitions(self, topic: Topic) -> list[int]:
        """Numbers of the partitions of ``topic`` that are here."""
        ...

    async def open_partition(self, topic_id: bytes, index: int) -> Partition:
        """Return a partition."""
        ...

    def held_up_at(self, partition: Partition, hold_max_ms: int) -> int | None:
        """Offset from which a replica still copies the log; None where none holds it up."""


class Retention:
    """Trims the logs of ``reign`` again and again, by ``table`` and what their topics say. ``run`` it."""

    def __init__(
        self,
        reign: RetainedReign,
        table: RetentionTable,
        clock: Clock,
        step: ClockStep,
        report: Callable[[Notice], None],
    ) -> None:
        self.step = step
        self._reign = reign
        self.table = table
        """The bounds; another one holds from the next look on."""
        self._clock = clock
        self._report = report
        self._is_held = False
        self._prepared: set[str] = set()
        self._unkept: set[str] = set()
        """Logs of which there was no space for what is remembered of producers when they were trimmed."""
        self._first_ms: dict[str, tuple[int, int]] = {}
        """Append time of the first batch of a log, with the start offset that it was read at."""
        self._failed: dict[str, str] = {}
        self._failed_before: dict[str, str] = {}
        """By log, why it could not be read or trimmed, in this look and in the one before."""

    async def run(self) -> None:
        """Look at the logs each ``check_interval_ms``, until cancelled."""
        while True:
            await trio.sleep(self.table.check_interval_ms / 1000)
            try:
                await self.look()
            except MqcoreError as error:
                # Such as a full disk, or a log that has stopped: what is to go is found again by the next look.
                self._report(Notice("retention-failed", f"nothing is trimmed for now: {error}"))

    async def look(self) -> None:
        """Trim once whatever is beyond its bounds. Raises ``MqcoreError`` where nothing can be told to be trimmed.

        What fails with one log is reported, and holds no other up. If cancelled, some of it is trimmed.
        """
        self._failed_before, self._failed = self._failed, {}
        ages = self._ages_are_believed()
        starts: dict[str, int] = {}
        partitions: dict[str, Partition] = {}
        async for partition, config in self._retained():
            name = partition.log.name
            partitions[name] = partition
            starts[name] = max(partition.log.start_offset, self._told(name))
            with self._by_itself(name):
                if name not in self._prepared and partition.log.end_offset:
                    await partition.prepare_trim()
                    self._prepared.add(name)
                if name in self._unkept:
                    await self._keep_producers(partition, partition.log.start_position)
                starts[name] = max(starts[name], await self._wanted_start(partition, config, ages=ages))
        self._forget_others(partitions)
        await self._bound_total(partitions, starts)
        new = {name: start for name, start in starts.items() if start > partitions[name].log.start_offset}
        untold = {}
        for name, start in new.items():
            with self._by_itself(name):
                begins = await self._begins(partitions[name], start) if start > self._told(name) else None
                if begins is not None and begins.offset > self._told(name):
                    untold[name] = begins
        if untold:
            await self._reign.topics.write_starts(untold)
        for name in new:
            if begins := self._reign.topics.starts.get(name):
                with self._by_itself(name):
                    await partitions[name].trim(begins)

    def _forget_others(self, there: Mapping[str, Partition]) -> None:
        """Keep nothing of logs that are retained no more, such as those of topics that were deleted."""
        self._prepared &= there.keys()
        self._unkept &= there.keys()
        for name in self._first_ms.keys() - there.keys():
            del self._first_ms[name]

    @contextmanager
    def _by_itself(self, name: str) -> Iterator[None]:
        """Have what fails with one log end what is done with that one: reported when it is new."""
        try:
            yield
        except MqcoreError as error:
            text = self._failed[name] = f"log {name} is not trimmed for now: {error}"
            if self._failed_before.get(name) != text:
                self._failed_before[name] = text
                self._report(Notice("retention-failed", text, {"log": name}))

    async def _begins(self, partition: Partition, start: int) -> LogStart | None:
        """Where a log is to begin that may begin at ``start``. What goes is remembered of its producers (R12)."""
        log = partition.log
        begins = await log.start_at(start)
        if begins is None or not log.lacks_producers(begins.position):
            return begins
        kept = log.kept_at
        if log.end_position - kept.end < kept.end - kept.begin.position:
            # It would be written again and again: a table that is larger than what the log is to keep.
            return await log.start_at(kept.begin.offset - 1) if kept.begin.offset > log.start_offset else None
        await self._keep_producers(partition, begins.position)
        return begins

    async def _keep_producers(self, partition: Partition, position: int) -> None:
        name = partition.log.name
        try:
            await keep_producers(partition, position)
            self._unkept.discard(name)
        except StorageError as error:
            if partition.failure is not None or error.kind != "full":
                raise
            self._unkept.add(name)  # what is to go is what makes space for it; this node knows it all the same

    def _told(self, name: str) -> int:
        """Offset that the metadata log has a log begin at."""
        begins = self._reign.topics.starts.get(name)
        return 0 if begins is None else begins.offset

    def _ages_are_believed(self) -> bool:
        held, self._is_held = self._is_held, not self.step.agrees
        if self._is_held and not held:
            self._report(
                Notice(
                    "retention-held",
                    f"the wall clock was set by {self.step.step_ms / 1000:+g} s since the broker started: nothing is "
                    "trimmed by age until it is set back, or `mqcore topic confirm-clock` says that it is right",
                )
            )
        elif held and not self._is_held:
            self._report(Notice("retention-goes-on", "the wall clock agrees again: messages are trimmed by age"))
        return not self._is_held

    async def _retained(self) -> AsyncIterator[tuple[Partition, TopicConfig]]:
        for topic in list(self._reign.topics.by_id.values()):
            if self.table.total_bytes is None and not any(self._bounds(topic.config)):
                continue
            for index in self._reign.own_partitions(topic):
                try:
                    partition = await self._reign.open_partition(topic.id, index)
                except MqcoreError:
                    continue  # deleted meanwhile; or it cannot be opened, which was reported
                if partition.failure is None:
                    yield partition, topic.config

    def _bounds(self, config: TopicConfig) -> tuple[int, int]:
        """The bounds of a topic in ms and bytes, 0 for none."""
        age_ms, size = config.retention_ms, config.retention_bytes
        return (
            (self.table.age_ms or 0) if age_ms is None else age_ms,
            (self.table.partition_bytes or 0) if size is None else size,
        )

    async def _wanted_start(self, partition: Partition, config: TopicConfig, *, ages: bool) -> int:
        age_ms, size = self._bounds(config)
        log = partition.log
        start = log.start_offset
        size += log.kept_at.end - log.kept_at.begin.position if size else 0  # no messages, and not to cost any
        if size and log.bytes_total - size >= _step(size):
            start = max(start, log.boundary_below(log.end_position - size)[0])
        if age_ms and ages:
            oldest_ms = self._clock.wall_ms() - age_ms
            if await self._first_append_ms(log) < oldest_ms - age_ms // _STEP_SHARE:
                start = max(start, await log.offset_at_time(oldest_ms))
        return self._allowed(partition, start)

    def _allowed(self, partition: Partition, start: int) -> int:
        """``start``, or less: not past what is committed, nor what a first synchronisation has not got yet."""
        held_up = self._reign.held_up_at(partition, self.table.sync_hold_max_ms)
        start = min(start, partition.committed_offset)
        return start if held_up is None else max(min(start, held_up), partition.log.start_offset)

    async def _first_append_ms(self, log: PartitionLog) -> int:
        known = self._first_ms.get(log.name)
        if known is not None and known[0] == log.start_offset:
            return known[1]
        header = await log.batch_at(log.start_position)
        if header is None or log.start_offset == log.end_offset:
            return self._clock.wall_ms()
        self._first_ms[log.name] = log.start_offset, header.appended_ms
        return header.appended_ms

    async def _bound_total(self, partitions: Mapping[str, Partition], starts: dict[str, int]) -> None:
        """Raise ``starts`` until all logs together hold ``total_bytes`` at most, the oldest messages first."""
        total = self.table.total_bytes
        if total is None:
            return
        at = {name: each.log.boundary_of(starts[name]) for name, each in partitions.items()}
        excess = sum(each.log.end_position - at[name] for name, each in partitions.items()) - total
        if excess < _step(total):
            return
        oldest: list[tuple[int, str]] = []
        for name, each in partitions.items():
            with self._by_itself(name):
                oldest.append((await self._first_append_ms(each.log), name))
        heapq.heapify(oldest)
        while oldest and excess > 0:
            _, name = heapq.heappop(oldest)
            partition = partitions[name]
            log = partition.log
            offset, position = log.boundary_below(at[name] + max(excess // 8, 2 * _STEP_BYTES_MIN))
            if position <= at[name]:
                offset, position = log.boundary_above(at[name])
            header = None
            with self._by_itself(name):
                header = await log.batch_at(position)
            if position <= at[name] or header is None or self._allowed(partition, offset) < offset:
                continue  # no more of it may go
            excess -= position - at[name]
            at[name], starts[name] = position, offset
            heapq.heappush(oldest, (header.appended_ms, name))


def _step(bound: int) -> int:
    return min(max(bound // _STEP_SHARE, _STEP_BYTES_MIN), _STEP_BYTES_MAX)


async def open_retained(store: LogStore, topics: Topics, name: str, salt: int) -> PartitionLog:
    """Open a log for a reign, as ``LogStore.open_log``, so that it begins where the metadata log says.

    The trim may have been written, and not done, before. A log that ends below that has lost the rest by what its
    policies permit. It goes on from there, empty: a log's start never goes back (R15), and what was appended at the
    offsets between would be trimmed as soon as it is there. So does one that has other batches at that position: it is
    of another history, and kept aside.
    """
    log = await store.open_log(name, salt=salt)
    if (log.open_end is not None or log.hides_reign) and log.failed is None:
        # Before anything is written behind it, by a guess of which offsets are used already, and before a replica is
        # judged by a history that is not known.
        await log.mend_damages()
    begins = topics.starts.get(name)
    if begins is None or log.start_offset >= begins.offset or log.failed is not None:
        return log
    kept_for = ""
    if begins.position < log.end_position:
        if await _stands_at(log, begins):
            await log.trim(begins.offset, begins.position)
            return log
        kept_for = f"it has other batches at {begins.position}, where the log begins at offset {begins.offset}"
    await store.begin_anew(name, begins, kept_for=kept_for, was_told=False)
    return await store.open_log(name, salt=salt)


async def _stands_at(log: PartitionLog, begins: LogStart) -> bool:
    """Whether a log has the batch with which it is to begin, as far as rot lets it be seen. Raises ``StorageError``."""
    try:
        offset = await log.begins_at(begins.position)
    except DamagedRangeError:
        return True
    wrote = [each for each in log.history if each.start_position <= begins.position][-1:]
    reign = begins.epoch, begins.reign_id
    is_known = bytes(16) not in {begins.reign_id, *(each.reign_id for each in wrote)}
    return offset == begins.offset and not (is_known and any((each.number, each.reign_id) != reign for each in wrote))
