"""Gathers messages into batches per partition and says which batch goes out next. No I/O, no clock, no trio.

Without linger nothing waits for company: what gathers while others are being sent goes out as one batch. The memory
held is bounded by ``buffer_bytes_max``; one message alone is always taken.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from crc32c import crc32c

from mqcore.abc import Codec
from mqcore.batch import encode_batch
from mqcore.client._backoff import Backoff
from mqcore.client._options import ProducerOptions
from mqcore.client._partition_queue import Loss, PartitionQueue, QueueSettings
from mqcore.client._pending_batch import BatchState, PendingBatch, Receipt
from mqcore.errors import ConfigurationError, RejectedError
from mqcore.guarantees import Copy
from mqcore.limits import Limits
from mqcore.ports import Buffer
from mqcore.protocol import Code, SendPolicy

if TYPE_CHECKING:
    from mqcore.batch import MessageHeaders

__all__ = ["Accumulator", "Part", "check_partition"]

MESSAGE_OVERHEAD_BYTES = 64
"""What a message costs beside its payload, counted against the buffer."""

Part = tuple[PendingBatch, int, int]
"""Messages of one call within a shipment: the shipment, the index of the first, their number."""


class Accumulator:
    """The messages of one producer, from the call that brought them to their outcome.

    ``now`` gives the seconds of the clock that times everything, ``now_ms`` the ms since 1970 UTC. ``owner`` is put
    into every shipment for the shell. ``completed`` lists what was settled; the shell empties it.
    """

    def __init__(
        self,
        topic: str,
        partitions: int,
        options: ProducerOptions,
        *,
        producer_id: int,
        limits: Limits,
        backoff: Backoff,
        source: random.Random,
        now: Callable[[], float],
        now_ms: Callable[[], int],
        codec: Codec | None = None,
        owner: Any = None,
        lost: Callable[[Loss], None] = lambda loss: None,
    ) -> None:
        self.topic = topic
        self.partitions = partitions
        self.producer_id = producer_id
        self.options = options
        self.completed: list[PendingBatch] = []
        self.bytes_held = 0
        self._owner = owner
        self._now = now
        self._now_ms = now_ms
        self._limits = limits
        self._codec = codec
        self._policy = SendPolicy[options.policy.upper()]
        self._delivery_timeout = options.delivery_timeout_ms / 1000
        self._queues: dict[int, PartitionQueue] = {}
        self._active: deque[PartitionQueue] = deque()
        self._by_age: deque[PendingBatch] = deque()
        self._next_partition = source.randrange(partitions) if partitions else 0
        self._settings = QueueSettings(
            topic=topic,
            window=options.batches_in_flight_max,
            linger=options.linger_ms / 1000,
            backoff=backoff,
            random=source,
            encode=self._encode,
            completed=self.completed,
            release=self._release,
            lost=lost,
        )
        self._sticky = self._queue(self._next_partition)

    # gathering

    def has_room(self, size: int) -> bool:
        """Whether a message of ``size`` bytes, or several of together so many, may be added now."""
        return not self.bytes_held or self.bytes_held + size + MESSAGE_OVERHEAD_BYTES <= self.options.buffer_bytes_max

    def add(
        self,
        value: Buffer,
        key: Buffer | None,
        headers: MessageHeaders,
        partition: int | None,
        policy: int | None = None,
        one_way: bool = False,
    ) -> Part:
        """Take in one message.

        Raises ``RejectedError`` for what breaks the limits, ``ConfigurationError`` for an unknown partition,
        ``TypeError`` for what is not bytes.
        """
        if type(value) is not bytes:
            value = _frozen(value, "value")
        size = len(value)
        if size > self._limits.message_bytes_max or key is not None or headers:
            size += self._check(value, key, headers)
            key = None if key is None else _frozen(key, "key")
        if partition is not None:
            queue = self._queue(partition)
        elif key is not None:
            queue = self._queue(crc32c(key) % self.partitions)
        else:
            queue = self._sticky if self._sticky.open is not None else self._turn()
        shipment = queue.open
        if policy is None:
            policy = self._policy
        if (
            shipment is None
            or shipment.size + size > self.options.batch_bytes
            or len(shipment.values) >= self.options.batch_messages
            or shipment.one_way is not one_way
            or shipment.policy != policy
        ):
            shipment = self._open(queue, policy, one_way)
        index = len(shipment.values)
        shipment.values.append(value)
        if key is not None or headers or shipment.keys is not None or shipment.headers is not None:
            _add_columns(shipment, key, headers)
        shipment.size += size
        self.bytes_held += size + MESSAGE_OVERHEAD_BYTES
        return shipment, index, 1

    def add_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None,
        partition: int | None,
        policy: int | None = None,
    ) -> list[Part]:
        """Take in ``values`` in their order, in as few batches as possible; one part per batch. Raises as ``add``."""
        if keys is not None:
            return self._add_keyed(values, keys, partition, policy)
        if set(map(type, values)) - {bytes}:
            values = [_frozen(value, "value") for value in values]
        sizes = list(map(len, values))
        if values and max(sizes) > self._limits.message_bytes_max:
            self._check(values[sizes.index(max(sizes))], None, None)
        ends = list(accumulate(sizes))
        parts: list[Part] = []
        begin, begin_bytes = 0, 0
        while begin < len(values):
            queue = self._queue(partition) if partition is not None else self._turn()
            shipment = self._open(queue, policy, False)
            most = min(len(ends), begin + self.options.batch_messages)
            end = max(bisect_right(ends, begin_bytes + self.options.batch_bytes, begin, most), begin + 1)
            shipment.values = list(values[begin:end])
            shipment.size = ends[end - 1] - begin_bytes
            self.bytes_held += shipment.size + MESSAGE_OVERHEAD_BYTES * (end - begin)
            parts.append((shipment, 0, end - begin))
            begin, begin_bytes = end, ends[end - 1]
        return parts

    def _add_keyed(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None],
        partition: int | None,
        policy: int | None,
    ) -> list[Part]:
        if len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys for {len(values)} values")
        for value, key in zip(values, keys, strict=True):
            self._check(value, key, None)
        parts: dict[PendingBatch, Part] = {}
        for value, key in zip(values, keys, strict=True):
            shipment, index, _ = self.add(value, key, None, partition, policy)
            _, first, count = parts.get(shipment, (shipment, index, 0))
            parts[shipment] = (shipment, first, count + 1)
        return list(parts.values())

    def _queue(self, partition: int) -> PartitionQueue:
        queue = self._queues.get(partition)
        if queue is None:
            check_partition(self.topic, partition, self.partitions)
            queue = self._queues[partition] = PartitionQueue(partition, self._settings)
        return queue

    def _turn(self) -> PartitionQueue:
        """Go on to the next partition: messages without a key change partitions by batch."""
        self._next_partition = (self._next_partition + 1) % self.partitions
        self._sticky = self._queue(self._next_partition)
        return self._sticky

    def _open(self, queue: PartitionQueue, policy: int | None, one_way: bool) -> PendingBatch:
        now = self._now()
        shipment = queue.open = PendingBatch(
            queue,
            owner=self._owner,
            policy=self._policy if policy is None else policy,
            one_way=one_way,
            opened_at=now,
            created_ms=self._now_ms(),
            deadline=now + self._delivery_timeout,
        )
        queue.gathered.append(shipment)
        self._by_age.append(shipment)
        self._list(queue)
        return shipment

    def _list(self, queue: PartitionQueue) -> None:
        if not queue.is_listed:
            queue.is_listed = True
            self._active.append(queue)

    def _check(self, value: Buffer, key: Buffer | None, headers: MessageHeaders) -> int:
        """Refuse what breaks a limit, by name; return the bytes of key and headers."""
        limits = self._limits
        if len(value) > limits.message_bytes_max:
            raise _too_large("message", len(value), limits.message_bytes_max)
        key_bytes = 0 if key is None else len(key)
        if key_bytes > limits.key_bytes_max:
            raise _too_large("key", key_bytes, limits.key_bytes_max)
        if not headers:
            return key_bytes
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        header_bytes = 2
        for name, content in pairs:
            if not 0 < len(name.encode()) <= 0xFFFF or not isinstance(content, bytes | bytearray | memoryview):
                raise ConfigurationError(f"header {name[:100]!r}: a header is a name of 1 to 65535 bytes and bytes")
            header_bytes += 6 + len(name.encode()) + len(content)
        if header_bytes > limits.headers_bytes_max:
            raise _too_large("headers", header_bytes, limits.headers_bytes_max)
        return key_bytes + header_bytes

    # sending

    def pump(
        self, now: float, may_send: Callable[[int], bool], send: Callable[[PendingBatch], None], batch_bytes_max: int
    ) -> float:
        """Hand every batch whose turn it is to ``send``, as far as ``may_send`` (of its size) allows.

        ``batch_bytes_max``: what the broker takes; a larger batch is rejected here.
        Return when to call again if nothing else happens; infinity when only an answer or a message changes anything.
        """
        active = self._active
        again = math.inf
        for _ in range(len(active)):
            queue = active[0]
            while (shipment := queue.next_to_send(now)) is not None:
                assert shipment.data is not None
                if len(shipment.data) > batch_bytes_max:
                    error = _too_large("batch", len(shipment.data), batch_bytes_max, Code.BATCH_TOO_LARGE)
                    queue.refuse(shipment, error)
                    continue
                if not may_send(len(shipment.data)):
                    return again
                send(shipment)
                queue.sent(shipment)
                if not queue.waiting and not queue.gathered:
                    break
            active.popleft()
            due = queue.due if queue.waiting or queue.gathered else math.inf
            if due < math.inf:
                active.append(queue)
                again = min(again, due)
            else:
                queue.is_listed = False
        return again

    @property
    def has_work(self) -> bool:
        """Whether ``pump`` may have something to send."""
        return bool(self._active)

    def flush(self) -> None:
        """Let no batch linger any more."""
        for queue in self._queues.values():
            if queue.gathered:
                queue.flush = True
                self._list(queue)

    @property
    def pending(self) -> list[PendingBatch]:
        """Shipments whose outcome somebody still waits for, oldest first."""
        return [shipment for shipment in self._by_age if not shipment.is_settled and not shipment.one_way]

    # answers

    def produced(
        self, shipment: PendingBatch, offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Take in the acknowledgement of a batch: it holds from ``offset`` on, in these ``copies``."""
        queue = shipment.queue
        receipt = Receipt(self.topic, queue.partition, offset, epoch, copies, duplicate)
        queue.produced(shipment, receipt)
        self._answered(queue)

    def failed(self, shipment: PendingBatch, code: int, text: str, facts: Mapping[str, object], now: float) -> None:
        """Take in the refusal of a batch, by its wire code."""
        shipment.queue.failed(shipment, code, text, facts, now)
        self._answered(shipment.queue)

    def broken(self) -> None:
        """Take note that the connection broke with all that was in flight on it."""
        for queue in self._queues.values():
            if queue.unacked:
                queue.broken()
                self._list(queue)

    def _answered(self, queue: PartitionQueue) -> None:
        if queue.waiting or queue.gathered or queue.must_renumber:
            self._list(queue)

    # time

    @property
    def deadline(self) -> float:
        """When the oldest unsettled shipment's time is over; infinity when there is none."""
        by_age = self._by_age
        while by_age and (by_age[0].is_settled or by_age[0].state is BatchState.FINISHED):
            by_age.popleft()
        return by_age[0].deadline if by_age else math.inf

    def expire(self, now: float) -> None:
        """End every shipment whose time is over at ``now``."""
        while self.deadline <= now:
            shipment = self._by_age.popleft()
            shipment.queue.end(shipment, f"not acknowledged within {self._delivery_timeout:g} s")
            self._answered(shipment.queue)

    def drop(self, why: str) -> None:
        """End everything now, whatever its time."""
        for shipment in self.pending:
            shipment.queue.end(shipment, why)

    # callbacks of the queues

    def _encode(self, shipment: PendingBatch, epoch: int, first_sequence: int) -> bytearray:
        try:
            return encode_batch(
                shipment.values,
                keys=shipment.keys,
                headers=shipment.headers,
                created_ms=shipment.created_ms,
                producer_id=0 if shipment.one_way else self.producer_id,
                producer_epoch=0 if shipment.one_way else epoch,
                first_sequence=0 if shipment.one_way else first_sequence,
                codec=self._codec,
                limits=self._limits,
            )
        except (ValueError, TypeError) as error:
            raise RejectedError(f"the batch cannot be encoded: {error}", name="malformed-batch") from error

    def _release(self, shipment: PendingBatch) -> None:
        self.bytes_held -= shipment.size + MESSAGE_OVERHEAD_BYTES * len(shipment.values)
        shipment.data = None


def _frozen(data: Buffer, what: str) -> bytes:
    """``data`` as bytes that nobody changes while they wait."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a message's {what} is bytes, not {type(data).__name__}: encode it first")
    return bytes(data)


def _add_columns(shipment: PendingBatch, key: Buffer | None, headers: MessageHeaders) -> None:
    """Keep key and headers of the newest message; those before it had none when the column is new."""
    before = len(shipment.values) - 1
    if key is not None and shipment.keys is None:
        shipment.keys = cast("list[Buffer | None]", [None] * before)
    if shipment.keys is not None:
        shipment.keys.append(key)
    if headers and shipment.headers is None:
        shipment.headers = cast("list[MessageHeaders]", [None] * before)
    if shipment.headers is not None:
        shipment.headers.append(headers)


def check_partition(topic: str, partition: int, partitions: int) -> None:
    """Raise ``ConfigurationError`` unless a topic with so many ``partitions`` has this one."""
    if not 0 <= partition < partitions:
        raise ConfigurationError(f"topic {topic!r} has partitions 0 to {partitions - 1}, not {partition}")


def _too_large(what: str, size: int, most: int, code: Code = Code.MESSAGE_TOO_LARGE) -> RejectedError:
    return RejectedError(f"{what} of {size} bytes; at most {most} are allowed", code=code, name=code.label)
