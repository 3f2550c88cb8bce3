"""``client.handle``: a consumer, its handler, its dead-letter topic and its folder, put together and run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from mqcore.client._admin import Admin
from mqcore.client._consumed import Message
from mqcore.client._consumer import Consumer
from mqcore.client._handling import Bury, Handler, Handling
from mqcore.client._options import HandlingOptions
from mqcore.client._producer import Producer
from mqcore.client._recovery import RecoveryFolder
from mqcore.errors import ConfigurationError, MqcoreError
from mqcore.ports import DeviceThread, Ports
from mqcore.registry import create_filter, structure_options

__all__ = ["Openers", "handle_topic"]


@attrs.frozen
class Openers:
    """What of a client this needs: its verbs that open a consumer and a producer, and its requests."""

    admin: Admin
    consumer: Callable[..., AbstractAsyncContextManager[Consumer]]
    producer: Callable[..., AbstractAsyncContextManager[Producer]]


_OPTIONS = frozenset(field.name for field in attrs.fields(HandlingOptions))
_SLOTS_MAX = 65_536


def _log_it(error: MqcoreError) -> None:
    logging.getLogger("mqcore.client").error("%s", error)


async def handle_topic(
    client: Openers,
    ports: Ports,
    wall_ns: Callable[[], int],
    topic: str,
    handler: Handler,
    options: Mapping[str, Any],
    report: Callable[[MqcoreError], None] | None,
) -> None:
    """See ``Client.handle``."""
    own = {name: value for name, value in options.items() if name in _OPTIONS}
    others = {name: value for name, value in options.items() if name not in _OPTIONS}
    settings = structure_options(HandlingOptions, own, "handle")
    if others.get("group") is not None:
        # A handler has its own time, and what is held back waits for handlers, not for a program that hangs.
        others |= {"commit": "manual", "poll_interval_max_ms": 0}
    chosen = None if settings.filter is None else create_filter(settings.filter)
    if chosen is not None and chosen.tags and not others.get("tags"):
        others["tags"] = tuple(chosen.tags)
    found = await client.admin.resolve_topic(topic)
    dead_letter = settings.dead_letter or found.config.get("dead_letter")
    if dead_letter == topic:
        raise ConfigurationError(f"topic {topic!r} cannot be its own dead-letter topic; name another one")
    recovery, thread = await _recovery(ports, settings, found.partitions)
    try:
        async with client.consumer(topic, **others) as consumer:
            handling = Handling(
                consumer,
                handler,
                settings,
                bury=_burier(client, dead_letter) if dead_letter else None,
                chosen=chosen,
                recovery=recovery,
                thread=thread,
                wall_ns=wall_ns,
                report=report or _log_it,
            )
            await handling.run()
    finally:
        if thread is not None:
            await thread.aclose()
        if recovery is not None:
            recovery.close()


async def _recovery(
    ports: Ports, settings: HandlingOptions, partitions: int
) -> tuple[RecoveryFolder | None, DeviceThread | None]:
    if settings.recovery_dir is None:
        return None, None
    directory, slots = settings.recovery_dir, min(_SLOTS_MAX, settings.in_flight_max * partitions + 1)
    thread = ports.threads.start("recovery")
    try:
        folder = await thread.run(lambda: RecoveryFolder(ports.files, directory, settings.recovery_bytes_max, slots))
    except BaseException:
        await thread.aclose()
        raise
    return folder, thread


def _burier(client: Openers, dead_letter: str) -> Bury:
    async def bury(message: Message, history: tuple[tuple[str, bytes], ...]) -> None:
        # A producer for each: dead letters are rare, and the topic may have been made, or made anew, in between.
        async with client.producer(dead_letter) as producer:
            await producer.send(message.value, message.key, (*message.headers, *history), tag=message.tag)

    return bury
