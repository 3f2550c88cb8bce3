"""The consumer for programs that block: it crosses over to Trio once for everything that was received."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from mqcore.client import ConsumedBatch, Message, Start
from mqcore.client import Consumer as TrioConsumer
from mqcore.client import GroupConsumer as TrioGroupConsumer
from mqcore.client.shells import GroupReading, ReadAhead
from mqcore.errors import ConfigurationError
from mqcore.sync._portal import Portal

__all__ = ["Consumer", "GroupConsumer"]

T = TypeVar("T")


class Consumer(ReadAhead):
    """Reads a topic's partitions; as ``mqcore.Consumer``, for one thread at a time (``ConfigurationError``).

    ``for message in consumer`` or ``for batch in consumer.batches()``.
    """

    def __init__(self, portal: Portal, consumer: TrioConsumer) -> None:
        ReadAhead.__init__(self)
        self._in_use = threading.Lock()
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
        with self._alone():
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
        with self._alone():
            while (batch := self._next_in_hand()) is None:
                self._portal.run(self._receive, self._consumer)
            return batch

    def poll(self, messages_max: int = 500, wait_ms: int = 1_000) -> list[Message]:
        """Return the next messages, at most ``messages_max``; an empty list when none comes within ``wait_ms``.

        All of them are of one batch. Raises as ``next_batch``. No effect if interrupted.
        """
        with self._alone():
            batch = self._next_in_hand()
            if batch is None:
                self._portal.run(self._receive_within, self._consumer, wait_ms)
                batch = self._next_in_hand()
            return [] if batch is None else list(islice(self._hold(batch), messages_max))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two threads at once would share what is in hand, and messages would be delivered to neither."""
        if not self._in_use.acquire(blocking=False):
            raise ConfigurationError(
                f"another thread is reading with this consumer of {self.topic}: give each thread its own, or have one "
                "read and hand out"
            )
        try:
            yield
        finally:
            self._in_use.release()


class GroupConsumer(GroupReading, Consumer):
    """A member of a consumer group; as ``mqcore.client.GroupConsumer``, for one thread at a time, as ``Consumer``.

    What was handled is committed a batch at a time, where that one also commits within the batch that is read.
    """

    def __init__(self, portal: Portal, consumer: TrioGroupConsumer) -> None:
        Consumer.__init__(self, portal, consumer)
        GroupReading.__init__(self, consumer)

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
        return self._portal.run_now(lambda: self._member.assignment)

    def __iter__(self) -> Iterator[Message]:
        while True:
            while self._member.may_go_on() and (message := next(self._messages, None)) is not None:
                yield message
            self._hold(self.next_batch())

    def commit(self, positions: Mapping[int, tuple[int, int]] | None = None) -> dict[int, tuple[int, int]]:
        """Commit ``positions`` (offset, epoch) by partition, or all that was handed out; return the cursors in force.

        Errors as ``mqcore.client.GroupConsumer.commit``. If interrupted, it may be committed.
        """
        return self._portal.run(self._commit, positions)
