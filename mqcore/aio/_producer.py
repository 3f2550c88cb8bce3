"""The producer for asyncio: what needs no waiting is called as it is, what waits has a future or crosses to Trio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial

import trio

from mqcore.aio._guest import Guest
from mqcore.batch import MessageHeaders
from mqcore.client import Delivery as TrioDelivery
from mqcore.client import Loss, Policy, Receipt
from mqcore.client import Producer as TrioProducer
from mqcore.client.shells import HostedProducer, told_without_trio
from mqcore.ports import Buffer

__all__ = ["Delivery", "Producer"]


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _settled(delivery: TrioDelivery) -> Receipt:
    if not delivery.is_done:
        future = asyncio.get_running_loop().create_future()
        delivery.add_done_callback(partial(_set, future))
        await future
    return delivery.result()


class Delivery:
    """The outcome of what was posted, now or later; as ``mqcore.Delivery``."""

    __slots__ = ("_delivery",)

    def __init__(self, delivery: TrioDelivery) -> None:
        self._delivery = delivery

    @property
    def count(self) -> int:
        """Messages whose outcome this is: one, or those of one batch, in their order."""
        return self._delivery.count

    @property
    def is_done(self) -> bool:
        """Whether ``result`` would return or raise the outcome."""
        return self._delivery.is_done

    def result(self) -> Receipt:
        """Return the receipt.

        Raises ``RejectedError``, ``OutcomeUnknownError``, and ``RuntimeError`` before ``is_done``.
        """
        return self._delivery.result()

    async def wait(self) -> Receipt:
        """Wait for the outcome and return the receipt.

        Raises ``RejectedError`` (it is never read by anyone) or ``OutcomeUnknownError``. If cancelled, the outcome is
        unknown to the caller; the message goes its way, and waiting again is allowed.
        """
        return await _settled(self._delivery)


class Producer(HostedProducer):
    """Sends messages to one topic; as ``mqcore.Producer``, for any number of asyncio tasks of one loop."""

    def __init__(self, guest: Guest, producer: TrioProducer) -> None:
        super().__init__(producer)
        self._guest = guest

    @property
    def losses(self) -> deque[Loss]:
        """The last permitted losses that the broker reported: receipts that are void."""
        return self._producer.losses

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
        """Send one message and return its receipt. Arguments, errors and cancellation as ``mqcore.Producer.send``."""
        self._guest.check_place()
        try:
            delivery = self._producer.post(value, key, headers, partition, policy=policy, tag=tag)
        except trio.WouldBlock:  # waits for room in its turn
            send = partial(self._producer.send, value, key, headers, partition, policy=policy, tag=tag)
            return await self._guest.run(send)
        except trio.ClosedResourceError:
            with told_without_trio():
                raise
        return await _settled(delivery)

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

        Raises ``RejectedError`` for a message above a limit, ``BufferFullError`` when ``buffer_bytes_max`` are on their
        way or others wait for room (see ``wait_for_room``), ``ClosedError``.
        """
        self._guest.check_place()
        try:
            return Delivery(self._producer.post(value, key, headers, partition, policy=policy, tag=tag))
        except (trio.WouldBlock, trio.ClosedResourceError):
            with told_without_trio():
                raise

    async def wait_for_room(self, size: int = 0) -> None:
        """Wait until there is room for ``size`` more bytes, in turn with others. ``post`` may still find it taken."""
        await self._guest.run(self._producer.wait_for_room, size)

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
        ``partition`` is given. Raises as ``post``; then nothing was queued.
        """
        self._guest.check_place()
        with told_without_trio():
            return [
                Delivery(each) for each in self._producer.post_many(values, keys, partition, policy=policy, tag=tag)
            ]

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
        self._guest.check_place()
        try:
            deliveries = self._producer.post_many(values, keys, partition, policy=policy, tag=tag)
        except trio.WouldBlock:
            return await self._guest.run(
                partial(self._producer.send_many, values, keys, partition, policy=policy, tag=tag)
            )
        except trio.ClosedResourceError:
            with told_without_trio():
                raise
        return [await _settled(each) for each in deliveries]

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
        await self._guest.run(self._producer.send_one_way, value, key, headers, partition, tag)

    async def flush(self) -> None:
        """Send what lingers and wait until everything queued before this call has its outcome.

        Raises nothing for those that failed: their deliveries do. If cancelled, they go their way.
        """
        await self._guest.run(self._producer.flush)
