"""The consumer: reads partitions through a stream of its own, in the reader's own task.

There is no task in between: what the reader has not taken waits in the socket and holds the broker up (G20). The next
request goes out before a batch is split, so that the broker reads ahead meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from itertools import count, repeat
from typing import NamedTuple, Self

import trio

from mqcore.batch import ATTRIBUTE_TIMESTAMPS, HeaderPairs, decode_batch
from mqcore.client._admin import time_ms
from mqcore.client._fetch_plan import Chunk, FetchPlan
from mqcore.client._options import ConsumerOptions
from mqcore.client._session import Session
from mqcore.client._stream import RequestStream
from mqcore.errors import (
    BrokenLinkError,
    ConfigurationError,
    CorruptionError,
    PluginError,
    RejectedError,
    RemoteProtocolError,
    TransportError,
)
from mqcore.protocol import Failed, Fetched

__all__ = ["ConsumedBatch", "Consumer", "Message", "Start"]

Start = str | int | datetime | dict[int, tuple[int, int]]

_log = logging.getLogger("mqcore.client")
_LINK_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, TransportError, RemoteProtocolError)


class Message(NamedTuple):
    """One message as it was read. ``timestamp_ms``: when its producer made it, ms since 1970 UTC."""

    topic: str
    partition: int
    offset: int
    epoch: int
    value: bytes
    key: bytes | None
    headers: HeaderPairs
    timestamp_ms: int


class ConsumedBatch:
    """Messages of one partition that were stored together: ``values``, and the other columns, one item per message.

    ``keys`` and ``headers`` are None when no message has any. ``offset`` is that of the first; ``epoch`` that of all.
    ``appended_ms``: when the broker took it in, ms since 1970 UTC.
    """

    __slots__ = (
        "_timestamps_ms",
        "appended_ms",
        "created_ms",
        "epoch",
        "headers",
        "keys",
        "offset",
        "partition",
        "topic",
        "values",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        epoch: int,
        values: list[bytes],
        keys: list[bytes | None] | None,
        headers: list[HeaderPairs] | None,
        timestamps_ms: list[int] | None,
        created_ms: int,
        appended_ms: int,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.epoch = epoch
        self.values = values
        self.keys = keys
        self.headers = headers
        self.created_ms = created_ms
        self.appended_ms = appended_ms
        self._timestamps_ms = timestamps_ms

    def __len__(self) -> int:
        return len(self.values)

    @property
    def next_offset(self) -> int:
        """Offset after the last message."""
        return self.offset + len(self.values)

    @property
    def timestamps_ms(self) -> list[int]:
        """Create time of each message, ms since 1970 UTC."""
        if self._timestamps_ms is None:
            self._timestamps_ms = [self.created_ms] * len(self.values)
        return self._timestamps_ms

    def messages(self) -> Iterator[Message]:
        """The messages one by one, in order."""
        return map(
            Message,
            repeat(self.topic),
            repeat(self.partition),
            count(self.offset),
            repeat(self.epoch),
            self.values,
            repeat(None) if self.keys is None else self.keys,
            repeat(()) if self.headers is None else self.headers,
            repeat(self.created_ms) if self._timestamps_ms is None else self._timestamps_ms,
        )

    def after(self, offset: int) -> ConsumedBatch:
        """The part from ``offset`` on."""
        skip = offset - self.offset
        return ConsumedBatch(
            self.topic, self.partition, offset, self.epoch, self.values[skip:], self.keys and self.keys[skip:],
            self.headers and self.headers[skip:], self._timestamps_ms and self._timestamps_ms[skip:],
            self.created_ms, self.appended_ms,
        )  # fmt: skip


class Consumer:
    """Reads a topic's partitions; for one task at a time.

    ``async for message in consumer`` or ``async for batch in consumer.batches()``: both never end by themselves, follow
    the log and reconnect. Within a partition the order is the log's. A batch that cannot be read raises one
    ``BatchUndecodableError`` that names its offsets, messages that are gone (retention, a permitted loss) one
    ``MessagesMissingError``; iterating again goes on past it.
    """

    def __init__(
        self, session: Session, topic: str, topic_id: bytes, partitions: Sequence[int], options: ConsumerOptions
    ) -> None:
        if not partitions or len(set(partitions)) != len(partitions):
            raise ConfigurationError(f"topic {topic!r}: name each partition to read once, at least one")
        self.topic = topic
        self._session = session
        self._options = options
        self._plan = FetchPlan(topic, topic_id, list(partitions), options)
        self._stream: RequestStream | None = None
        self._batch: ConsumedBatch | None = None
        self._messages: Iterator[Message] = iter(())
        self._next_offset = 0
        self._attempt = 0
        self._is_closed = False

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """For each partition the position (offset, epoch) of the next message to deliver; ``seek`` takes it back."""
        positions = {number: (cursor.offset, cursor.epoch) for number, cursor in self._plan.cursors.items()}
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
        numbers = list(self._plan.cursors) if partition is None else [partition]
        if isinstance(to, dict):
            numbers = list(to)
        for number in numbers:
            if number not in self._plan.cursors:
                raise ConfigurationError(f"topic {self.topic!r}: partition {number} is not read by this consumer")
        for number in numbers:
            offset, epoch = to[number] if isinstance(to, dict) else await self._find(to, number)
            if self._batch is not None and self._batch.partition == number:
                self._forget_batch()
            self._plan.seek(number, offset, epoch, follows_log_start=to == "start")
        await trio.lowlevel.checkpoint()

    async def _find(self, to: str | int | datetime, partition: int) -> tuple[int, int]:
        if isinstance(to, int) and not isinstance(to, bool):
            if to < 0:
                raise ConfigurationError(f"offset {to}: offsets begin at 0")
            return to, 0
        if isinstance(to, str) and to not in ("start", "end"):
            raise ConfigurationError(f'{to!r}: a position is "start", "end", an offset or a datetime')
        at = time_ms(to) if isinstance(to, datetime) else to
        arguments: dict[str, object] = {"topic": self.topic, "partition": partition, "at": at}
        found = await self._session.call("offsets.lookup", arguments, is_repeatable=True)
        return int(found["offset"]), int(found["epoch"])

    # iterating

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        message = next(self._messages, None)
        while message is None:
            self._forget_batch()
            self._batch = await self._receive_batch()
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
        return await self._receive_batch()

    def _forget_batch(self) -> None:
        self._batch = None
        self._messages = iter(())

    async def _receive_batch(self) -> ConsumedBatch:
        plan = self._plan
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the consumer is closed")
            while plan.chunks:
                chunk = plan.chunks.popleft()
                if chunk.error is None:
                    batch = self._decode(chunk)
                    plan.deliver(chunk)
                    return batch
                plan.deliver(chunk)
                raise chunk.error
            await self._receive()

    def _decode(self, chunk: Chunk) -> ConsumedBatch:
        header, cursor = chunk.header, chunk.cursor
        assert header is not None
        where = f"topic {self.topic!r} partition {cursor.partition} offset {header.base_offset}"
        try:
            decoded = decode_batch(chunk.data, self._session.limits, where=where)
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
            self._plan.deliver(chunk)
            raise self._plan.undecodable(cursor, first, header.end_offset, error) from error
        self._next_offset = batch.offset
        if cursor.offset > batch.offset:
            batch = batch.after(cursor.offset)
            self._next_offset = batch.offset
        return batch

    # the stream

    async def _receive(self) -> None:
        """Take in one answer, asking first and asking ahead; connects again when the stream broke."""
        plan = self._plan
        stream = self._stream
        try:
            if stream is None:
                stream = self._stream = await self._session.open_stream()
            await self._ask(stream)
            with trio.move_on_after((self._options.wait_ms + self._session.options.request_timeout_ms) / 1000):
                message = await stream.receive_message()
                if message is None:
                    raise BrokenLinkError("the server closed the connection")
                self._attempt = 0
                if isinstance(message, Fetched):
                    plan.fetched(message)
                elif isinstance(message, Failed):
                    plan.failed(message)
                if plan.chunks:
                    await self._ask(stream)
                return
            raise BrokenLinkError("the server has been silent for too long")
        except _LINK_ERRORS as error:
            await self._broken(error)

    async def _ask(self, stream: RequestStream) -> None:
        plan = self._plan
        if plan.is_stale:
            raise BrokenLinkError("too many answers on their way that nobody wants any more")
        if plan.must_pause:
            plan.must_pause = False
            await self._pause()
        while stream.may_send(64) and (fetch := plan.next_fetch(stream.next_id())) is not None:
            stream.ask(fetch)
        if stream.has_unsent:
            await stream.flush()

    async def _broken(self, error: Exception) -> None:
        stream, self._stream = self._stream, None
        if self._is_closed:
            return
        self._plan.broken()
        _log.info("consumer of topic %r: %s; connecting again", self.topic, error)
        if stream is not None:
            await stream.aclose()
        await self._pause()

    async def _pause(self) -> None:
        self._attempt += 1
        await trio.sleep(self._session.backoff.pause(self._attempt, self._session.random))

    async def aclose(self) -> None:
        """Close the consumer's stream, even if this is cancelled. Idempotent."""
        self._is_closed = True
        stream, self._stream = self._stream, None
        self._forget_batch()
        if stream is not None:
            await stream.aclose()


class _Batches:
    """Iterates over a consumer's batches."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumedBatch:
        return await self._consumer.next_batch()
