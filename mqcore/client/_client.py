"""``mqcore.connect`` and the client that it gives."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from mqcore.abc import Notice, TransportContext, check_cursor_name
from mqcore.client._admin import Admin
from mqcore.client._backoff import Backoff
from mqcore.client._claimed_name import UNNAMED
from mqcore.client._consumer import Consumer, Start, check_start
from mqcore.client._context import ClientContext
from mqcore.client._group_admin import GroupAdmin
from mqcore.client._group_consumer import GroupConsumer
from mqcore.client._handling import Handler
from mqcore.client._message_checks import check_partition
from mqcore.client._name_claims import NameClaims
from mqcore.client._options import ClientOptions, ConsumerOptions, GroupOptions, ProducerOptions
from mqcore.client._owners import Owners
from mqcore.client._producer import Producer
from mqcore.client._producer_admin import ProducerAdmin
from mqcore.client._push import Openers, handle_topic
from mqcore.client._router import Router
from mqcore.client._set_admin import SetAdmin
from mqcore.errors import BrokenLinkError, ConfigurationError, MqcoreError
from mqcore.groups import check_producer_name
from mqcore.limits import Limits
from mqcore.operations import TopicInfo
from mqcore.ports import Ports, system_ports
from mqcore.registry import find_codec, structure_options

__all__ = ["Client", "connect"]


def _wall_ns(ports: Ports) -> int:
    return ports.clock.wall_ms() * 1_000_000


def _warn(notice: Notice) -> None:
    logging.getLogger("mqcore.client").warning(notice.text)


@asynccontextmanager
async def connect(
    *urls: str, limits: Limits | None = None, ports: Ports | None = None, **options: Any
) -> AsyncIterator[Client]:
    """Connect to the first of ``urls`` that answers, for the length of the block; stays connected by itself.

    The URLs are of servers that know each other, or of one server: what one of them does not own is asked of the one
    that it names, and when it dies the next is asked. ``options`` are those of ``ClientOptions``
    (``connect_timeout_ms``, ``ca``, ``cert``, ``key``, ...). ``ports`` give randomness (producer ids,
    pauses) and wall clock (create times), by default the machine's. Raises ``NotReachedError`` when no server answers
    in time, ``ConfigurationError`` and ``PluginError`` for a URL or option that cannot be used, ``RemoteProtocolError``
    when what answers is no broker of this protocol's version.
    """
    if not urls:
        raise ConfigurationError("connect: give the URL of at least one server, such as tcp://127.0.0.1:7400")
    for url in urls:
        if not isinstance(url, str):
            raise ConfigurationError(f"connect: {url!r} is no URL: give each as an argument of its own, connect(*urls)")
    settings = structure_options(ClientOptions, options, "connect")
    own_limits = limits or Limits()
    chance: random.Random = random.SystemRandom() if ports is None else ports.random
    context = ClientContext(
        options=settings,
        limits=own_limits,
        random=chance,
        wall_ns=time.time_ns if ports is None else partial(_wall_ns, ports),
        backoff=Backoff(settings.retry_ms_min, settings.retry_ms_max),
        links=TransportContext(random=chance, report=_warn, limits=own_limits, tls=settings.tls),
        credentials=settings.credentials(),
    )
    router = Router([context.transport(url) for url in urls], context)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(router.run)
            yield Client(router, ports)
        except (trio.Cancelled, BaseExceptionGroup):
            raise
        except BaseException as error:
            # Raised again outside: the block's own error reaches the caller as it is, not in a group.
            failure = error
        finally:
            router.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Client:
    """A connection to a broker.

    ``admin`` asks for what is not about messages, ``groups`` for consumer groups, ``producers`` for names of producers,
    ``sets`` for what replica sets do.
    """

    def __init__(self, router: Router, ports: Ports | None = None) -> None:
        self.admin = Admin(router)
        self.groups = GroupAdmin(router, self.admin)
        self.producers = ProducerAdmin(router, self.admin)
        self._names = NameClaims(router, Owners(router, self.admin))
        self.sets = SetAdmin(router)
        self._router = router
        self._ports = ports

    @property
    def node(self) -> str | None:
        """Name of the broker's node; None while the connection is being made again."""
        stream = self._router.home.stream
        return None if stream is None else stream.welcome.node_name

    async def ping(self) -> float:
        """Return how long the server takes to answer, in s: one frame there and one back, with nothing between.

        Waits for the connection if there is none just now. Raises ``BrokenLinkError`` when it breaks meanwhile.
        """
        taken = await (await self._router.home.ready()).round_trip()
        if taken is None:
            raise BrokenLinkError(f"{self._router.home.url}: the connection broke before the server answered")
        return taken

    async def _resolve(self, topic: str) -> TopicInfo:
        found = await self.admin.resolve_topic(topic)
        self._router.learn(found)
        return found

    @asynccontextmanager
    async def producer(self, topic: str, *, name: str | None = None, **options: Any) -> AsyncIterator[Producer]:
        """A producer for ``topic``, for the length of the block; ``options`` are those of ``ProducerOptions``.

        Leaving the block waits until everything has its outcome (when it raised, what is on its way is dropped). Raises
        ``RejectedError`` for an unknown topic, ``ConfigurationError``, ``PluginError`` for a codec not installed.

        ``name``: go on as the producer of that name, in place of the process that had it last. What that one sends
        from then on is refused (``ProducerFencedError``), and ``Producer.last`` says where it had come to in each
        partition, so that this one can go on exactly there. Raises ``ProducerFencedError`` too where another process
        claims the name at the same time. If cancelled meanwhile, the process that had it may be fenced.
        """
        settings = structure_options(ProducerOptions, options, "producer")
        codec = None if settings.codec == "none" else find_codec(settings.codec)
        if codec is not None:
            codec.compress(b"")  # a library that it lacks is missed here, where the caller can do something about it
        if name is not None:
            check_producer_name(name)
        found = await self._resolve(topic)
        claimed = UNNAMED if name is None else await self._names.claim(found, name)
        stream = await self._router.home.ready()
        async with Producer(
            self._router, topic, bytes.fromhex(found.id), found.partitions, settings, stream.limits, codec, claimed
        ) as producer:
            yield producer

    @asynccontextmanager
    async def consumer(
        self,
        topic: str,
        partitions: list[int] | None = None,
        start: Start = "end",
        *,
        group: str | None = None,
        **options: Any,
    ) -> AsyncIterator[Consumer]:
        """A consumer of ``topic``, for the length of the block: of the ``partitions`` named, or of all, later ones too.

        ``start``: ``"start"``, ``"end"``, an offset, a time (``datetime`` with a zone), or positions (offset, epoch) by
        partition, as ``Consumer.positions`` gave them; epoch 0 if unknown. ``options`` are those of
        ``ConsumerOptions``. Raises ``RejectedError`` for an unknown topic, ``ConfigurationError``.

        ``group``: be a member of that consumer group, which shares the topic's partitions out among its members; a
        ``GroupConsumer`` then, with the options of ``GroupOptions`` too. ``start`` holds where the group has no cursor.
        """
        found = await self._resolve(topic)
        if group is not None:
            if partitions is not None:
                raise ConfigurationError("consumer: a group shares the partitions out: name a group, or partitions")
            async with self._member(found, group, start, structure_options(GroupOptions, options, "consumer")) as each:
                yield each
            return
        settings = structure_options(ConsumerOptions, options, "consumer")
        count = found.partitions
        numbers = list(range(count)) if partitions is None else partitions
        for number in numbers:
            check_partition(topic, number, count)
        consumer = Consumer(
            self._router, topic, bytes.fromhex(found.id), numbers, settings, is_whole=partitions is None
        )
        try:
            await consumer.seek(start)
            yield consumer
        finally:
            await consumer.aclose()

    async def handle(
        self,
        topic: str,
        handler: Handler,
        *,
        report: Callable[[MqcoreError], None] | None = None,
        **options: Any,
    ) -> None:
        """Read ``topic`` and call ``await handler(message)`` for each message, until cancelled.

        ``options``: those of ``HandlingOptions``, and those of ``consumer``, ``start`` and ``partitions`` among them.
        Of one partition up to ``in_flight_max`` messages are handled at once, in order by partition or by key. A
        handler that raises an ``Exception``, or does not end in time, is called again after a pause, ``attempts_max``
        times in all. Then the message goes to the dead-letter topic, with its history in headers
        (``mqcore.client.history_of``); where that cannot take it, into ``recovery_dir``, which is tried again; where
        there is neither, it is tried on and on. What comes after it in its order waits until it has gone.

        For a consumer of a group what is done is committed: a message that was begun and is not done is handled again,
        after a restart or by another member. ``report`` is told of messages that are gone or cannot be read, by default
        the log is. Raises as ``consumer`` and iterating over it; ``ConfigurationError`` for a folder that another
        process uses, ``CorruptionError`` for a damaged one; what a handler raises that is no ``Exception``. If
        cancelled, handlers are cancelled, and their messages are not done.
        """
        ports = self._ports or system_ports()
        openers = Openers(self.admin, self.consumer, self.producer)
        await handle_topic(openers, ports, self._router.context.wall_ns, topic, handler, options, report)

    @asynccontextmanager
    async def _member(
        self, found: TopicInfo, group: str, start: Start, options: GroupOptions
    ) -> AsyncIterator[GroupConsumer]:
        check_cursor_name("group", group)
        check_start(start)
        member = (
            options.member or f"{self._router.context.options.name}-{self._router.context.random.randbytes(6).hex()}"
        )
        consumer = GroupConsumer(self._router, found, group, start, options, member)
        is_handled = False
        try:
            await consumer.join()
            yield consumer
            is_handled = True
        finally:
            with trio.CancelScope(shield=True):
                await consumer.leave(is_handled=is_handled)
                await consumer.aclose()
