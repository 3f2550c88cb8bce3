"""What administrative requests return: values of their own, made from the JSON of docs/protocol.md.

A key that this version does not know is passed over: a broker of a later release may say more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import attrs
import cattrs

from mqcore.errors import RemoteProtocolError
from mqcore.protocol import Code

__all__ = [
    "BrokerStatus",
    "PartitionState",
    "Position",
    "TopicDescription",
    "TopicInfo",
    "TopicSummary",
    "read_result",
]

R = TypeVar("R")


class Position(NamedTuple):
    """A place in a partition: the offset of the next message, and the epoch of the one before it (0: unknown)."""

    offset: int
    epoch: int


@attrs.frozen(kw_only=True)
class TopicSummary:
    """A topic: its name, its id (32 hexadecimal digits, never used again) and its number of partitions."""

    name: str
    id: str
    partitions: int


@attrs.frozen(kw_only=True)
class TopicInfo(TopicSummary):
    """A topic with its configuration: ``config`` has the keys that differ from their defaults."""

    config: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class PartitionState:
    """What one partition holds.

    Offsets: ``start_offset`` of the first message, ``committed_offset`` up to which consumers see, ``durable_offset``
    up to which a flush has covered, ``end_offset`` of the next append. ``bytes``: size of the log. ``epoch``: of its
    last batch. ``failure``: why it stopped, or None. ``damaged``: ranges that cannot be read, each the first offset and
    the one after the last.
    """

    partition: int
    start_offset: int
    committed_offset: int
    durable_offset: int
    end_offset: int
    bytes: int
    epoch: int
    failure: str | None
    damaged: tuple[tuple[int, int], ...]


@attrs.frozen(kw_only=True)
class TopicDescription(TopicInfo):
    """A topic with what each of its partitions holds: ``logs``, by number."""

    logs: tuple[PartitionState, ...]


@attrs.frozen(kw_only=True)
class BrokerStatus:
    """Facts of a running broker: which node it is, where it listens, what it is busy with.

    ``storage`` has the URL and what the storage says of itself. ``reigns``: whether it is the primary now; what follows
    is zero when not. ``unflushed_bytes``: acknowledged and not yet covered by a flush. ``failures``: why partitions
    stopped, the first of ``partitions_failed``.
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


_converter = cattrs.Converter()


def read_result(value: object, kind: type[R]) -> R:
    """Return ``value`` as ``kind``; ``RemoteProtocolError`` when it is not the JSON of one."""
    try:
        return _converter.structure(value, kind)
    except Exception as error:  # whatever cattrs raises for what a peer sent
        text = f"the server answered what is no {kind.__name__}: {value!r:.200}"
        raise RemoteProtocolError(text, code=Code.MALFORMED_FRAME) from error
