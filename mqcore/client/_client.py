"""``mqcore.connect`` and the client that it gives."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Literal

import trio

from mqcore.abc import Notice, TransportContext
from mqcore.client._admin import Admin
from mqcore.client._backoff import Backoff
from mqcore.client._consumer import Consumer
from mqcore.client._context import ClientContext
from mqcore.client._message_checks import check_partition
from mqcore.client._options import ClientOptions, ConsumerOptions, ProducerOptions
from mqcore.client._producer import Producer
from mqcore.client._router import Router
from mqcore.errors import ConfigurationError
from mqcore.limits import Limits
from mqcore.ports import Ports
from mqcore.registry import create_transport, find_codec, structure_options

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
    (``connect_timeout_ms``, ``request_timeout_ms``, ``keepalive_ms``, ...). ``ports`` give randomness (producer ids,
    pauses) and wall clock (create times), by default the machine's. Raises ``NotReachedError`` when no server answers
    in time, ``ConfigurationError`` and ``PluginError`` for a URL or option that cannot be used, ``RemoteProtocolError``
    when what answers is no broker of this protocol's version.
    """
    if not urls:
        raise ConfigurationError("connect: give the URL of at least one server, such as tcp://127.0.0.1:7400")
    settings = structure_options(ClientOptions, options, "connect")
    context = ClientContext(
        options=settings,
        limits=limits or Limits(),
        random=random.SystemRandom() if ports is None else ports.random,
        wall_ns=time.time_ns if ports is None else partial(_wall_ns, ports),
        backoff=Backoff(settings.retry_ms_min, settings.retry_ms_max),
    )
    links = TransportContext(random=context.random, report=_warn, limits=context.limits)
    router = Router([create_transport(url, links) for url in urls], context)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(router.run)
            yield Client(router)
        except (trio.Cancelled, BaseExceptionGroup):
            raise
        except BaseException as error:
            # Raised again outside: the block's own error reaches the caller as it is, not in a group.
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Client:
    """A connection to a broker. ``admin`` asks for everything that is not about messages."""

    def __init__(self, router: Router) -> None:
        self.admin = Admin(router)
        self._router = router

    @property
    def node(self) -> str | None:
        """Name of the broker's node; None while the connection is being made again."""
        stream = self._router.home.stream
        return None if stream is None else stream.welcome.node_name

    @asynccontextmanager
    async def producer(self, topic: str, **options: Any) -> AsyncIterator[Producer]:
        """A producer for ``topic``, for the length of the block; ``options`` are those of ``ProducerOptions``.

        Leaving the block waits until everything has its outcome (when it raised, what is on its way is dropped). Raises
        ``RejectedError`` for an unknown topic, ``ConfigurationError``, ``PluginError`` for a codec not installed.
        """
        settings = structure_options(ProducerOptions, options, "producer")
        codec = None if settings.codec == "none" else find_codec(settings.codec)
        if codec is not None:
            codec.compress(b"")  # a library that it lacks is missed here, where the caller can do something about it
        found = await self.admin.resolve_topic(topic)
        stream = await self._router.home.ready()
        async with Producer(
            self._router, topic, bytes.fromhex(found.id), found.partitions, settings, stream.limits, codec
        ) as producer:
            yield producer

    @asynccontextmanager
    async def consumer(
        self,
        topic: str,
        partitions: list[int] | None = None,
        start: Literal["start", "end"] | int | datetime | dict[int, tuple[int, int]] = "end",
        **options: Any,
    ) -> AsyncIterator[Consumer]:
        """A consumer of ``topic``, for the length of the block: of the ``partitions`` named, or of all, later ones too.

        ``start``: ``"start"``, ``"end"``, an offset, a time (``datetime`` with a zone), or positions (offset, epoch) by
        partition, as ``Consumer.positions`` gave them; epoch 0 if unknown. ``options`` are those of
        ``ConsumerOptions``. Raises ``RejectedError`` for an unknown topic, ``ConfigurationError``.
        """
        settings = structure_options(ConsumerOptions, options, "consumer")
        found = await self.admin.resolve_topic(topic)
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
