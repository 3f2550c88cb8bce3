"""What ``mqcore.aio`` and ``mqcore.sync`` share: shells around the client for those who do not use Trio. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from mqcore.client._client import Client
from mqcore.client._consumed import ConsumedBatch, Message
from mqcore.client._consumer import Consumer, Start
from mqcore.client._group_consumer import GroupConsumer
from mqcore.client._handling import WrongHandlerError
from mqcore.client._in_hand import MessageReader
from mqcore.client._message_checks import freeze, freeze_headers
from mqcore.client._producer import Producer
from mqcore.client._producer_facts import ProducerFacts
from mqcore.errors import BufferFullError, ClosedError

__all__ = [
    "GroupReading",
    "Handlings",
    "HostedProducer",
    "LeftByError",
    "ReadAhead",
    "WrongHandlerError",
    "freeze",
    "freeze_headers",
    "told_without_trio",
]


class LeftByError(Exception):
    """Stands in Trio for the error with which the block of a shell was left."""


class HostedProducer(ProducerFacts):
    """Of a shell around ``producer``: it says of itself what that says."""

    def __init__(self, producer: Producer) -> None:
        super().__init__(producer._state, producer.partitions)
        self._producer = producer


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


class GroupReading(ReadAhead):
    """What a shell holds of a group's member: one batch, of which the member has to know how far it was delivered."""

    def __init__(self, member: GroupConsumer) -> None:
        ReadAhead.__init__(self)
        self._member = member

    def put_back(self) -> None:
        """In Trio's thread: give the member back what was not delivered; the next batch is the rest of it."""
        left = self._received.popleft() if self._received else self._take_left()
        self._forget_batch()
        if left is not None:
            self._member.put_back(left)

    async def _receive(self, consumer: Consumer) -> None:
        self.put_back()
        await super()._receive(consumer)

    def _next_in_hand(self) -> ConsumedBatch | None:
        return self._received.popleft() if self._received and self._member.may_go_on() else None

    async def _seek(self, consumer: Consumer, to: Start, partition: int | None) -> None:
        self.put_back()
        await consumer.seek(to, partition)

    async def _commit(self, positions: Mapping[int, tuple[int, int]] | None) -> dict[int, tuple[int, int]]:
        """In Trio: see ``GroupConsumer.commit``."""
        if positions is None:
            self.put_back()
        return await self._member.commit(positions)

    def _overlay(self, positions: dict[int, tuple[int, int]]) -> None:
        owned = set(positions)
        super()._overlay(positions)
        for partition in set(positions) - owned:
            del positions[partition]  # what is in hand of a partition that was lost meanwhile


class Handlings:
    """The runs of ``handle`` of one client, which end before it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._scopes: set[trio.CancelScope] = set()
        self._ended = trio.Event()

    async def run(
        self, topic: str, call: Callable[[Message], Awaitable[None]], options: Mapping[str, Any]
    ) -> BaseException:
        """In Trio: see ``Client.handle``. Return what the shell is to raise, if this is not cancelled.

        That is what a handler has raised that is no ``Exception``: in Trio it would end all calls of the shell.
        """
        raised: list[BaseException] = []
        scope = trio.CancelScope()

        async def handler(message: Message) -> None:
            try:
                await call(message)
            except (Exception, trio.Cancelled):
                raise
            except BaseException as error:
                raised.append(error)
                scope.cancel()
                await trio.sleep_forever()

        self._scopes.add(scope)
        try:
            with scope:
                await self._client.handle(topic, handler, **options)
        finally:
            self._scopes.discard(scope)
            self._ended.set()
        return raised[0] if raised else ClosedError("the client was closed")

    @property
    def are_running(self) -> bool:
        """Whether there is anything to end."""
        return bool(self._scopes)

    async def end(self) -> None:
        """In Trio: end them all and wait until they have committed what is done. Shielded from cancellation."""
        with trio.CancelScope(shield=True):
            while self._scopes:
                self._ended = trio.Event()
                for scope in self._scopes:
                    scope.cancel()
                await self._ended.wait()
