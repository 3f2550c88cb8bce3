"""The consumer for asyncio: it crosses over to Trio once for everything that was received."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from itertools import islice
from typing import Self

from mqcore.aio._guest import Guest
from mqcore.client import ConsumedBatch, Message, Start
from mqcore.client import Consumer as TrioConsumer
from mqcore.client.shells import ReadAhead

__all__ = ["Consumer"]


class Consumer(ReadAhead):
    """Reads a topic's partitions; as ``mqcore.Consumer``, for one asyncio task at a time.

    ``async for message in consumer`` or ``async for batch in consumer.batches()``.
    """

    def __init__(self, guest: Guest, consumer: TrioConsumer) -> None:
        super().__init__()
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
        batch = self._next_in_hand()
        if batch is None:
            await self._guest.run(self._receive, self._consumer)
            batch = self._next_in_hand()
            assert batch is not None
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


class _AioBatches:
    """Iterates over a consumer's batches."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[ConsumedBatch]:
        return self._consumer.next_batch()
