"""The consumer for asyncio: it crosses over to Trio once for everything that was received."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from itertools import islice
from typing import Self

from mqcore.aio._guest import Guest
from mqcore.client import ConsumedBatch, Message, Start
from mqcore.client import Consumer as TrioConsumer
from mqcore.client import GroupConsumer as TrioGroupConsumer
from mqcore.client.shells import GroupReading, ReadAhead

__all__ = ["Consumer", "GroupConsumer"]


class Consumer(ReadAhead):
    """Reads a topic's partitions; as ``mqcore.Consumer``, for one asyncio task at a time.

    ``async for message in consumer`` or ``async for batch in consumer.batches()``.
    """

    def __init__(self, guest: Guest, consumer: TrioConsumer) -> None:
        ReadAhead.__init__(self)
        self._guest = guest
        self._consumer = consumer

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._consumer.topic

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """For each partition the position (offset, epoch) of the next message to deliver; ``seek`` takes it back."""
        positions = self._consumer.positions
        self._overlay(positions)
        return positions

    @property
    def staleness_ms(self) -> dict[int, int | None]:
        """For each partition how old the knowledge was of the replica that answered last; None: it was the primary."""
        return self._consumer.staleness_ms

    async def seek(self, to: Start, partition: int | None = None) -> None:
        """Go on from elsewhere, in ``partition`` or in all. Arguments and errors as ``mqcore.Consumer.seek``."""
        await self._guest.run(self._seek, self._consumer, to, partition)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        for message in self._messages:
            return message
        while True:
            self._forget_batch()
            for message in self._hold(await self.next_batch()):
                return message

    def batches(self) -> AsyncIterator[ConsumedBatch]:
        """Iterate over whole batches: the fast way to read. It may be left and called again at any time."""
        return _AioBatches(self)

    async def next_batch(self) -> ConsumedBatch:
        """Return the next batch, or what iteration by message left of one.

        Raises ``BatchUndecodableError``, ``MessagesMissingError`` (the next call goes on past either),
        ``RejectedError`` such as for a topic that was deleted, ``ClosedError``. No effect if cancelled.
        """
        while (batch := self._next_in_hand()) is None:
            await self._guest.run(self._receive, self._consumer)
        return batch

    async def poll(self, messages_max: int = 500, wait_ms: int = 1_000) -> list[Message]:
        """Return the next messages, at most ``messages_max``; an empty list when none comes within ``wait_ms``.

        All of them are of one batch. Raises as ``next_batch``. No effect if cancelled.
        """
        batch = self._next_in_hand()
        if batch is None:
            await self._guest.run(self._receive_within, self._consumer, wait_ms)
            batch = self._next_in_hand()
        return [] if batch is None else list(islice(self._hold(batch), messages_max))


class GroupConsumer(GroupReading, Consumer):
    """A member of a consumer group; as ``mqcore.client.GroupConsumer``, for one asyncio task at a time.

    What was handled is committed a batch at a time, where that one also commits within the batch that is read.
    """

    def __init__(self, guest: Guest, consumer: TrioGroupConsumer) -> None:
        GroupReading.__init__(self, consumer)
        self._guest = guest
        self._consumer = consumer

    @property
    def group(self) -> str:
        """Name of the group."""
        return self._member.group

    @property
    def member(self) -> str:
        """Name of this member."""
        return self._member.member

    @property
    def assignment(self) -> list[int]:
        """The partitions that this member owns now."""
        return self._member.assignment

    async def __anext__(self) -> Message:
        if self._member.may_go_on():
            for message in self._messages:
                return message
        while True:
            for message in self._hold(await self.next_batch()):
                return message

    async def commit(self, positions: Mapping[int, tuple[int, int]] | None = None) -> dict[int, tuple[int, int]]:
        """Commit ``positions`` (offset, epoch) by partition, or all that was handed out; return the cursors in force.

        Errors and cancellation as ``mqcore.client.GroupConsumer.commit``.
        """
        return await self._guest.run(self._commit, positions)


class _AioBatches:
    """Iterates over a consumer's batches."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[ConsumedBatch]:
        return self._consumer.next_batch()
