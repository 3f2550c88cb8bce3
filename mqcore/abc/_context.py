"""What a part is given when it is composed, besides its URL and its options: never a broker, never a global."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import attrs

from mqcore.abc._tls import TlsOptions
from mqcore.errors import FlushFailedError
from mqcore.limits import Limits
from mqcore.ports import Ports

__all__ = [
    "CoordinatorContext",
    "Notice",
    "OffsetStoreContext",
    "StorageContext",
    "TransportContext",
    "ignore_notice",
]


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
    what an operator should know; it is called in Trio's thread. ``limits`` are those of the broker or client. ``tls``
    is what an encrypting transport shows and believes where its own options say nothing. ``admits``: who listens calls
    ``Link.admit`` of each link whose peer is known, so that the others may be held to less.
    """

    # A transport gets no ports: its sockets come from trio.socket, where a model network stands in for all of them.
    random: random.Random = attrs.field(factory=random.SystemRandom)
    report: Callable[[Notice], None] = ignore_notice
    limits: Limits = attrs.field(factory=Limits)
    tls: TlsOptions = attrs.field(factory=TlsOptions)
    admits: bool = False


@attrs.frozen(kw_only=True)
class CoordinatorContext:
    """What a coordinator is given when it is composed.

    ``call_timeout_ms`` bounds every call but ``watch``; the broker takes a part of its lease for it. ``report`` takes
    what an operator should know; it is called in Trio's thread. Sockets come from ``trio.socket``, all else from
    ``ports``.
    """

    ports: Ports
    limits: Limits = attrs.field(factory=Limits)
    report: Callable[[Notice], None] = ignore_notice
    call_timeout_ms: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class OffsetStoreContext:
    """What an offset store is given when it is composed.

    ``call_timeout_ms`` bounds every call. ``report`` takes what an operator should know; it is called in Trio's thread.
    Sockets come from ``trio.socket``, all else from ``ports``.
    """

    ports: Ports
    limits: Limits = attrs.field(factory=Limits)
    report: Callable[[Notice], None] = ignore_notice
    call_timeout_ms: int = attrs.field(default=5_000, validator=attrs.validators.ge(1))
