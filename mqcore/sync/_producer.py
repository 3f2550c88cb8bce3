"""The producer for programs that block: single messages cross over to Trio many at a time, lists of them at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from mqcore.batch import MessageHeaders
from mqcore.client import Delivery as TrioDelivery
from mqcore.client import Loss, Policy, Receipt
from mqcore.client import Producer as TrioProducer
from mqcore.client.shells import HostedProducer, freeze_headers
from mqcore.errors import BufferFullError
from mqcore.ports import Buffer
from mqcore.sync._portal import Portal
from mqcore.sync._posted import Delivery, Posted

__all__ = ["Delivery", "Producer"]

T = TypeVar("T")


class Producer(HostedProducer):
    """Sends messages to one topic; as ``mqcore.Producer``, from any number of threads."""

    def __init__(self, portal: Portal, producer: TrioProducer, posted: Posted) -> None:
        super().__init__(producer)
        self._portal = portal
        self._posted = posted

    @property
    def losses(self) -> deque[Loss]:
        """The last permitted losses that the broker reported: receipts that are void."""
        return self._producer.losses.copy()

    def send(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
        tag: str | None = None,
    ) -> Receipt:
        """Send one message, wait, and return its receipt. Arguments and errors as ``mqcore.Producer.send``.

        If interrupted, the outcome is unknown: the message goes its way.
        """
        return self.post(value, key, headers, partition, policy=policy, tag=tag).wait()

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
        """Queue one message and return its delivery; waits while there is no room. Arguments as for ``send``.

        Raises ``ClosedError``, ``TypeError`` for what is not bytes, ``ConfigurationError`` for what is no header. Its
        delivery raises the rest, such as ``RejectedError`` for a message above a limit.
        """
        return self._posted.post(value, key, freeze_headers(headers) if headers else (), partition, policy, tag)

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
        ``partition`` is given. Waits while there is no room. Raises ``RejectedError`` for a message above a limit,
        ``ClosedError``; then nothing was queued.
        """

        deliveries = self._post_many(values, keys, partition, policy, tag)
        return [Delivery(self._portal, each) for each in deliveries]

    def _post_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None,
        partition: int | None,
        policy: Policy | None,
        tag: str | None,
    ) -> list[TrioDelivery]:
        def post_now() -> list[TrioDelivery]:
            if not self._posted.has_crossed:
                raise trio.WouldBlock
            return self._producer.post_many(values, keys, partition, policy=policy, tag=tag)

        async def post() -> list[TrioDelivery]:
            while True:
                try:
                    return self._producer.post_many(values, keys, partition, policy=policy, tag=tag)
                except trio.WouldBlock:
                    await self._producer.wait_for_room(sum(map(len, values)))

        try:
            return self._portal.run_now(post_now)
        except BufferFullError:
            return self._run_after_posted(post)

    def send_many(
        self,
        values: Sequence[Buffer],
        keys: Sequence[Buffer | None] | None = None,
        partition: int | None = None,
        *,
        policy: Policy | None = None,
        tag: str | None = None,
    ) -> list[Receipt]:
        """Send messages as ``post_many`` does, wait, and return one receipt per batch (``offset``, ``count``).

        Raises the error of the first batch that has none. If interrupted, the outcome of all is unknown.
        """
        send = partial(self._producer.send_many, values, keys, partition, policy=policy, tag=tag)
        return self._run_after_posted(send)

    def send_one_way(
        self,
        value: Buffer,
        key: Buffer | None = None,
        headers: MessageHeaders = None,
        partition: int | None = None,
        tag: str | None = None,
    ) -> None:
        """Send one message that will never be acknowledged: it may get lost, without a word, or arrive. Waits for room.

        Raises ``RejectedError`` for a message above a limit.
        """
        self._run_after_posted(partial(self._producer.send_one_way, value, key, headers, partition, tag))

    def flush(self) -> None:
        """Send what lingers and wait until everything queued before this call has its outcome.

        Raises nothing for those that failed: their deliveries do. If interrupted, they go their way.
        """
        self._run_after_posted(self._producer.flush)

    def _run_after_posted(self, function: Callable[[], Awaitable[T]]) -> T:
        """Carry out ``function`` in Trio, once it has what was posted before."""

        async def run() -> T:
            await self._posted.cross(self._producer)
            return await function()

        return self._portal.run(run)
