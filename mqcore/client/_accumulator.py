"""Gathers messages into batches per partition, until their outcome or the end of their time. No I/O, no clock, no trio.

Without linger nothing waits for company: what gathers while others are being sent goes out as one batch. The memory
held is bounded by ``buffer_bytes_max``; one message alone is always taken.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate

from crc32c import crc32c

from mqcore.batch import HEADER_BYTES, HeaderPairs, MessageHeaders
from mqcore.client._message_checks import (
    TAG_BYTES_BESIDE,
    check_bytes,
    check_partition,
    check_tag,
    freeze,
    freeze_headers,
)
from mqcore.client._partition_queue import PartitionQueue
from mqcore.client._pending_batch import MESSAGE_OVERHEAD_BYTES, BatchState, PendingBatch
from mqcore.client._producer_state import ProducerState
from mqcore.errors import RejectedError
from mqcore.limits import Limits
from mqcore.ports import Buffer

__all__ = ["Accumulator", "Part"]

COLUMNS_BYTES_MAX = 20
"""What a message adds to a batch beside its bytes at most: an entry in each of four columns, and a tag's two."""
TAG_COUNT_BYTES = 2
NS_PER_MS = 1_000_000

Part = tuple[PendingBatch, int, int]
"""Messages of one call within a batch: the batch, the index of the first, their number."""


class Accumulator:
    """The messages of one producer, from the call that brought them to their outcome.

    ``now`` gives the seconds of the clock that times everything, ``wall_ns`` the ns since 1970 UTC. ``line_of`` names
    the line in which a new partition's queue waits for its turn. ``own_limits`` are the client's. ``by_age`` are
    batches by the end of their time.
    """

    def __init__(
        self,
        state: ProducerState,
        partitions: int,
        *,
        now: Callable[[], float],
        wall_ns: Callable[[], int],
        line_of: Callable[[int], deque[PartitionQueue]],
        own_limits: Limits,
    ) -> None:
        self.state = state
        self.partitions = partitions
        self.queues: dict[int, PartitionQueue] = {}
        self.by_age: deque[PendingBatch] = deque()
        self.delivery_timeout = state.options.delivery_timeout_ms / 1000
        self._own_limits = own_limits
        self._buffer_bytes_max = state.options.buffer_bytes_max
        self._now = now
        self._wall_ns = wall_ns
        self._line_of = line_of
        self._next_partition = state.random.randrange(partitions) if partitions else 0
        self._sticky = self.queue(self._next_partition)
        self.set_limits(state.limits)

    def set_limits(self, limits: Limits) -> None:
        """Keep to ``limits`` from now on: those of the client and of the broker, the smaller ones."""
        options = self.state.options
        self.state.limits = limits
        self._message_bytes_max = min(limits.message_bytes_max, limits.batch_bytes_max - HEADER_BYTES - 4)
        # Half for the bytes, half for the columns: then no batch of several messages is ever above the limit.
        half = (limits.batch_bytes_max - HEADER_BYTES - TAG_COUNT_BYTES) // 2
        self._batch_bytes = min(options.batch_bytes, half)
        self._batch_tags = limits.batch_tags_max
        self._batch_messages = min(options.batch_messages, limits.batch_messages_max, half // COLUMNS_BYTES_MAX)

    # gathering

    def has_room(self, size: int) -> bool:
        """Whether a message of ``size`` bytes, or several of together so many, may be added now."""
        held = self.state.bytes_held
        return not held or held + size + MESSAGE_OVERHEAD_BYTES <= self._buffer_bytes_max

    def add(
        self,
        value: Buffer,
        key: Buffer | None,
        headers: MessageHeaders,
        partition: int | None,
        policy: int | None = None,
        one_way: bool = False,
        tag: str | None = None,
    ) -> Part:
        """Take in one message.

        Raises ``RejectedError`` for what breaks the client's own limits (what breaks only the broker's gets that as its
        outcome), ``ConfigurationError`` for an unknown partition or what is
        no header or tag, ``TypeError`` for what is not bytes.
        """
        if type(value) is not bytes:
            value = freeze(value, "value")
        size = len(value)
        pairs: HeaderPairs | None = None  # stays so for a message of nothing but its value
        if size > self._message_bytes_max or key is not None or headers or tag is not None:
            key = None if key is None else freeze(key, "key")
            pairs = freeze_headers(headers)
            size += check_bytes(value, key, pairs, tag, self._own_limits)
            try:
                check_bytes(value, key, pairs, tag, self.state.limits)
            except RejectedError as error:
                return self._refused(error), 0, 1
        if partition is not None:
            queue = self.queue(partition)
        elif key is not None:
            queue = self.queue(crc32c(key) % self.partitions)
        else:
            queue = self._sticky
            if queue.open is None and self.partitions > 1:
                queue = self._turn()
        batch = queue.open
        if policy is None:
            policy = self.state.policy
        created_ms = self._wall_ns() // NS_PER_MS
        if (
            batch is None
            or batch.size + size > self._batch_bytes
            or len(batch.values) >= self._batch_messages
            or batch.one_way is not one_way
            or batch.policy != policy
            or (pairs is not None and tag is not None and not batch.has_room_for(tag, self._batch_tags))
        ):
            batch = self._open(queue, policy, one_way, created_ms)
        index = len(batch.values)
        batch.values.append(value)
        if pairs is not None or created_ms != batch.created_ms or batch.has_columns:
            batch.add_columns(key, pairs or (), created_ms, tag)
        batch.size += size
        self.state.bytes_held += size + MESSAGE_OVERHEAD_BYTES
        return batch, index, 1

    def add_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None,
        partition: int | None,
        policy: int | None = None,
        sizes: list[int] | None = None,
        tag: str | None = None,
    ) -> list[Part]:
        """Take in ``values`` in their order, in as few batches as possible; one part per batch. Raises as ``add``.

        ``tag``: that of each. ``sizes``: the length of each, where the caller knows them: a pass over the values costs
        what a checksum does.
        """
        if keys is not None:
            return self._add_keyed(values, keys, partition, policy, tag)
        frozen = values if not set(map(type, values)) - {bytes} else [freeze(value, "value") for value in values]
        if sizes is None or frozen is not values:
            sizes = list(map(len, frozen))
        weights, tag_bytes = sizes, 0
        if tag is not None:
            tag_bytes = check_tag(tag, self._own_limits)
            weights = [size + tag_bytes for size in sizes]
            try:
                check_tag(tag, self.state.limits)
            except RejectedError as error:
                return [(self._refused(error), 0, len(sizes))]
        total = sum(weights)
        if total > self._message_bytes_max and max(weights) > self._message_bytes_max - TAG_BYTES_BESIDE:
            return self._add_singly(frozen, [None] * len(sizes), partition, policy, tag)
        if policy is None:
            policy = self.state.policy
        created_ms = self._wall_ns() // NS_PER_MS
        is_one_batch = total <= self._batch_bytes and len(sizes) <= self._batch_messages
        ends = [] if is_one_batch else list(accumulate(weights))
        parts: list[Part] = []
        begin, begin_bytes = 0, 0
        while begin < len(frozen):
            if partition is not None:
                queue = self.queue(partition)
            else:
                queue = self._sticky if self.partitions == 1 else self._turn()
            batch = self._open(queue, policy, False, created_ms)
            if is_one_batch:
                end, end_bytes = len(sizes), total
            else:
                most = min(len(ends), begin + self._batch_messages)
                end = max(bisect_right(ends, begin_bytes + self._batch_bytes, begin, most), begin + 1)
                end_bytes = ends[end - 1]
            batch.values = list(frozen[begin:end])  # type: ignore[arg-type]  # all are bytes: looked at above
            batch.lengths = sizes[begin:end]
            batch.size = end_bytes - begin_bytes
            if tag is not None:
                batch.add_tag(tag)
            self.state.bytes_held += batch.size + MESSAGE_OVERHEAD_BYTES * (end - begin)
            parts.append((batch, 0, end - begin))
            begin, begin_bytes = end, end_bytes
        return parts

    def _add_keyed(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None],
        partition: int | None,
        policy: int | None,
        tag: str | None,
    ) -> list[Part]:
        if len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys for {len(values)} values")
        return self._add_singly(values, keys, partition, policy, tag)

    def _add_singly(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None],
        partition: int | None,
        policy: int | None,
        tag: str | None,
    ) -> list[Part]:
        """Take in messages of which some may be refused; those that the client itself does not allow before any."""
        for value, key in zip(values, keys, strict=True):
            check_bytes(freeze(value, "value"), None if key is None else freeze(key, "key"), (), tag, self._own_limits)
        parts: dict[PendingBatch, Part] = {}
        for value, key in zip(values, keys, strict=True):
            batch, index, _ = self.add(value, key, None, partition, policy, tag=tag)
            _, first, count = parts.get(batch, (batch, index, 0))
            parts[batch] = (batch, first, count + 1)
        return list(parts.values())

    def _refused(self, error: RejectedError) -> PendingBatch:
        """A batch that is settled already and goes nowhere: the outcome of one message that the broker does not take.

        An outcome and not an error of the call: what a broker takes may be another matter with the next connection.
        """
        batch = PendingBatch(self._sticky.partition, self.state.policy, False, self._now(), 0, math.inf)
        batch.state = BatchState.DEAD
        batch.error = error
        return batch

    def queue(self, partition: int) -> PartitionQueue:
        """The queue of ``partition``; ``ConfigurationError`` when the topic has no such partition."""
        queue = self.queues.get(partition)
        if queue is None:
            check_partition(self.state.topic, partition, self.partitions)
            queue = self.queues[partition] = PartitionQueue(partition, self.state, self._line_of(partition))
        return queue

    def _turn(self) -> PartitionQueue:
        """Go on to the next partition: messages without a key change partitions by batch."""
        number = self._next_partition = (self._next_partition + 1) % self.partitions
        queue = self._sticky = self.queues.get(number) or self.queue(number)
        return queue

    def _open(self, queue: PartitionQueue, policy: int, one_way: bool, created_ms: int) -> PendingBatch:
        now = self._now()
        batch = queue.open = PendingBatch(
            queue.partition, policy, one_way, now, created_ms, now + self.delivery_timeout
        )
        queue.gathered.append(batch)
        self.by_age.append(batch)
        if not queue.is_listed:  # as ``enlist``, without the call: one for every send
            queue.is_listed = True
            queue.line.append(queue)
        return batch

    def flush(self) -> None:
        """Let no batch linger any more."""
        for queue in self.queues.values():
            if queue.gathered:
                queue.flush = True
                queue.enlist()

    @property
    def pending(self) -> list[PendingBatch]:
        """Batches whose outcome is not known yet, oldest first."""
        return [batch for batch in self.by_age if not batch.is_settled and not batch.one_way]

    # time

    @property
    def deadline(self) -> float:
        """When the oldest unsettled batch's time is over; infinity when there is none."""
        by_age = self.by_age
        while by_age and (by_age[0].is_settled or by_age[0].state is BatchState.FINISHED):
            by_age.popleft()
        return by_age[0].deadline if by_age else math.inf

    def expire(self, now: float) -> None:
        """End every batch whose time is over at ``now``."""
        while self.deadline <= now:
            batch = self.by_age.popleft()
            queue = self.queues[batch.partition]
            queue.end(batch, f"not acknowledged within {self.delivery_timeout:g} s")
            queue.enlist_if_busy()

    def drop(self, why: str) -> None:
        """End everything now, whatever its time."""
        for batch in self.by_age:
            if not batch.is_settled and batch.state is not BatchState.FINISHED:
                self.queues[batch.partition].end(batch, why)
