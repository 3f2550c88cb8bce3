"""Flush and replication policies as values (guarantees, section 1)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs
from attrs import validators

from mqcore.guarantees.levels import Level

__all__ = [
    "AsyncFlush",
    "AsyncReplication",
    "FlushPolicy",
    "NoFlush",
    "NoReplication",
    "ReplicationPolicy",
    "SyncFlush",
    "SyncReplication",
]

_positive = validators.optional(validators.ge(1))


def _at_least_two(_: object, __: object, value: int) -> None:
    if value < 2:
        raise ValueError(f"copies = {value}: synchronous replication counts the primary too, so at least 2")


@attrs.frozen
class SyncFlush:
    """Acknowledge after a flush that covers the batch."""


@attrs.frozen(kw_only=True)
class AsyncFlush:
    """Acknowledge after the append; what is acknowledged and unflushed never exceeds these bounds, per log.

    Without any bound the defaults hold: 100 000 messages, 64 MiB, 1 s. Where a bound is given, one left out (``None``)
    is unbounded in that measure, and is printed so.
    """

    max_messages: int | None = attrs.field(default=None, validator=_positive)
    max_bytes: int | None = attrs.field(default=None, validator=_positive)
    max_interval_ms: int | None = attrs.field(default=None, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.max_messages is None and self.max_bytes is None and self.max_interval_ms is None:
            object.__setattr__(self, "max_messages", 100_000)
            object.__setattr__(self, "max_bytes", 64 * 1024 * 1024)
            object.__setattr__(self, "max_interval_ms", 1_000)


@attrs.frozen
class NoFlush:
    """Never flushed by the broker."""


@attrs.frozen
class NoReplication:
    """One copy, on this node."""


@attrs.frozen(kw_only=True)
class AsyncReplication:
    """Acknowledgements do not wait for replicas.

    ``on_missing``: what ``throttle`` does with sends while no member but the primary is left.
    """

    max_delay_ms: int = attrs.field(default=500, validator=validators.ge(1))
    on_exceeded: Literal["report", "throttle"] = attrs.field(
        default="report", validator=validators.in_(("report", "throttle"))
    )
    on_missing: Literal["block", "reject"] = attrs.field(default="block", validator=validators.in_(("block", "reject")))

    def __attrs_post_init__(self) -> None:
        if self.on_exceeded == "report" and self.on_missing != "block":
            raise ValueError("on_missing = reject: without meaning under on_exceeded = report, which goes on alone")


@attrs.frozen(kw_only=True)
class SyncReplication:
    """Acknowledged when every member of the in-sync set, at least ``copies`` of them, holds the batch at ``level``."""

    copies: int = attrs.field(default=2, validator=_at_least_two)
    level: Level = Level.PAGE_CACHE
    on_missing: Literal["block", "reject"] = attrs.field(default="block", validator=validators.in_(("block", "reject")))


FlushPolicy: TypeAlias = SyncFlush | AsyncFlush | NoFlush
"""When an acknowledgement waits for the disk."""
ReplicationPolicy: TypeAlias = NoReplication | AsyncReplication | SyncReplication
"""When an acknowledgement waits for other nodes."""
