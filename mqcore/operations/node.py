"""The running node: its facts, and what its parts do on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["BrokerStatus", "DescribeBroker", "Operate", "ReloadBroker", "ReloadedBroker"]


@attrs.frozen(kw_only=True)
class DescribeBroker:
    """Return facts of the running broker."""


@attrs.frozen(kw_only=True)
class Operate:
    """Ask the part called ``part`` (a URL's scheme) for one of its own operations."""

    part: str
    operation: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ReloadBroker:
    """Read the configuration file again, under the flags and the environment that the broker was started with."""


@attrs.frozen(kw_only=True)
class ReloadedBroker:
    """What became of the configuration: keys that were ``applied`` and those ``waiting`` for a restart.

    Each with its old and its new value, as text. ``file``: which one was read.
    """

    file: str
    applied: Mapping[str, tuple[str, str]]
    waiting: Mapping[str, tuple[str, str]]


@attrs.frozen(kw_only=True)
class BrokerStatus:
    """Facts of a running broker: which node it is, where it listens, what it is busy with.

    ``storage`` has the URL and what the storage says of itself. ``reigns``: whether it is the primary now; what follows
    is of its copies where it is a replica. ``partitions_open``: logs of topics. ``unflushed_bytes``: acknowledged and
    not yet covered by a flush, none on a replica. ``failures``: why partitions stopped, the first of
    ``partitions_failed``. ``groups_refused``: why no group is served now; empty: they are, or it is a replica.
    ``refusing``: why logs take nothing in at the moment, as on a full disk; they go on by themselves.
    """

    name: str
    node_id: str
    incarnation: int
    epoch: int
    listen: tuple[str, ...]
    storage: Mapping[str, Any]
    connections: int
    connections_max: int
    sessions: int
    reigns: bool
    topics: int = 0
    partitions_open: int = 0
    flushes: int = 0
    logs_flushed: int = 0
    unflushed_bytes: int = 0
    partitions_failed: int = 0
    failures: tuple[str, ...] = ()
    groups_refused: str = ""
    refusing: tuple[str, ...] = ()
