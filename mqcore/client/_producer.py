"""The producer: the Trio shell around the accumulator. One task switch per batch, none per message."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import trio

from mqcore.abc import Codec
from mqcore.batch import MessageHeaders
from mqcore.client._accumulator import Accumulator, Part
from mqcore.client._bell import leave, wait_in
from mqcore.client._claimed_name import UNNAMED, ClaimedName
from mqcore.client._delivery import Delivery
from mqcore.client._lane import Lane
from mqcore.client._options import Policy, ProducerOptions
from mqcore.client._partition_queue import PartitionQueue
from mqcore.client._pending_batch import MESSAGE_OVERHEAD_BYTES, PendingBatch
from mqcore.client._producer_end import report_end
from mqcore.client._producer_facts import ProducerFacts
from mqcore.client._producer_state import Loss, ProducerState, keep_loss
from mqcore.client._receipt import Receipt
from mqcore.client._refusals import Refusals
from mqcore.client._room import Room
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.errors import OutcomeUnknownError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.ports import Buffer
from mqcore.protocol import Code, Failed, Message, Produced, SendPolicy

__all__ = ["Producer"]

LOSSES_KEPT = 1_000
_POLICIES: dict[str | None, SendPolicy | None] = {None: None, **{each.name.lower(): each for each in SendPolicy}}
HALVED_MIN = 16  # messages of a batch from which on the next one is sent in halves
_log = logging.getLogger("mqcore.client")


class Producer(ProducerFacts):
    """Sends messages to one topic, each in order with the others of its partition and without duplicates (R12).

    ``losses`` are the last permitted losses that the broker reported: receipts that are void. Leaving its block waits
    until everything has its outcome; when the block raised, what is on its way is dropped (unknown, or never sent).
    """

    def __init__(
        self,
        router: Router,
        topic: str,
        topic_id: bytes,
        partitions: int,
        options: ProducerOptions,
        limits: Limits,
        codec: Codec | None = None,
        claimed: ClaimedName = UNNAMED,
    ) -> None:
        context = router.context
        self.losses: deque[Loss] = deque(maxlen=LOSSES_KEPT)
        self._router = router
        self._topic_id = topic_id
        state = ProducerState(
            topic,
            options,
            producer_id=claimed.producer_id or context.random.getrandbits(64) or 1,
            limits=limits,
            backoff=context.backoff,
            random=context.random,
            codec=codec,
            lost=partial(keep_loss, self.losses),
            claimed=claimed,
        )
        super().__init__(state, partitions)
        self._lanes: dict[Session, Lane] = {}
        self._session_of: dict[int, Session] = {}
        self._accumulator = Accumulator(
            self._state,
            partitions,
            now=trio.current_time,
            wall_ns=context.wall_ns,
            line_of=self._line_of,
            own_limits=context.limits,
        )
        self._room = Room(self._accumulator)
        # With the overhead of one message taken off: looked at by every send, which then needs no call.
        self._room_bytes = options.buffer_bytes_max - MESSAGE_OVERHEAD_BYTES
        self._lingers = options.linger_ms > 0
        # Deadlines beyond that are met by the router's own rounds.
        self._has_short_deadline = options.delivery_timeout_ms < 2 * context.options.keepalive_ms
        # Index of the message with which a batch is sent at once where nothing is in flight, or -1; see ``_send_now``.
        self._send_at = 0
        self._refusals = Refusals(topic, self._accumulator.delivery_timeout)
        self._why_closed = ""

    # sending

    async def send(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
        tag: str | None = None,
    ) -> Receipt:
        """Send one message and return its receipt.

        ``key`` picks the partition (crc32c(key) mod partitions) unless ``partition`` does; without either, batches take
        turns. ``policy`` says when it is acknowledged, by default as the producer's option. By ``tag`` consumers choose
        on the broker (``consumer(tags=...)``). Raises ``RejectedError`` (it is never read by anyone),
        ``OutcomeUnknownError`` (not answered within ``delivery_timeout_ms``; retries make no duplicates). If cancelled,
        the outcome is unknown: the message may be sent all the same.
        """
        held = self._state.bytes_held
        if self._room.waiting or (held and held + len(value) > self._room_bytes):
            await self._room.wait(len(value))
        if self._why_closed:
            self._check_open()
        batch, index, _ = self._accumulator.add(value, key, headers, partition, _POLICIES[policy], False, tag)
        if index == self._send_at:
            self._send_now(batch)
        elif not index:
            self._ring(batch)
        while batch.receipt is None and batch.error is None:
            # As ``wait_in``, without a coroutine of its own.
            task = trio.lowlevel.current_task()
            batch.waiters.append(task)
            await trio.lowlevel.wait_task_rescheduled(partial(leave, batch.waiters, task))
        return batch.receipt_of(index)

    def post(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
        tag: str | None = None,
    ) -> Delivery:
        """Queue one message, without waiting, and return its delivery. Arguments as for ``send``.

        Raises ``RejectedError`` for a message above a limit, ``trio.WouldBlock`` when ``buffer_bytes_max`` are on their
        way or others wait for room (see ``wait_for_room``).
        """
        held = self._state.bytes_held
        is_scarce = self._room.waiting or (held and held + len(value) > self._room_bytes)
        if is_scarce and not self._room.is_there(len(value)):
            raise trio.WouldBlock("the producer's buffer is full: await wait_for_room() first")
        if self._why_closed:
            self._check_open()
        batch, index, _ = self._accumulator.add(value, key, headers, partition, _POLICIES[policy], False, tag)
        if index == self._send_at:
            self._send_now(batch)
        elif not index:  # once a batch: the bell stays rung until the writer has looked
            self._ring(batch)
        return Delivery(batch, index, 1)

    async def wait_for_room(self, size: int = 0) -> None:
        """Wait until ``post`` takes ``size`` more bytes, in turn with others. A checkpoint only when it waits."""
        await self._room.wait(size)

    def post_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
        tag: str | None = None,
    ) -> list[Delivery]:
        """Queue messages in their order, in as few batches as possible, and return one delivery per batch.

        ``keys``: one per value; ``tag``: that of all. Without keys the batches take turns over the partitions unless
        ``partition`` is given.
        Raises as ``post``; then nothing was queued.
        """
        sizes = list(map(len, values))
        if not self._room.is_there(sum(sizes)):
            raise trio.WouldBlock("the producer's buffer is full: await wait_for_room() first")
        return [Delivery(*part) for part in self._add_many(values, sizes, keys, partition, policy, tag)]

    async def send_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
        tag: str | None = None,
    ) -> list[Receipt]:
        """Send messages as ``post_many`` does and return one receipt per batch (``offset`` of the first, ``count``).

        Raises the error of the first batch that has none. If cancelled, the outcome of all is unknown.
        """
        sizes = list(map(len, values))
        if self._room.waiting or not self._accumulator.has_room(sum(sizes)):
            await self._room.wait(sum(sizes))
            sizes = list(map(len, values))  # the caller's own list: it may be another one by now
        parts = self._add_many(values, sizes, keys, partition, policy, tag)
        receipts: list[Receipt] = []
        for batch, index, count in parts:
            while batch.receipt is None and batch.error is None:
                await wait_in(batch.waiters)
            receipts.append(batch.receipt_of(index, count))
        return receipts

    async def send_one_way(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        tag: str | None = None,
    ) -> None:
        """Send one message that will never be acknowledged: it may get lost, without a word, or arrive. Waits for room.

        Raises ``RejectedError`` for a message above a limit. If cancelled, it may be sent all the same.
        """
        await self._room.wait(len(value))
        self._check_open()
        batch, _, _ = self._accumulator.add(value, key, headers, partition, None, True, tag)
        self._ring(batch)
        await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """Send what lingers and wait until everything queued before this call has its outcome.

        Raises nothing for those that failed: their deliveries do. If cancelled, they go their way.
        """
        self._accumulator.flush()
        for session in self._lanes:
            session.bell.ring()
        for batch in self._accumulator.pending:
            while not batch.is_settled:
                await wait_in(batch.waiters)
        await trio.lowlevel.checkpoint()

    def _add_many(
        self,
        values: Sequence[Buffer],
        sizes: list[int],
        keys: Sequence[Buffer | None] | None,
        partition: int | None,
        policy: Policy | None,
        tag: str | None,
    ) -> list[Part]:
        if self._why_closed:
            self._check_open()
        parts = self._accumulator.add_many(values, keys, partition, _POLICIES[policy], sizes, tag)
        for batch, _, _ in parts:
            self._ring(batch)
        return parts

    def _ring(self, batch: PendingBatch) -> None:
        self._session_of[batch.partition].bell.ring()
        if self._has_short_deadline:
            self._router.set_alarm(batch.deadline)

    def _send_now(self, batch: PendingBatch) -> None:
        """Send ``batch`` from here, without waking the writer, if the server has nothing else to do; else ring.

        Called with the message that makes a batch half as long as the last one. Waiting for company would be lock-step:
        the server idles while a batch gathers, the client while it is answered. In halves both work: 1.2 times the rate
        of 64 single messages in flight. Short batches are not halved: they cost what a frame does; nor are those whose
        reply waits for a flush, of one each. One message in flight goes from here too, which saves a scheduler turn.
        """
        session = self._session_of[batch.partition]
        stream = session.stream
        if stream is not None and not (self._lingers or stream.requests or stream.unsent or stream.is_sending):
            again = self._lanes[session].pump(stream, trio.current_time())
            if again < math.inf or self._has_short_deadline:
                self._router.set_alarm(min(again, batch.deadline))
            stream.flush_now()
            if stream.unsent:
                session.bell.ring()
        else:
            self._ring(batch)

    def _check_open(self) -> None:
        if self._why_closed:
            raise trio.ClosedResourceError(f"topic {self.topic!r}: {self._why_closed}")

    # which server

    def _line_of(self, partition: int) -> deque[PartitionQueue]:
        """The line in which a new queue waits: that of the session of its owner."""
        session = self._session_of[partition] = self._router.owner_of(self._topic_id, partition)
        return self._lane_at(session).line

    def _lane_at(self, session: Session) -> Lane:
        lane = self._lanes.get(session)
        if lane is None:
            lane = self._lanes[session] = Lane(
                self._topic_id,
                self._state.completed,
                on_reply=self._on_reply,
                on_settled=self._wake,
                on_defect=self._on_defect,
                on_limits=lambda limits: self._accumulator.set_limits(limits),  # made later than the first lane
                claim=self._state.claimed.claim,
            )
            session.add(lane)
        return lane

    def move(self, source: Session, target: Session) -> None:
        """Go on at ``target`` with every partition that is at ``source``, which has nothing in flight."""
        lane = self._lanes.pop(source, None)
        if lane is not None:
            source.remove(lane)
            for partition, session in self._session_of.items():
                if session is source:
                    self._move_queue(partition, target)

    def _move_queue(self, partition: int, target: Session) -> None:
        self._session_of[partition] = target
        self._accumulator.queue(partition).move_to(self._lane_at(target).line)

    # replies

    def _on_reply(self, queue: PartitionQueue, batch: PendingBatch, message: Message | None) -> None:
        try:
            if type(message) is Produced:
                self._refusals.since = math.inf
                count = len(batch.values)
                halves = count >= HALVED_MIN and message.copies[0].level < Level.DISK
                self._send_at = count // 2 if halves else 0 if count == 1 else -1
                queue.produced(batch, message)
            elif message is None:
                queue.unanswered(batch)
            else:
                assert isinstance(message, Failed)
                self._on_failed(queue, batch, message)
            if queue.waiting or queue.gathered or queue.must_renumber:
                queue.enlist()
                self._session_of[queue.partition].bell.ring()
        except Exception as error:
            self._on_defect(error)
        self._wake()

    def _on_failed(self, queue: PartitionQueue, batch: PendingBatch, message: Failed) -> None:
        now = trio.current_time()
        if message.code == Code.NOT_PRIMARY:
            # The first in line decides for those behind it: each of them would go on to yet another server where no
            # server knows the owner.
            if queue.unacked[0] is batch:
                target = self._router.redirect(self._topic_id, queue.partition, message.facts)
                if target is not self._session_of[queue.partition]:
                    self._move_queue(queue.partition, target)
            queue.redirected(batch, now)
        else:
            queue.failed(batch, message.code, message.text, message.facts, now)
        if not batch.is_settled:
            self._refusals.report(message.text, now)

    def _on_defect(self, error: Exception) -> None:
        """End this producer, and nothing else of the client, for what should never have been raised."""
        _log.error("topic %r: the producer failed in a way that is a defect", self.topic, exc_info=error)
        why = f"the producer failed in a way that is a defect: {error!r}"
        # Not by way of the queues: what they hold is not to be trusted now, and each sender still gets an outcome.
        for batch in self._accumulator.by_age:
            if not batch.is_settled:
                batch.error = OutcomeUnknownError(f"topic {self.topic!r}: {why}")
                self._state.completed.append(batch)
        self._accumulator.by_age.clear()
        self.close(why)

    def expire(self, now: float) -> float:
        """End what has waited too long; return when to be asked again."""
        try:
            self._accumulator.expire(now)
            self._wake()
            return self._accumulator.deadline
        except Exception as error:
            self._on_defect(error)
            return math.inf

    def _wake(self) -> None:
        completed = self._state.completed
        if completed:
            for batch in completed:
                for task in batch.waiters:
                    trio.lowlevel.reschedule(task)
                batch.waiters.clear()
                if batch.callbacks is not None:
                    batch.call_back()
            completed.clear()
            # A batch leaves here and not only when its time is over: it would hold its messages until then.
            by_age = self._accumulator.by_age
            while by_age and by_age[0].receipt is not None:
                by_age.popleft()
        if self._room.waiting:
            self._room.give()

    # life

    async def aclose(self) -> None:
        """Wait until everything has its outcome (at most ``delivery_timeout_ms``), tell the broker, close. Idempotent.

        If cancelled, what is still on its way is dropped: its outcome is unknown.
        """
        try:
            if not self._why_closed:
                await self.flush()
                if self.name is None:  # else the next process of the name asks what was stored
                    queues = self._accumulator.queues.values()
                    await report_end(self._topic_id, self.producer_id, queues, self._session_of)
        finally:
            self.close("the producer was closed")

    def close(self, why: str) -> None:
        """Close at once: what is still on its way is dropped, and ends unknown or rejected because of ``why``."""
        if self._why_closed:
            return
        self._why_closed = why
        self._router.users.pop(self, None)
        for session, lane in self._lanes.items():
            session.remove(lane)
        self._accumulator.drop(why)
        self._wake()
        self._room.give_up()

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        self._router.users[self] = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self.close("the producer was closed by an error")
