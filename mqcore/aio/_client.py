"""``mqcore.aio.connect`` and the client that it gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import mqcore.client as inner
from mqcore.aio._consumer import Consumer, GroupConsumer
from mqcore.aio._guest import Guest, hosted
from mqcore.aio._producer import Producer
from mqcore.client import Message, Start
from mqcore.client.shells import Handlings, WrongHandlerError
from mqcore.errors import ClosedError, MqcoreError
from mqcore.limits import Limits

__all__ = ["Admin", "Client", "GroupAdmin", "ProducerAdmin", "SetAdmin", "connect"]

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", inner.Admin, inner.GroupAdmin, inner.ProducerAdmin, inner.SetAdmin)


class _Crossing(Generic[A]):
    """Requests that cross over to Trio one by one."""

    def __init__(self, guest: Guest, admin: A) -> None:
        self._guest = guest
        self._admin: A = admin


def _over(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Crossing[A], P], Coroutine[Any, Any, T]]:
    """``method``, with its arguments, result, errors and text, for asyncio."""

    @wraps(method)
    async def cross(self: _Crossing[A], /, *arguments: P.args, **named: P.kwargs) -> T:
        return await self._guest.run(partial(method, self._admin, *arguments, **named))

    return cross


class Admin(_Crossing[inner.Admin]):
    """Requests to the broker that are not about messages; as ``mqcore.client.Admin``."""

    create_topic = _over(inner.Admin.create_topic)
    alter_topic = _over(inner.Admin.alter_topic)
    delete_topic = _over(inner.Admin.delete_topic)
    list_topics = _over(inner.Admin.list_topics)
    describe_topic = _over(inner.Admin.describe_topic)
    resolve_topic = _over(inner.Admin.resolve_topic)
    look_up_offset = _over(inner.Admin.look_up_offset)
    confirm_clock = _over(inner.Admin.confirm_clock)
    reload = _over(inner.Admin.reload)
    status = _over(inner.Admin.status)
    operate = _over(inner.Admin.operate)


class GroupAdmin(_Crossing[inner.GroupAdmin]):
    """Requests about consumer groups; as ``mqcore.client.GroupAdmin``."""

    list_groups = _over(inner.GroupAdmin.list_groups)
    describe = _over(inner.GroupAdmin.describe)
    reset = _over(inner.GroupAdmin.reset)
    delete = _over(inner.GroupAdmin.delete)


class ProducerAdmin(_Crossing[inner.ProducerAdmin]):
    """Requests about names of producers; as ``mqcore.client.ProducerAdmin``."""

    list_names = _over(inner.ProducerAdmin.list_names)
    describe = _over(inner.ProducerAdmin.describe)
    delete = _over(inner.ProducerAdmin.delete)


class SetAdmin(_Crossing[inner.SetAdmin]):
    """Requests about the replica set of the server that answers; as ``mqcore.client.SetAdmin``."""

    describe = _over(inner.SetAdmin.describe)
    init = _over(inner.SetAdmin.init)
    promote = _over(inner.SetAdmin.promote)
    demote = _over(inner.SetAdmin.demote)
    switch_over = _over(inner.SetAdmin.switch_over)
    recover = _over(inner.SetAdmin.recover)
    cap_copies = _over(inner.SetAdmin.cap_copies)
    add_replica = _over(inner.SetAdmin.add_replica)
    remove_replica = _over(inner.SetAdmin.remove_replica)
    replicas = _over(inner.SetAdmin.replicas)
    quarantined = _over(inner.SetAdmin.quarantined)
    delete_quarantined = _over(inner.SetAdmin.delete_quarantined)

    async def quarantined_batches(self, name: str) -> AsyncIterator[bytes]:
        """Yield the batches that were kept aside under ``name``, in order, as they were in the log."""
        batches = self._admin.quarantined_batches(name)
        while (batch := await self._guest.run(anext, batches, None)) is not None:
            yield batch


class Client:
    """A connection to a broker.

    ``admin`` asks for what is not about messages, ``groups`` for consumer groups, ``producers`` for names of producers,
    ``sets`` for what replica sets do.
    """

    def __init__(self, guest: Guest, client: inner.Client) -> None:
        self.admin = Admin(guest, client.admin)
        self.groups = GroupAdmin(guest, client.groups)
        self.producers = ProducerAdmin(guest, client.producers)
        self.sets = SetAdmin(guest, client.sets)
        self._guest = guest
        self._client = client
        self._handlings = Handlings(client)

    @property
    def node(self) -> str | None:
        """Name of the broker's node; None while the connection is being made again."""
        return self._client.node

    async def ping(self) -> float:
        """Return how long the server takes to answer, in s. Errors as ``mqcore.Client.ping``."""
        return await self._guest.run(self._client.ping)

    @asynccontextmanager
    async def producer(self, topic: str, *, name: str | None = None, **options: Any) -> AsyncIterator[Producer]:
        """A producer for ``topic``, for the length of the block. Arguments and errors as ``mqcore.Client.producer``."""
        async with self._guest.living(self._client.producer(topic, name=name, **options)) as producer:
            yield Producer(self._guest, producer)

    @asynccontextmanager
    async def consumer(
        self, topic: str, partitions: list[int] | None = None, start: Start = "end", **options: Any
    ) -> AsyncIterator[Consumer]:
        """A consumer of ``topic``, for the length of the block. Arguments and errors as ``mqcore.Client.consumer``.

        With ``group`` a ``GroupConsumer``.
        """
        async with self._guest.living(self._client.consumer(topic, partitions, start, **options)) as consumer:
            if isinstance(consumer, inner.GroupConsumer):
                member = GroupConsumer(self._guest, consumer)
                yield member
                member.put_back()
            else:
                yield Consumer(self._guest, consumer)

    async def handle(
        self,
        topic: str,
        handler: Callable[[Message], Coroutine[Any, Any, None]],
        *,
        report: Callable[[MqcoreError], None] | None = None,
        **options: Any,
    ) -> None:
        """Read ``topic`` and call ``await handler(message)`` for each message, in tasks of asyncio, until cancelled.

        Arguments and errors as ``mqcore.Client.handle``; ``ClosedError`` when the client's block is left.
        """

        async def call(message: Message) -> None:
            begun = handler(message)
            if not asyncio.iscoroutine(begun):
                raise WrongHandlerError(f"handle: the handler returned {type(begun).__name__}: write it with async def")
            await self._guest.call(lambda: begun)

        raise await self._guest.run(self._handlings.run, topic, call, {"report": report, **options})


@asynccontextmanager
async def connect(*urls: str, limits: Limits | None = None, **options: Any) -> AsyncIterator[Client]:
    """Connect to the first of ``urls`` that answers, for the length of the block; stays connected by itself.

    Arguments and errors as ``mqcore.connect``; ``ConfigurationError`` too where Trio runs in this thread already.
    """
    async with hosted() as guest, guest.living(inner.connect(*urls, limits=limits, **options)) as client:
        shell = Client(guest, client)
        try:
            yield shell
        finally:
            if shell._handlings.are_running:
                with suppress(ClosedError):
                    await guest.run(shell._handlings.end)
