"""Topics: create, alter, delete, list, describe, resolve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from mqcore.operations.sets import ClusterSet

__all__ = [
    "AlterTopic",
    "CreateTopic",
    "DeleteTopic",
    "DeletedTopic",
    "DescribeTopic",
    "ListTopics",
    "PartitionState",
    "PlaceTopics",
    "PlacedTopic",
    "ResolveTopic",
    "TopicDescription",
    "TopicInfo",
    "TopicSummary",
]


@attrs.frozen(kw_only=True)
class CreateTopic:
    """Create a topic. ``config``: its keys as in docs/composing.md, ``partitions`` among them or beside them."""

    name: str
    partitions: int = 1
    config: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class AlterTopic:
    """Change a topic. ``partitions``: only more than now. ``config``: a key with None goes back to its default."""

    name: str
    partitions: int | None = None
    config: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class DeleteTopic:
    """Delete a topic with all its messages."""

    name: str


@attrs.frozen(kw_only=True)
class PlacedTopic:
    """A topic as the set that keeps the map of topics has it: ``config`` None says that it is deleted there.

    ``sets``: names of the sets that own its partitions, in turn; partition 0 is the first one's.
    """

    id: str
    name: str = ""
    config: Mapping[str, Any] | None = None
    sets: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PlaceTopics:
    """Take these topics over, as they are in the map: asked by the primary of the set that keeps it. Idempotent."""

    topics: tuple[PlacedTopic, ...]


@attrs.frozen(kw_only=True)
class ListTopics:
    """List topics by name: those ``after`` a name, at most ``limit``, as many as fit one reply."""

    after: str = ""
    limit: int = attrs.field(default=10_000, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class DescribeTopic:
    """Describe a topic and its partitions ``after`` a number, at most ``limit``, as many as fit one reply."""

    name: str
    after: int = -1
    limit: int = attrs.field(default=1_000, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class ResolveTopic:
    """Return what a client needs to use a topic; no log is opened for it."""

    name: str


@attrs.frozen(kw_only=True)
class DeletedTopic:
    """The topic that was deleted: its name, and its id in hexadecimal."""

    name: str
    id: str


@attrs.frozen(kw_only=True)
class TopicSummary:
    """A topic: its name, its id (32 hexadecimal digits, never used again) and its number of partitions."""

    name: str
    id: str
    partitions: int


@attrs.frozen(kw_only=True)
class TopicInfo(TopicSummary):
    """A topic with its configuration: ``config`` has the keys that differ from their defaults.

    In a cluster ``sets`` are the replica sets that own its partitions, and ``owners`` has for each partition the number
    of its set among them, counted from 0; both are empty where the broker is alone and owns them all.
    """

    config: Mapping[str, Any]
    sets: tuple[ClusterSet, ...] = ()
    owners: tuple[int, ...] = ()


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
