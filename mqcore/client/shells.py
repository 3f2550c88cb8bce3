"""What ``mqcore.aio`` and ``mqcore.sync`` share: shells around the client for those who do not use Trio. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from contextlib import contextmanager

import trio

from mqcore.client._consumed import ConsumedBatch
from mqcore.client._consumer import Consumer, Start
from mqcore.client._in_hand import MessageReader
from mqcore.client._message_checks import freeze, freeze_headers
from mqcore.errors import BufferFullError, ClosedError

__all__ = ["LeftByError", "ReadAhead", "freeze", "freeze_headers", "told_without_trio"]


class LeftByError(Exception):
    """Stands in Trio for the error with which the block of a shell was left."""


@contextmanager
def told_without_trio() -> Iterator[None]:
    """Raise ``ClosedError`` and ``BufferFullError`` for what Trio has errors of its own."""
    try:
        yield
    except trio.ClosedResourceError as error:
        raise ClosedError(str(error) or "closed") from None
    except trio.WouldBlock as error:
        raise BufferFullError(str(error)) from None


class ReadAhead(MessageReader):
    """The same with batches that wait behind it: what a shell took from a consumer at one crossing."""

    def __init__(self) -> None:
        super().__init__()
        self._received: deque[ConsumedBatch] = deque()

    async def _receive(self, consumer: Consumer) -> None:
        """In Trio: take the next batch, and all that came with it. It is in hand even if nobody waits any more."""
        self._received.append(await consumer.next_batch())
        self._received.extend(consumer.take_received())

    async def _receive_within(self, consumer: Consumer, wait_ms: int) -> None:
        """The same, for ``wait_ms`` at most: what has not come by then comes with a later call."""
        with trio.move_on_after(wait_ms / 1000):
            await self._receive(consumer)

    def _next_in_hand(self) -> ConsumedBatch | None:
        """The next batch to deliver without asking anybody; None if there is none."""
        if self._batch is not None and (left := self._take_left()) is not None:
            return left
        return self._received.popleft() if self._received else None

    async def _seek(self, consumer: Consumer, to: Start, partition: int | None) -> None:
        """In Trio: seek, and forget what is held of the partitions that have moved, of those too that a seek has moved
        before it failed or was cancelled: what is held would be delivered, and what lies between be skipped."""
        before = consumer.positions
        try:
            await consumer.seek(to, partition)
        except BaseException:
            self._drop({number for number, at in consumer.positions.items() if at != before.get(number)})
            raise
        self._drop(to if isinstance(to, dict) else before if partition is None else (partition,))

    def _drop(self, partitions: Container[int]) -> None:
        """Forget what is held of ``partitions``: they are read from elsewhere now."""
        if self._batch is not None and self._batch.partition in partitions:
            self._forget_batch()
        self._received = deque(batch for batch in self._received if batch.partition not in partitions)

    def _overlay(self, positions: dict[int, tuple[int, int]]) -> None:
        for batch in reversed(self._received):
            positions[batch.partition] = (batch.offset, batch.previous_epoch)
        super()._overlay(positions)
