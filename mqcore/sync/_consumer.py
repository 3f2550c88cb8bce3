"""The consumer for programs that block: it crosses over to Trio once for everything that was received."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from mqcore.client import ConsumedBatch, Message, Start
from mqcore.client import Consumer as TrioConsumer
from mqcore.client.shells import ReadAhead
from mqcore.sync._portal import Portal

__all__ = ["Consumer"]

T = TypeVar("T")


class Consumer(ReadAhead):
    """Reads a topic's partitions; as ``mqcore.Consumer``, for one thread at a time.

    ``for message in consumer`` or ``for batch in consumer.batches()``.
    """

    def __init__(self, portal: Portal, consumer: TrioConsumer) -> None:
        super().__init__()
        self._portal = portal
        self._consumer = consumer

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._consumer.topic

    @property
    def positions(self) -> dict[int, tuple[int, int]]:
        """For each partition the position (offset, epoch) of the next message to deliver; ``seek`` takes it back."""

        async def read() -> dict[int, tuple[int, int]]:
            return self._consumer.positions

        positions = self._portal.run(read)
        self._overlay(positions)
        return positions

    @property
    def staleness_ms(self) -> dict[int, int | None]:
        """For each partition how old the knowledge was of the replica that answered last; None: it was the primary."""

        async def read() -> dict[int, int | None]:
            return self._consumer.staleness_ms

        return self._portal.run(read)

    def seek(self, to: Start, partition: int | None = None) -> None:
        """Go on from elsewhere, in ``partition`` or in all. Arguments and errors as ``mqcore.Consumer.seek``."""
        self._portal.run(self._seek, self._consumer, to, partition)

    def __iter__(self) -> Iterator[Message]:
        while True:
            yield from self._messages
            self._hold(self.next_batch())

    def batches(self) -> Iterator[ConsumedBatch]:
        """Iterate over whole batches: the fast way to read. It may be left and called again at any time."""
        while True:
            yield self.next_batch()

    def next_batch(self) -> ConsumedBatch:
        """Return the next batch, or what iteration by message left of one; waits for it.

        Raises ``BatchUndecodableError``, ``MessagesMissingError`` (the next call goes on past either),
        ``RejectedError`` such as for a topic that was deleted, ``ClosedError``. No effect if interrupted.
        """
        batch = self._next_in_hand()
        if batch is None:
            self._portal.run(self._receive, self._consumer)
            batch = self._next_in_hand()
            assert batch is not None
        return batch

    def poll(self, messages_max: int = 500, wait_ms: int = 1_000) -> list[Message]:
        """Return the next messages, at most ``messages_max``; an empty list when none comes within ``wait_ms``.

        All of them are of one batch. Raises as ``next_batch``. No effect if interrupted.
        """
        batch = self._next_in_hand()
        if batch is None:
            self._portal.run(self._receive_within, self._consumer, wait_ms)
            batch = self._next_in_hand()
        return [] if batch is None else list(islice(self._hold(batch), messages_max))
