"""A build as far as promises go: what its storage declares, its policies, its topics, what it has to survive.

Computes what follows from these alone: the default flush policy, the level that an acknowledgement states, which of two
policies is the stronger. Must not know of URLs, files or running brokers.
"""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators

from mqcore.guarantees.faults import Fault
from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import (
    AsyncFlush,
    FlushPolicy,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.guarantees.policy_text import format_flush

__all__ = ["Build", "OnDegraded", "TopicBuild", "at_least_as_strong", "least_level", "level_for", "resolve_flush"]

OnDegraded = Literal["continue", "read-only", "require-sync-replication"]
"""What an operator has said that becomes of sends while a mirror has lost a member."""


@attrs.frozen(kw_only=True)
class TopicBuild:
    """One topic of a build.

    ``flush`` and ``replication`` None follow the broker, ``weakest_send`` None is the topic's own policy.
    """

    name: str
    partitions: int = attrs.field(default=1, validator=validators.ge(1))
    flush: FlushPolicy | None = None
    replication: ReplicationPolicy | None = None
    weakest_send: FlushPolicy | None = None
    visible: Literal["committed", "stable"] = "committed"


@attrs.frozen(kw_only=True)
class Build:
    """What promises are computed from.

    ``storage`` is the backend's URL, for messages; the levels are its declared capabilities.
    ``flush`` None takes the default (see ``resolve_flush``). ``nodes``: of the replica set; None while no set is
    stated, and then as many as the replication policy needs at least. ``coordinator``: an outside authority settles who
    is primary. ``total_bytes_max`` bounds what all logs together have acknowledged and not flushed. ``on_degraded``:
    what was said for a mirror that has lost a member; None: nothing was. ``array_below``: the operator declares that
    the disks below are mirrored.
    """

    storage: str
    append_level: Level
    flush_level: Level
    flush: FlushPolicy | None = None
    replication: ReplicationPolicy = attrs.field(factory=NoReplication)
    topics: tuple[TopicBuild, ...] = ()
    survive: tuple[Fault, ...] = ()
    total_bytes_max: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    nodes: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    coordinator: bool = False
    failover: Literal["manual", "automatic"] = "manual"
    on_degraded: OnDegraded | None = None
    array_below: bool = False

    @property
    def node_count(self) -> int:
        """Number of nodes of the replica set."""
        if self.nodes is not None:
            return self.nodes
        if isinstance(self.replication, SyncReplication):
            return self.replication.copies
        return 1 if isinstance(self.replication, NoReplication) else 2

    @property
    def flush_policy(self) -> FlushPolicy:
        """The broker's flush policy: the one given, else the default."""
        return resolve_flush(self.flush, self.flush_level)[0]

    def flush_of(self, topic: TopicBuild) -> FlushPolicy:
        """Return the flush policy of ``topic``: its own, else the broker's."""
        return topic.flush if topic.flush is not None else self.flush_policy

    def replication_of(self, topic: TopicBuild) -> ReplicationPolicy:
        """Return the replication policy of ``topic``: its own, else the broker's."""
        return topic.replication if topic.replication is not None else self.replication

    @property
    def replications(self) -> tuple[ReplicationPolicy, ...]:
        """The replication policies in use, the broker's first, each once."""
        return tuple(dict.fromkeys([self.replication, *map(self.replication_of, self.topics)]))


def resolve_flush(flush: FlushPolicy | None, flush_level: Level) -> tuple[FlushPolicy, str]:
    """Return the policy in force and one sentence for the start of the broker.

    Default: ``sync`` where a flush of the backend reaches disk, else ``none``.
    """
    if flush is not None:
        return flush, f"flush policy {format_flush(flush)}, as configured"
    if flush_level >= Level.DISK:
        return SyncFlush(), f"flush policy sync, by default: a flush of this storage reaches {flush_level.label}"
    return NoFlush(), f"flush policy none, by default: a flush of this storage reaches {flush_level.label}, not disk"


def level_for(
    flush: FlushPolicy,
    append_level: Level,
    flush_level: Level,
    replication: ReplicationPolicy = NoReplication(),  # noqa: B008 - a frozen value without fields
) -> Level:
    """Return the level that each copy counted by a receipt has reached when the reply goes out.

    Where the flush policy and synchronous replication ask for different levels, the stronger applies.
    """
    level = max(append_level, flush_level) if isinstance(flush, SyncFlush) else append_level
    return max(level, replication.level) if isinstance(replication, SyncReplication) else level


def least_level(build: Build, replication: ReplicationPolicy | None = None) -> Level:
    """Return the level below which a log takes no sends, and below which a flush acknowledges none.

    ``replication``: the policy of the log's topic, None for the broker's. Mirror, or what the storage reaches at best,
    where a mirror that has lost a member must acknowledge nothing; none where it goes on (docs/decisions/0020).
    """
    policy = build.replication if replication is None else replication
    covered = isinstance(policy, SyncReplication)
    waits = {
        "continue": False,
        "read-only": True,
        "require-sync-replication": not covered,
        # A promise that no one took back is kept by acknowledging nothing (guarantees, section 7).
        None: Fault.DISK_LOSS in build.survive and not covered and not build.array_below,
    }[build.on_degraded]
    return min(Level.MIRROR, build.flush_level) if waits else Level.NONE


def at_least_as_strong(policy: FlushPolicy, other: FlushPolicy) -> bool:
    """Whether ``policy`` promises all that ``other`` does: no bound of it is wider. Sync is strongest, none weakest."""
    if isinstance(policy, SyncFlush) or isinstance(other, NoFlush):
        return True
    if isinstance(policy, NoFlush) or isinstance(other, SyncFlush):
        return False
    return all(
        wide is None or (narrow is not None and narrow <= wide)
        for narrow, wide in zip(_bounds(policy), _bounds(other), strict=True)
    )


def _bounds(policy: AsyncFlush) -> tuple[int | None, int | None, int | None]:
    return policy.max_messages, policy.max_bytes, policy.max_interval_ms
