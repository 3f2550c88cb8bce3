"""The producer: the Trio shell around the accumulator. One task switch per batch, none per message."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import trio

from mqcore.abc import Codec
from mqcore.client._accumulator import Accumulator, Part
from mqcore.client._bell import wait_in, wake
from mqcore.client._options import ProducerOptions
from mqcore.client._partition_queue import Loss
from mqcore.client._pending_batch import PendingBatch, Receipt
from mqcore.client._session import Session
from mqcore.client._stream import RequestStream
from mqcore.ports import Buffer
from mqcore.protocol import Failed, Message, Produce, Produced, SendPolicy

if TYPE_CHECKING:
    from mqcore.batch import MessageHeaders

__all__ = ["Delivery", "Policy", "Producer"]

Policy = Literal["topic", "none", "async", "sync"]

LOSSES_KEPT = 1_000
TELL_AFTER_S = 3.0
"""How long messages are refused, and sent again, before that is told."""

_log = logging.getLogger("mqcore.client")


class Delivery:
    """The outcome of what was posted, now or later. It may be dropped: the messages go their way without it."""

    __slots__ = ("_count", "_index", "_shipment")

    def __init__(self, shipment: PendingBatch, index: int, count: int) -> None:
        self._shipment = shipment
        self._index = index
        self._count = count

    @property
    def count(self) -> int:
        """Messages whose outcome this is: one, or those of one batch, in their order."""
        return self._count

    @property
    def is_done(self) -> bool:
        """Whether ``result`` would return or raise the outcome."""
        shipment = self._shipment
        return shipment.receipt is not None or shipment.error is not None

    def result(self) -> Receipt:
        """Return the receipt.

        Raises ``RejectedError``, ``OutcomeUnknownError``, and ``RuntimeError`` before ``is_done``.
        """
        return self._shipment.receipt_of(self._index, self._count)

    async def wait(self) -> Receipt:
        """Wait for the outcome and return the receipt. A checkpoint, unless the outcome is known already.

        Raises ``RejectedError`` (nobody will ever read it) or ``OutcomeUnknownError``. If cancelled, the outcome is
        unknown to the caller; the message goes its way, and waiting again is allowed.
        """
        shipment = self._shipment
        while shipment.receipt is None and shipment.error is None:
            await wait_in(shipment.waiters)
        return shipment.receipt_of(self._index, self._count)


class Producer:
    """Sends messages to one topic, each in order with the others of its partition and without duplicates (R12).

    ``losses`` are the last permitted losses that the broker told of: receipts that are void. Leaving its block waits
    until everything has its outcome; when the block raised, what is on its way is dropped (unknown, or never sent).
    """

    def __init__(
        self,
        session: Session,
        topic: str,
        topic_id: bytes,
        partitions: int,
        options: ProducerOptions,
        codec: Codec | None = None,
    ) -> None:
        self.losses: deque[Loss] = deque(maxlen=LOSSES_KEPT)
        self._session = session
        self._topic_id = topic_id
        self._accumulator = Accumulator(
            topic,
            partitions,
            options,
            producer_id=session.random.getrandbits(64) or 1,
            limits=session.limits,
            backoff=session.backoff,
            source=session.random,
            now=trio.current_time,
            now_ms=session.wall_ms,
            codec=codec,
            owner=self,
            lost=self.told_of_loss,
        )
        self._stream: RequestStream | None = None
        self._lingers = options.linger_ms > 0
        # Deadlines beyond that are met by the session's own rounds.
        self._has_short_deadline = options.delivery_timeout_ms < 2 * session.options.keepalive_ms
        self._delivery_timeout_s = options.delivery_timeout_ms / 1000
        self._last_batch_was_single = True
        self._refused_since, self._is_told = math.inf, False
        self._room_waiters: list[trio.lowlevel.Task] = []
        self._is_closed = False

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._accumulator.topic

    @property
    def partitions(self) -> int:
        """Number of the topic's partitions, as it was when the producer was opened."""
        return self._accumulator.partitions

    @property
    def producer_id(self) -> int:
        """The 64 random bits under which the broker knows this producer's retries."""
        return self._accumulator.producer_id

    # sending

    async def send(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
    ) -> Receipt:
        """Send one message and return its receipt.

        ``key`` picks the partition (crc32c(key) mod partitions) unless ``partition`` does; without either, batches take
        turns. ``policy`` says when it is acknowledged, by default as the producer's option. Raises ``RejectedError``
        (nobody will ever read it), ``OutcomeUnknownError`` (not answered within ``delivery_timeout_ms``; retries make
        no duplicates). If cancelled, the outcome is unknown: the message may be sent all the same.
        """
        accumulator = self._accumulator
        while not accumulator.has_room(len(value)):
            await wait_in(self._room_waiters)
        if self._is_closed:
            self._check_open()
        shipment, index, _ = accumulator.add(
            value, key, headers, partition, None if policy is None else SendPolicy[policy.upper()]
        )
        session = self._session
        stream = session.stream
        if self._last_batch_was_single and not self._lingers and stream is not None and stream.is_idle:
            # Nobody to share a batch with: sent from here, without waking the writer.
            session.pump()
            await session.flush()
        else:
            session.ring()
        while shipment.receipt is None and shipment.error is None:
            await wait_in(shipment.waiters)
        return shipment.receipt_of(index)

    def post(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
    ) -> Delivery:
        """Queue one message, without waiting, and return its delivery. Arguments as for ``send``.

        Raises ``RejectedError`` for a message above a limit, ``trio.WouldBlock`` when ``buffer_bytes_max`` are on their
        way (see ``wait_for_room``).
        """
        accumulator = self._accumulator
        if not accumulator.has_room(len(value)):
            raise trio.WouldBlock("the producer's buffer is full: await wait_for_room() first")
        if self._is_closed:
            self._check_open()
        shipment, index, _ = accumulator.add(
            value, key, headers, partition, None if policy is None else SendPolicy[policy.upper()]
        )
        self._session.ring()
        return Delivery(shipment, index, 1)

    async def wait_for_room(self, size: int = 0) -> None:
        """Wait until ``post`` takes ``size`` more bytes. A checkpoint only when it waits."""
        while not self._accumulator.has_room(size):
            await wait_in(self._room_waiters)

    def post_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
    ) -> list[Delivery]:
        """Queue messages in their order, in as few batches as possible, and return one delivery per batch.

        ``keys``: one per value. Without keys the batches take turns over the partitions unless ``partition`` is given.
        Raises as ``post``; then nothing was queued.
        """
        if not self._accumulator.has_room(sum(map(len, values))):
            raise trio.WouldBlock("the producer's buffer is full: await wait_for_room() first")
        return [Delivery(*part) for part in self._add_many(values, keys, partition, policy)]

    async def send_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
    ) -> list[Receipt]:
        """Send messages as ``post_many`` does and return one receipt per batch (``offset`` of the first, ``count``).

        Raises the error of the first batch that has none. If cancelled, the outcome of all is unknown.
        """
        await self.wait_for_room(sum(map(len, values)))
        parts = self._add_many(values, keys, partition, policy)
        receipts: list[Receipt] = []
        for shipment, index, count in parts:
            while shipment.receipt is None and shipment.error is None:
                await wait_in(shipment.waiters)
            receipts.append(shipment.receipt_of(index, count))
        return receipts

    async def send_one_way(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
    ) -> None:
        """Send one message that will never be acknowledged: it may get lost, without a word, or arrive. Waits for room.

        Raises ``RejectedError`` for a message above a limit. If cancelled, it may be sent all the same.
        """
        await self.wait_for_room(len(value))
        self._check_open()
        self._accumulator.add(value, key, headers, partition, None, True)
        self._session.ring()
        await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """Send what lingers and wait until everything queued before this call has its outcome.

        Raises nothing for those that failed: their deliveries tell. If cancelled, they go their way.
        """
        self._accumulator.flush()
        self._session.ring()
        for shipment in self._accumulator.pending:
            while not shipment.is_settled:
                await wait_in(shipment.waiters)
        await trio.lowlevel.checkpoint()

    def _add_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None,
        partition: int | None,
        policy: Policy | None,
    ) -> list[Part]:
        self._check_open()
        parts = self._accumulator.add_many(
            values,
            keys,
            partition,
            None if policy is None else SendPolicy[policy.upper()],
        )
        self._session.ring()
        return parts

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError(f"the producer of topic {self.topic!r} is closed")

    # what the session asks

    @property
    def has_work(self) -> bool:
        """Whether ``pump`` may have something to send."""
        return self._accumulator.has_work

    def pump(self, stream: RequestStream, now: float) -> float:
        """Hand the batches whose turn it is to ``stream``; return when to be asked again."""
        accumulator = self._accumulator
        if not accumulator.has_work:
            return math.inf
        self._stream = stream
        again = accumulator.pump(now, stream.may_send, self._ask, stream.welcome.batch_bytes_max)
        if accumulator.completed or self._room_waiters:
            self._wake()
        return min(again, accumulator.deadline) if self._has_short_deadline else again

    def _ask(self, shipment: PendingBatch) -> None:
        stream = self._stream
        assert stream is not None
        assert shipment.data is not None
        partition = shipment.queue.partition
        if shipment.one_way:
            stream.ask(Produce(0, self._topic_id, partition, 0, True, shipment.data))
        else:
            request = Produce(
                stream.next_id(), self._topic_id, partition, shipment.policy, False, shipment.data
            )
            stream.ask(request, shipment)

    def answered(self, shipment: PendingBatch, message: Message) -> None:
        """Take in the answer to a batch."""
        accumulator = self._accumulator
        if isinstance(message, Produced):
            self._refused_since, self._is_told = math.inf, False
            self._last_batch_was_single = len(shipment.values) == 1
            accumulator.produced(
                shipment, message.base_offset, message.epoch, message.copies, message.duplicate
            )
        else:
            assert isinstance(message, Failed)
            accumulator.failed(shipment, message.code, message.text, message.facts, trio.current_time())
            if not shipment.is_settled:
                self._tell_refusal(message.text)
        self._wake()

    def _tell_refusal(self, text: str) -> None:
        """Log why messages wait, once, when nothing has been taken in for a while."""
        now = trio.current_time()
        self._refused_since = min(self._refused_since, now)
        if now - self._refused_since >= TELL_AFTER_S and not self._is_told:
            self._is_told = True
            _log.warning(
                "topic %r: nothing is taken in, going on trying; each message for %g s: %s",
                self.topic, self._delivery_timeout_s, text,
            )  # fmt: skip

    def broken(self) -> None:
        """Take note that the connection broke."""
        self._accumulator.broken()

    def expire(self, now: float) -> float:
        """End what has waited too long; return when to be asked again."""
        self._accumulator.expire(now)
        self._wake()
        return self._accumulator.deadline

    def told_of_loss(self, loss: Loss) -> None:
        """Keep and log a loss that the broker told of."""
        self.losses.append(loss)
        _log.warning(
            "topic %r partition %d: %d acknowledged messages were lost by the broker (a loss that its policy permits);"
            " their receipts are void", *loss,
        )  # fmt: skip

    def _wake(self) -> None:
        completed = self._accumulator.completed
        if completed:
            for shipment in completed:
                if shipment.waiters:
                    wake(shipment.waiters)
            completed.clear()
        if self._room_waiters:
            wake(self._room_waiters)

    # life

    async def aclose(self) -> None:
        """Wait until everything has its outcome (at most ``delivery_timeout_ms``), then close. Idempotent.

        If cancelled, what is still on its way is dropped: its outcome is unknown.
        """
        try:
            if not self._is_closed:
                await self.flush()
        finally:
            self.close("the producer was closed")

    def close(self, why: str) -> None:
        """Close at once: what is still on its way is dropped, and ends unknown or rejected because of ``why``."""
        if not self._is_closed:
            self._is_closed = True
            self._session.sources.pop(self, None)
            self._accumulator.drop(why)
            self._wake()

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._session.sources[self] = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self.close("the producer was closed by an error")
