"""``mqcore.sync.connect`` and the client that it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import trio

import mqcore.client as inner
from mqcore.client import Message, Start
from mqcore.client.shells import Handlings, WrongHandlerError
from mqcore.errors import ClosedError, ConfigurationError, MqcoreError
from mqcore.limits import Limits
from mqcore.sync._consumer import Consumer, GroupConsumer
from mqcore.sync._portal import Portal, opened_portal
from mqcore.sync._posted import Posted
from mqcore.sync._producer import Producer

__all__ = ["Admin", "Client", "GroupAdmin", "ProducerAdmin", "SetAdmin", "connect"]

NEVER_MS = 2**53
"""For a time that does not end."""

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", inner.Admin, inner.GroupAdmin, inner.ProducerAdmin, inner.SetAdmin)


class _Calls(Generic[A]):
    """Requests that cross over to Trio one by one."""

    def __init__(self, portal: Portal, admin: A) -> None:
        self._portal = portal
        self._admin: A = admin


def _blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Calls[A], P], T]:
    """``method``, with its arguments, result, errors and text, for threads."""

    @wraps(method)
    def call(self: _Calls[A], /, *arguments: P.args, **named: P.kwargs) -> T:
        return self._portal.run(partial(method, self._admin, *arguments, **named))

    return call


class Admin(_Calls[inner.Admin]):
    """Requests to the broker that are not about messages; as ``mqcore.client.Admin``."""

    create_topic = _blocking(inner.Admin.create_topic)
    alter_topic = _blocking(inner.Admin.alter_topic)
    delete_topic = _blocking(inner.Admin.delete_topic)
    list_topics = _blocking(inner.Admin.list_topics)
    describe_topic = _blocking(inner.Admin.describe_topic)
    resolve_topic = _blocking(inner.Admin.resolve_topic)
    look_up_offset = _blocking(inner.Admin.look_up_offset)
    confirm_clock = _blocking(inner.Admin.confirm_clock)
    reload = _blocking(inner.Admin.reload)
    status = _blocking(inner.Admin.status)
    operate = _blocking(inner.Admin.operate)


class GroupAdmin(_Calls[inner.GroupAdmin]):
    """Requests about consumer groups; as ``mqcore.client.GroupAdmin``."""

    list_groups = _blocking(inner.GroupAdmin.list_groups)
    describe = _blocking(inner.GroupAdmin.describe)
    reset = _blocking(inner.GroupAdmin.reset)
    delete = _blocking(inner.GroupAdmin.delete)


class ProducerAdmin(_Calls[inner.ProducerAdmin]):
    """Requests about names of producers; as ``mqcore.client.ProducerAdmin``."""

    list_names = _blocking(inner.ProducerAdmin.list_names)
    describe = _blocking(inner.ProducerAdmin.describe)
    delete = _blocking(inner.ProducerAdmin.delete)


class SetAdmin(_Calls[inner.SetAdmin]):
    """Requests about the replica set of the server that answers; as ``mqcore.client.SetAdmin``."""

    describe = _blocking(inner.SetAdmin.describe)
    init = _blocking(inner.SetAdmin.init)
    promote = _blocking(inner.SetAdmin.promote)
    demote = _blocking(inner.SetAdmin.demote)
    switch_over = _blocking(inner.SetAdmin.switch_over)
    recover = _blocking(inner.SetAdmin.recover)
    cap_copies = _blocking(inner.SetAdmin.cap_copies)
    add_replica = _blocking(inner.SetAdmin.add_replica)
    remove_replica = _blocking(inner.SetAdmin.remove_replica)
    replicas = _blocking(inner.SetAdmin.replicas)
    quarantined = _blocking(inner.SetAdmin.quarantined)
    delete_quarantined = _blocking(inner.SetAdmin.delete_quarantined)

    def quarantined_batches(self, name: str) -> Iterator[bytes]:
        """Yield the batches that were kept aside under ``name``, in order, as they were in the log."""
        batches = self._admin.quarantined_batches(name)
        while (batch := self._portal.run(anext, batches, None)) is not None:
            yield batch


class Client:
    """A connection to a broker.

    ``admin`` asks for what is not about messages, ``groups`` for consumer groups, ``producers`` for names of producers,
    ``sets`` for what replica sets do.
    """

    def __init__(self, portal: Portal, client: inner.Client) -> None:
        self.admin = Admin(portal, client.admin)
        self.groups = GroupAdmin(portal, client.groups)
        self.producers = ProducerAdmin(portal, client.producers)
        self.sets = SetAdmin(portal, client.sets)
        self._portal = portal
        self._client = client
        self._handlings = Handlings(client)

    @property
    def node(self) -> str | None:
        """Name of the broker's node; None while the connection is being made again."""
        return self._client.node

    def ping(self) -> float:
        """Return how long the server takes to answer, in s. Errors as ``mqcore.Client.ping``."""
        return self._portal.run(self._client.ping)

    @contextmanager
    def producer(self, topic: str, *, name: str | None = None, **options: Any) -> Iterator[Producer]:
        """A producer for ``topic``, for the length of the block. Arguments and errors as ``mqcore.Client.producer``."""
        posted = Posted(self._portal)
        with self._portal.living(posted.crossing(self._client.producer(topic, name=name, **options))) as producer:
            yield Producer(self._portal, producer, posted)

    @contextmanager
    def consumer(
        self, topic: str, partitions: list[int] | None = None, start: Start = "end", **options: Any
    ) -> Iterator[Consumer]:
        """A consumer of ``topic``, for the length of the block. Arguments and errors as ``mqcore.Client.consumer``.

        With ``group`` a ``GroupConsumer``.
        """
        with self._portal.living(self._client.consumer(topic, partitions, start, **options)) as consumer:
            if isinstance(consumer, inner.GroupConsumer):
                member = GroupConsumer(self._portal, consumer)
                yield member
                self._portal.run_now(member.put_back)
            else:
                yield Consumer(self._portal, consumer)

    def handle(
        self,
        topic: str,
        handler: Callable[[Message], None],
        *,
        report: Callable[[MqcoreError], None] | None = None,
        threads_max: int = 16,
        **options: Any,
    ) -> None:
        """Read ``topic`` and call ``handler(message)`` for each message, in up to ``threads_max`` threads.

        Until interrupted, until a handler raises what is no ``Exception``, or until the client's block is left in
        another thread: ``ClosedError``. Handlers that run are waited for, since a thread cannot be cancelled: there is
        no ``handler_timeout_ms``, and one that is not done within ``rebalance_ms``, or when its member's session is
        over, may run beside another member's. ``report`` is called in the client's thread. Arguments and errors else
        as ``mqcore.Client.handle``; ``ConfigurationError`` for what is not.
        """
        if "handler_timeout_ms" in options:
            raise ConfigurationError("handle: handler_timeout_ms: a handler that blocks cannot be cancelled")
        if threads_max < 1:
            raise ConfigurationError(f"handle: threads_max: {threads_max}: at least 1")
        # Not Trio's own, which looking up names shares: handlers that wait for a broker would keep it from being found.
        limiter = trio.CapacityLimiter(threads_max)

        def call_now(message: Message) -> None:
            begun: object = handler(message)  # type: ignore[func-returns-value]  # what should not be there is looked for
            if inspect.iscoroutine(begun):
                begun.close()  # nobody would run it, and its message would count as failed again and again
                raise WrongHandlerError("handle: the handler is async def, and threads call it: write it with def")

        async def call(message: Message) -> None:
            await trio.to_thread.run_sync(call_now, message, limiter=limiter)

        options |= {"report": report, "handler_timeout_ms": NEVER_MS}
        raise self._portal.run(self._handlings.run, topic, call, options)


@contextmanager
def connect(*urls: str, limits: Limits | None = None, **options: Any) -> Iterator[Client]:
    """Connect to the first of ``urls`` that answers, for the length of the block; stays connected by itself.

    Arguments and errors as ``mqcore.connect``. Its Trio runs in a thread of its own, which ends with the block.
    """
    with opened_portal() as portal, portal.living(inner.connect(*urls, limits=limits, **options)) as client:
        shell = Client(portal, client)
        try:
            yield shell
        finally:
            if shell._handlings.are_running:
                with suppress(ClosedError):
                    portal.run(shell._handlings.end)
