"""The consumer: reads partitions, from whichever servers own them, in the reader's own task.

There is no task in between: what the reader has not taken waits in the socket and holds the broker up (G20). The next
request goes out before a batch is split, so that the broker reads ahead meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from datetime import datetime
from typing import Self

import trio

from mqcore.batch import ATTRIBUTE_TIMESTAMPS, decode_batch
from mqcore.client._admin import time_ms
from mqcore.client._consumed import ConsumedBatch, Message
from mqcore.client._fetch_plan import FETCH_BYTES_MIN, PARTITIONS_MAX, Chunk, Cursor, FetchPlan
from mqcore.client._options import ConsumerOptions
from mqcore.client._reader import Reader
from mqcore.client._results import read_result
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.errors import ConfigurationError, CorruptionError, PluginError, RejectedError, RemoteProtocolError
from mqcore.nurseries import one_error
from mqcore.operations import TopicInfo
from mqcore.protocol import Call, Result
from mqcore.protocol import Message as WireMessage

__all__ = ["Consumer", "Start"]

Start = str | int | datetime | dict[int, tuple[int, int]]

OFFSET_MAX = 2**64 - 1
"""Largest offset, and number of an epoch, that the wire carries."""


class Consumer:
    """Reads a topic's partitions; for one task at a time.

    ``async for message in consumer`` or ``async for batch in consumer.batches()``: both never end by themselves, follow
    the log and reconnect. Within a partition the order is the log's. A batch that cannot be read raises one
    ``BatchUndecodableError`` that names its offsets, messages that are gone (retention, a permitted loss) one
    ``MessagesMissingError``; iterating again goes on past it. A consumer of a whole topic reads partitions that are
    added to it too, from their start.
    """

    def __init__(
        self,
        router: Router,
        topic: str,
        topic_id: bytes,
        partitions: Sequence[int],
        options: ConsumerOptions,
        *,
        is_whole: bool,
    ) -> None:
        if not partitions or len(set(partitions)) != len(partitions):
            raise ConfigurationError(f"topic {topic!r}: name each partition to read once, at least one")
        self.topic = topic
        self._router = router
        self._topic_id = topic_id
        self._options = options
        self._cursors = {partition: Cursor(partition) for partition in partitions}
        self._readers: list[Reader] = []
        self._reader_of: dict[int, Reader] = {}
        self._is_whole = is_whole
        self._look_at = trio.current_time() + options.refresh_ms / 1000
        self._waiting: trio.CancelScope | None = None
        self._batch: ConsumedBatch | None = None
        self._messages: Iterator[Message] = iter(())
        self._next_offset = 0
        self._is_closed = False
        for cursor in self._cursors.values():
            self._place(cursor, router.owner_of(topic_id, cursor.partition))
        router.users[self] = None
        router.set_alarm(self.expire(trio.current_time()))

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """For each partition the position (offset, epoch) of the next message to deliver; ``seek`` takes it back."""
        positions = {number: (cursor.offset, cursor.epoch) for number, cursor in self._cursors.items()}
        batch = self._batch
        if batch is not None and self._next_offset < batch.next_offset:
            positions[batch.partition] = (self._next_offset, batch.epoch if self._next_offset > batch.offset else 0)
        return positions

    async def seek(self, to: Start, partition: int | None = None) -> None:
        """Go on from elsewhere, in ``partition`` or in all.

        ``to``: ``"start"``, ``"end"``, an offset, a time (``datetime`` with a zone; the first message taken in then or
        later), or positions (offset, epoch) by partition. Raises ``RejectedError``, ``ConfigurationError``,
        ``NotReachedError``. If cancelled, some partitions may have moved.
        """
        numbers = list(self._cursors) if partition is None else [partition]
        if isinstance(to, dict):
            numbers = list(to)
        for number in numbers:
            if number not in self._cursors:
                raise ConfigurationError(f"topic {self.topic!r}: partition {number} is not read by this consumer")
        for number in numbers:
            offset, epoch = to[number] if isinstance(to, dict) else await self._find(to, number)
            if not (0 <= offset <= OFFSET_MAX and 0 <= epoch <= OFFSET_MAX):
                raise ConfigurationError(f"offset {offset} of epoch {epoch}: both are from 0 to {OFFSET_MAX}")
            if self._batch is not None and self._batch.partition == number:
                self._forget_batch()
            reader = self._reader_of.get(number)
            if reader is None:  # on its way from one server to another
                self._cursors[number].place(offset, epoch, follows_log_start=to == "start")
            else:
                reader.plan.seek(number, offset, epoch, follows_log_start=to == "start")
        await trio.lowlevel.checkpoint()

    async def _find(self, to: str | int | datetime, partition: int) -> tuple[int, int]:
        if isinstance(to, int) and not isinstance(to, bool):
            return to, 0
        if isinstance(to, str) and to not in ("start", "end"):
            raise ConfigurationError(f'{to!r}: a position is "start", "end", an offset or a datetime')
        at = time_ms(to) if isinstance(to, datetime) else to
        arguments: dict[str, object] = {"topic": self.topic, "partition": partition, "at": at}
        found = await self._router.call("offsets.lookup", arguments, is_repeatable=True)
        return int(found["offset"]), int(found["epoch"])

    # iterating

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        message = next(self._messages, None)
        while message is None:
            self._forget_batch()
            self._batch = await self.next_batch()
            self._messages = self._batch.messages()
            message = next(self._messages, None)
        self._next_offset = message.offset + 1
        return message

    def batches(self) -> AsyncIterator[ConsumedBatch]:
        """Iterate over whole batches: the fast way to read. It may be left and called again at any time."""
        return _Batches(self)

    async def next_batch(self) -> ConsumedBatch:
        """Return the next batch, or what iteration by message left of one.

        Raises ``BatchUndecodableError``, ``MessagesMissingError`` (the next call goes on past either),
        ``RejectedError`` such as for a topic that was deleted, ``trio.ClosedResourceError``. No effect if cancelled.
        """
        batch = self._batch
        if batch is not None:
            self._forget_batch()
            if self._next_offset < batch.next_offset:
                return batch.after(self._next_offset)
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the consumer is closed")
            readers = self._readers
            for reader in readers:
                plan = reader.plan
                if plan.chunks:
                    chunk = plan.chunks.popleft()
                    if chunk.error is None:
                        batch = self._decode(plan, chunk)
                        plan.deliver(chunk)
                        return batch
                    plan.deliver(chunk)
                    raise chunk.error
            only = readers[0] if len(readers) == 1 else None
            if only is not None and only.stream is not None and not only.plan.moved and not only.session.is_closed:
                await only.receive()  # one server and nothing that moves: no more coroutines than it needs
            else:
                await self._receive()

    def _forget_batch(self) -> None:
        self._batch = None
        self._messages = iter(())

    def _decode(self, plan: FetchPlan, chunk: Chunk) -> ConsumedBatch:
        header, cursor = chunk.header, chunk.cursor
        assert header is not None
        where = f"topic {self.topic!r} partition {cursor.partition} offset {header.base_offset}"
        try:
            decoded = decode_batch(chunk.data, self._router.context.limits, where=where)
            batch = ConsumedBatch(
                self.topic,
                cursor.partition,
                header.base_offset,
                header.epoch,
                decoded.values,
                decoded.keys,
                decoded.headers,
                decoded.timestamps_ms if header.attributes & ATTRIBUTE_TIMESTAMPS else None,
                header.created_first_ms,
                header.appended_ms,
            )
        except (CorruptionError, RejectedError, PluginError) as error:
            first = max(cursor.offset, header.base_offset)
            plan.deliver(chunk)
            raise plan.undecodable(cursor, first, header.end_offset, error) from error
        self._next_offset = batch.offset
        if cursor.offset > batch.offset:
            batch = batch.after(cursor.offset)
            self._next_offset = batch.offset
        return batch

    # the servers

    async def _receive(self) -> None:
        """Take in an answer of any of the servers, or note that something changed that is worth another look."""
        await self._arrange()
        try:
            with trio.CancelScope() as self._waiting:
                if len(self._readers) != 1:
                    await self._receive_from_any()
                elif self._readers[0].stream is None:
                    await self._readers[0].connect()
        finally:
            self._waiting = None

    async def _receive_from_any(self) -> None:
        """The first reader that has something ends the waiting of the others, which lose nothing by it.

        Connecting is not ended by it, and goes on beside: else it would never come to its end beside a busy reader.
        """
        with one_error():
            async with trio.open_nursery() as nursery:
                for reader in self._readers:
                    if reader.stream is not None:
                        nursery.start_soon(self._receive_from, reader, nursery.cancel_scope)
                    elif not reader.is_connecting:
                        self._router.start_soon(self._connect, reader)
                await trio.sleep_forever()

    async def _receive_from(self, reader: Reader, others: trio.CancelScope) -> None:
        await reader.receive()
        others.cancel()

    async def _connect(self, reader: Reader) -> None:
        await reader.connect()
        self._look_again()

    def _look_again(self) -> None:
        """Have the task that waits look at all readers again: receiving loses nothing by being cancelled."""
        if self._waiting is not None:
            self._waiting.cancel()
        for reader in self._readers:
            if reader.stream is not None:
                reader.stream.interrupt()

    async def _arrange(self) -> None:
        """Read each partition where it is owned now."""
        home = self._router.home
        for reader in list(self._readers):
            plan = reader.plan
            moved, plan.moved = plan.moved, []
            for partition, facts in moved:
                if partition in plan.cursors:
                    self._move(plan.remove(partition), self._router.redirect(self._topic_id, partition, facts))
            if reader.session.is_closed:
                if home.is_closed:
                    raise trio.ClosedResourceError("the client is closed")
                for partition in list(plan.cursors):
                    self._move(plan.remove(partition), self._router.owner_of(self._topic_id, partition))
            if not plan.cursors:
                self._readers.remove(reader)
                await reader.aclose()

    def _move(self, cursor: Cursor, target: Session) -> None:
        """Read a partition at ``target``: at once if its last server answered, else after a pause."""
        cursor.moves += 1
        if cursor.moves == 1:
            self._place(cursor, target)
        else:
            del self._reader_of[cursor.partition]
            self._router.start_soon(self._place_later, cursor)

    async def _place_later(self, cursor: Cursor) -> None:
        context = self._router.context
        await trio.sleep(context.backoff.pause(cursor.moves - 1, context.random))
        if not self._is_closed:
            self._place(cursor, self._router.owner_of(self._topic_id, cursor.partition))
            self._look_again()

    def _place(self, cursor: Cursor, session: Session) -> None:
        """Read a partition at ``session``, with others of that server over one stream as far as it takes them."""
        for reader in self._readers:
            if reader.session is session and len(reader.plan.cursors) < reader.partitions_max:
                break
        else:
            share = max(self._options.prefetch_bytes // len(self._cursors), FETCH_BYTES_MIN)
            plan = FetchPlan(self.topic, self._topic_id, min(self._options.fetch_bytes, share), self._options.wait_ms)
            # Each partition has a request that waits at the server, which takes so many of a stream.
            stream = session.stream
            parked_max = PARTITIONS_MAX if stream is None else stream.limits.fetches_parked_max
            reader = Reader(session, plan, self._router.context, self._options.wait_ms, min(PARTITIONS_MAX, parked_max))
            self._readers.append(reader)
        reader.plan.add(cursor)
        self._reader_of[cursor.partition] = reader

    # what the router asks

    def move(self, source: Session, target: Session) -> None:
        """Nothing to do at once: a reader whose session is closed moves before it receives again."""

    def expire(self, now: float) -> float:
        """Ask now and then whether the topic has more partitions; return when to be asked again."""
        if not self._is_whole:
            return math.inf
        if now >= self._look_at:
            self._look_at = now + self._options.refresh_ms / 1000
            stream = self._router.home.stream
            if stream is not None and stream.may_send(len(self.topic) + 64):
                stream.request(Call(stream.next_id(), "topic.resolve", {"name": self.topic}), self._on_resolved)
        return self._look_at

    def _on_resolved(self, reply: WireMessage | None) -> None:
        if not isinstance(reply, Result) or self._is_closed:
            return
        try:
            found = read_result(reply.value, TopicInfo)
        except RemoteProtocolError:
            return  # looked at again later; who reads is not to blame
        if found.id != self._topic_id.hex():
            return  # another topic of that name: requests for this one are answered that it is gone
        for partition in range(len(self._cursors), found.partitions):
            cursor = self._cursors[partition] = Cursor(partition)
            cursor.place(0, 0, follows_log_start=True)
            self._place(cursor, self._router.owner_of(self._topic_id, partition))
            self._look_again()

    def close(self, why: str) -> None:
        """Nothing to do at once: the consumer's block closes it."""

    async def aclose(self) -> None:
        """Close the consumer's streams, even if this is cancelled. Idempotent."""
        self._is_closed = True
        self._router.users.pop(self, None)
        self._forget_batch()
        for reader in self._readers:
            await reader.aclose()


class _Batches:
    """Iterates over a consumer's batches."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[ConsumedBatch]:
        return self._consumer.next_batch()  # its own coroutine: one less to go through at every read
