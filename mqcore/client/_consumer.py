"""The consumer: reads partitions, from whichever servers own them, in the reader's own task.

There is no task in between: what the reader has not taken waits in the socket and holds the broker up (G20). The next
request goes out before a batch is split, so that the broker reads ahead meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import datetime
from itertools import islice
from typing import Self

import trio

from mqcore.batch import BatchHeader, decode_batch
from mqcore.client._admin import time_ms
from mqcore.client._consumed import ConsumedBatch, Message
from mqcore.client._fetch_plan import FETCH_BYTES_MIN, PARTITIONS_MAX, Chunk, FetchCursor, FetchPlan
from mqcore.client._in_hand import MessageReader
from mqcore.client._message_checks import check_tags
from mqcore.client._options import ConsumerOptions
from mqcore.client._reader import Reader
from mqcore.client._results import ask, read_result
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.errors import (
    BatchUndecodableError,
    ConfigurationError,
    CorruptionError,
    PluginError,
    RejectedError,
    RemoteProtocolError,
)
from mqcore.nurseries import one_error
from mqcore.operations import FoundOffset, LookUpOffset, TopicInfo
from mqcore.protocol import Call, Result
from mqcore.protocol import Message as WireMessage

__all__ = ["Consumer", "Start", "check_start"]

Start = str | int | datetime | dict[int, tuple[int, int]]
"""Where to read from: ``"start"``, ``"end"``, an offset, a time, or positions (offset, epoch) by partition."""

OFFSET_MAX = 2**64 - 1
"""Largest offset, and number of an epoch, that the wire carries."""


class Consumer(MessageReader):
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
        shares: int = 0,
    ) -> None:
        if not (partitions or shares) or len(set(partitions)) != len(partitions):
            raise ConfigurationError(f"topic {topic!r}: name each partition to read once, at least one")
        super().__init__()
        self.topic = topic
        self._router = router
        self._topic_id = topic_id
        self._options = options
        self._cursors = {partition: FetchCursor(partition) for partition in partitions}
        self._readers: list[Reader] = []
        self._reader_of: dict[int, Reader] = {}
        self._is_whole = is_whole
        self._shares = shares
        """How many partitions may be read in the end, where they come and go."""
        self._look_at = trio.current_time() + options.refresh_ms / 1000
        self._waiting: trio.CancelScope | None = None
        self._is_closed = False
        self._tags = frozenset(options.tags)
        check_tags(options.tags, router.context.limits)
        self.passed: dict[int, tuple[int, int]] = {}
        """By partition, where what was passed over last ends: nothing of it is the program's to handle."""
        for cursor in self._cursors.values():
            self._place(cursor, self._source_of(cursor))
        router.users[self] = None
        router.set_alarm(self.expire(trio.current_time()))

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """For each partition the position (offset, epoch) of the next message to deliver; ``seek`` takes it back."""
        positions = {number: (cursor.offset, cursor.epoch) for number, cursor in self._cursors.items()}
        self._overlay(positions)
        return positions

    @property
    def staleness_ms(self) -> dict[int, int | None]:
        """For each partition how old the knowledge was of the replica that answered last; None: the primary answered.

        A replica serves what it knows to be committed, and what the primary has committed since may be as old as this.
        At most 65 535, which stands for that and more.
        """
        return {number: cursor.known_age_ms for number, cursor in self._cursors.items()}

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
            self.passed.pop(number, None)
            reader = self._reader_of.get(number)
            if reader is None:  # on its way from one server to another
                self._cursors[number].place(offset, epoch, follows_log_start=to == "start")
            else:
                reader.plan.seek(number, offset, epoch, follows_log_start=to == "start")
        await trio.lowlevel.checkpoint()

    async def _find(self, to: str | int | datetime, partition: int) -> tuple[int, int]:
        if isinstance(to, int) and not isinstance(to, bool):
            return to, 0
        check_start(to)
        at = time_ms(to) if isinstance(to, datetime) else to
        request = LookUpOffset(topic=self.topic, partition=partition, at=at)
        found = await ask(self._router, request, FoundOffset, is_repeatable=True)
        return found.offset, found.epoch

    # iterating

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        # The whole cost of most messages: a loop that is left at its first item takes one without a call, and the
        # position is not written down for each, as ``_values`` knows it. Both together: 0.6 of the time.
        for message in self._messages:
            return message
        while True:
            self._forget_batch()
            for message in self._hold(await self.next_batch()):
                return message

    def batches(self) -> AsyncIterator[ConsumedBatch]:
        """Iterate over whole batches: the fast way to read. It may be left and called again at any time."""
        return _Batches(self)

    async def next_batch(self) -> ConsumedBatch:
        """Return the next batch, or what iteration by message left of one.

        Raises ``BatchUndecodableError``, ``MessagesMissingError`` (the next call goes on past either),
        ``RejectedError`` such as for a topic that was deleted, ``trio.ClosedResourceError``. No effect if cancelled.
        """
        if self._batch is not None and (batch := self._take_left()) is not None:
            return batch
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the consumer is closed")
            readers = self._readers
            for reader in readers:
                plan = reader.plan
                if plan.chunks:
                    batch = self._take(plan, plan.chunks.popleft())
                    if batch is not None:
                        return batch
                    break
            else:
                only = readers[0] if len(readers) == 1 else None
                if only is not None and only.stream is not None and not only.plan.moved and not only.session.is_closed:
                    await only.receive()  # one server and nothing that moves: no more coroutines than it needs
                else:
                    await self._receive()

    async def poll(self, messages_max: int = 500, wait_ms: int = 1_000) -> list[Message]:
        """Return the next messages, at most ``messages_max``; an empty list when none comes within ``wait_ms``.

        All of them are of one batch. Raises as ``next_batch``. No effect if cancelled.
        """
        with trio.move_on_after(wait_ms / 1000):
            batch = await self.next_batch()
            return list(islice(self._hold(batch), messages_max))
        return []

    def take_received(self) -> list[ConsumedBatch]:
        """Return the batches that were received already and not delivered; they count as delivered now.

        What cannot be delivered ends the list; ``next_batch`` raises why. For shells, which cross over to Trio once
        for all of them instead of once a batch. ``prefetch_bytes`` bounds what they hold.
        """
        taken: list[ConsumedBatch] = []
        for reader in self._readers:
            plan = reader.plan
            while plan.chunks and plan.chunks[0].header is not None:
                chunk = plan.chunks.popleft()
                position = (chunk.cursor.offset, chunk.cursor.epoch)
                try:
                    batch = self._take(plan, chunk)
                    if batch is not None:
                        taken.append(batch)
                except BatchUndecodableError as error:
                    chunk.cursor.offset, chunk.cursor.epoch = position  # it is past only when the caller was told
                    plan.chunks.appendleft(Chunk(chunk.cursor, None, memoryview(b""), error))
        return taken

    def _take(self, plan: FetchPlan, chunk: Chunk) -> ConsumedBatch | None:
        """The batch of ``chunk``, or its error raised; None for what the caller chose not to get."""
        if chunk.error is not None:
            plan.deliver(chunk)
            self.passed.pop(chunk.cursor.partition, None)  # it is elsewhere now
            if plan.passes_over(chunk.error):
                return None
            raise chunk.error
        header, cursor = chunk.header, chunk.cursor
        batch = None if header is None else self._decode(plan, chunk, header)
        plan.deliver(chunk)
        if batch is None:
            self._pass_over(cursor.partition, (cursor.offset, cursor.epoch))
        return batch

    def _pass_over(self, partition: int, position: tuple[int, int]) -> None:
        """Take note that nothing up to ``position`` that was not delivered before has one of the tags asked for."""
        self.passed[partition] = position

    def _decode(self, plan: FetchPlan, chunk: Chunk, header: BatchHeader) -> ConsumedBatch | None:
        """The messages of ``chunk`` that are asked for; None for none."""
        cursor, tags = chunk.cursor, self._tags
        where = f"topic {self.topic!r} partition {cursor.partition} offset {header.base_offset}"
        try:
            decoded = decode_batch(chunk.data, self._router.context.limits, where=where)
            if tags and tags.isdisjoint(decoded.tags or ()):
                return None
            previous_epoch = cursor.epoch if cursor.offset == header.base_offset else 0
            batch = ConsumedBatch.of(decoded, self.topic, cursor.partition, previous_epoch)
        except (CorruptionError, RejectedError, PluginError) as error:
            first = max(cursor.offset, header.base_offset)
            plan.deliver(chunk)
            raise plan.undecodable(cursor, first, header.end_offset, error) from error
        if cursor.offset > batch.offset:
            batch = batch.after(cursor.offset)
        return batch.having(tags) if tags else batch

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
                    cursor = plan.remove(partition)
                    self._move(cursor, self._source_of(cursor))
            if not plan.cursors:
                self._readers.remove(reader)
                await reader.aclose()

    def _move(self, cursor: FetchCursor, target: Session) -> None:
        """Read a partition at ``target``: at once if its last server answered, else after a pause."""
        cursor.moves += 1
        if cursor.moves == 1:
            self._place(cursor, target)
        else:
            del self._reader_of[cursor.partition]
            self._router.start_soon(self._place_later, cursor)

    async def _place_later(self, cursor: FetchCursor) -> None:
        context = self._router.context
        await trio.sleep(context.backoff.redirect_pause(cursor.moves - 1, context.random))
        if not self._is_closed and self._cursors.get(cursor.partition) is cursor:
            self._place(cursor, self._source_of(cursor))
            self._look_again()

    def _begin_partition(self, partition: int, offset: int, epoch: int, *, follows_log_start: bool) -> None:
        """Read one more partition, from a position on."""
        cursor = self._cursors[partition] = FetchCursor(partition)
        cursor.place(offset, epoch, follows_log_start=follows_log_start)
        self._place(cursor, self._source_of(cursor))
        self._look_again()

    def _end_partition(self, partition: int) -> None:
        """Read a partition no more; what was received of it and not delivered is dropped."""
        del self._cursors[partition]
        self.passed.pop(partition, None)
        reader = self._reader_of.pop(partition, None)
        if reader is not None:
            reader.plan.remove(partition).place(0, 0)  # so that an answer on its way is not wanted any more
            self._look_again()

    def _source_of(self, cursor: FetchCursor) -> Session:
        """The session of the server to read a partition from, as the consumer's preference says."""
        session, cursor.from_replica = self._router.source_of(self._topic_id, cursor.partition, self._options.read_from)
        return session

    def _place(self, cursor: FetchCursor, session: Session) -> None:
        """Read a partition at ``session``, with others of that server over one stream as far as it takes them."""
        for reader in self._readers:
            if reader.session is session and len(reader.plan.cursors) < reader.partitions_max:
                break
        else:
            share = max(self._options.prefetch_bytes // max(len(self._cursors), self._shares), FETCH_BYTES_MIN)
            plan = FetchPlan(self.topic, self._topic_id, min(self._options.fetch_bytes, share), self._options.wait_ms,
                             self._options.on_trimmed, tuple(map(str.encode, self._options.tags)))  # fmt: skip
            # Each partition has a request that waits at the server, which takes so many of a stream.
            stream = session.stream
            parked_max = PARTITIONS_MAX if stream is None else stream.limits.fetches_parked_max
            reader = Reader(session, plan, self._router.context, self._options.wait_ms, min(PARTITIONS_MAX, parked_max))
            self._readers.append(reader)
        reader.plan.add(cursor)
        self._reader_of[cursor.partition] = reader

    # what the router asks

    def move(self, source: Session, target: Session) -> None:
        """Have a reader that waits at a server which is gone look where to go on."""
        if any(reader.session is source for reader in self._readers):
            self._look_again()

    def expire(self, now: float) -> float:
        """Ask now and then for new partitions and a new primary; return when to be asked again."""
        if not self._is_whole and self._options.read_from != "replica-when-primary-is-gone":
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
        self._router.learn(found)
        if found.id != self._topic_id.hex():
            return  # another topic of that name: requests for this one are answered that it is gone
        self._return_to_primary()
        for partition in range(len(self._cursors), found.partitions) if self._is_whole else ():
            cursor = self._cursors[partition] = FetchCursor(partition)
            cursor.place(0, 0, follows_log_start=True)
            self._place(cursor, self._source_of(cursor))
            self._look_again()

    def _return_to_primary(self) -> None:
        """Ask where there is a primary again for what a replica answers only as long as there is none."""
        if self._options.read_from == "replica-when-primary-is-gone":
            for reader in list(self._readers):
                for cursor in list(reader.plan.cursors.values()):
                    if cursor.from_replica and self._source_of(cursor) is not reader.session:
                        self._place(reader.plan.remove(cursor.partition), self._source_of(cursor))
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


def check_start(to: Start) -> None:
    """Raise ``ConfigurationError`` for a text that is no position."""
    if isinstance(to, str) and to not in ("start", "end"):
        raise ConfigurationError(f'{to!r}: a position is "start", "end", an offset or a datetime')


class _Batches:
    """Iterates over a consumer's batches."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[ConsumedBatch]:
        return self._consumer.next_batch()  # its own coroutine: one less to go through at every read
