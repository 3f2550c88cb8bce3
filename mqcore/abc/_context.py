"""What a part is given when it is composed, besides its URL and its options: never a broker, never a global."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import attrs

from mqcore.errors import FlushFailedError
from mqcore.limits import Limits
from mqcore.ports import Ports

__all__ = ["Notice", "StorageContext", "TransportContext", "ignore_notice"]


@attrs.frozen
class Notice:
    """Something that an operator should know: stable ``kind`` such as ``segment-damaged``, a sentence, and facts."""

    kind: str
    text: str
    facts: Mapping[str, object] = attrs.field(factory=dict)


def ignore_notice(notice: object) -> None:
    """Do nothing with ``notice``: what reports are given to where no one asked for them."""


@attrs.frozen(kw_only=True)
class StorageContext:
    """What a storage backend is given when it is composed.

    ``report`` takes what an operator should know. ``stopped`` is called with the logs that stopped after a failed flush
    (clause G11), in Trio's thread and soon: also, and above all, when no call was there to raise the error.
    """

    ports: Ports
    limits: Limits = attrs.field(factory=Limits)
    report: Callable[[Notice], None] = ignore_notice
    stopped: Callable[[FlushFailedError], None] = ignore_notice


@attrs.frozen(kw_only=True)
class TransportContext:
    """What a transport is given when it is composed.

    ``random`` is the only source of randomness that a transport uses, so that one seed repeats a run. ``report`` takes
    what an operator should know; it is called in Trio's thread. ``limits`` are those of the broker or client.
    """

    # A transport gets no ports: its sockets come from trio.socket, where a model network stands in for all of them.
    random: random.Random = attrs.field(factory=random.SystemRandom)
    report: Callable[[Notice], None] = ignore_notice
    limits: Limits = attrs.field(factory=Limits)
