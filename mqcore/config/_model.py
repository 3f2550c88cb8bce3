"""The keys of a broker's configuration, one attrs class per table; the metadata is what the documentation prints.

Values only: where they come from is ``_load``'s subject, what they promise is ``mqcore.guarantees``'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import attrs
from attrs import validators

from mqcore.abc import TlsOptions
from mqcore.batch import PRIVATE_TAG_MIN
from mqcore.config._access import AccessTable
from mqcore.config._cluster import NAME_PATTERN, ClusterTable, SetTable, check_own_node
from mqcore.config._names import check_topic_name
from mqcore.config._own_name import with_own_name
from mqcore.errors import ConfigurationError
from mqcore.guarantees.faults import Fault
from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import (
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.limits import Limits

__all__ = [
    "DEFAULT_LISTEN",
    "BrokerConfig",
    "FlushTable",
    "ListenTable",
    "ReplicationTable",
    "RetentionTable",
    "StorageTable",
    "TopicConfig",
]

DEFAULT_LISTEN = "tcp://127.0.0.1:7400"
"""Where ``mqcore serve`` listens when nothing says otherwise. An embedded broker listens nowhere by itself."""

T = TypeVar("T")

_ARGUMENTS = {
    "sync": ("copies", "level", "on_missing"),
    "async": ("max_delay_ms", "on_exceeded", "on_missing"),
    "none": (),
}
_at_least_one = validators.optional(validators.ge(1))
_at_least_zero = validators.optional(validators.ge(0))


def _key(default: T, help: str, validator: Any = None) -> T:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


def _table(help: str) -> Mapping[str, Any]:
    return attrs.field(factory=dict, metadata={"help": help})


@attrs.frozen(kw_only=True)
class StorageTable:
    """Table ``[storage]``: the URL that picks the storage backend, and options of that backend."""

    url: str = attrs.field(
        metadata={
            "help": "the storage backend and where it stores, as in mmap:///var/lib/mqcore; {name}: the broker's name"
        }
    )
    array: Literal["mirror"] | None = _key(
        None, 'mirror: what is below is mirrored (md, btrfs, a controller), which "disk-loss" may rely on'
    )
    options: Mapping[str, object] = _table("options of the backend, as in its URL's query")


@attrs.frozen(kw_only=True)
class ListenTable:
    """Table ``[[listen]]``: the URL of one listener, and options of its transport."""

    url: str = attrs.field(metadata={"help": "where to listen, as in tcp://127.0.0.1:7400 or unix:///run/mqcore.sock"})
    advertise: str | None = _key(
        None, "the URL that clients are sent to, where it is not this one: needed in a cluster behind a wildcard"
    )
    options: Mapping[str, object] = _table("options of the transport, as in its URL's query")


@attrs.frozen(kw_only=True)
class FlushTable:
    """Table ``[flush]``: when an acknowledgement waits for the disk. Bounds are per log (partition)."""

    policy: Literal["sync", "async", "none"] | None = _key(
        None,
        "sync: acknowledge after a flush; async: before it, within bounds; none: never flush; "
        "unset: sync where a flush reaches disk",
    )
    max_messages: int | None = _key(None, "async: messages acknowledged and not yet flushed", _at_least_one)
    max_bytes: int | None = _key(None, "async: bytes acknowledged and not yet flushed", _at_least_one)
    max_interval_ms: int | None = _key(None, "async: span of time in which those were acknowledged", _at_least_one)
    total_bytes_max: int | None = _key(
        None, "async: bytes acknowledged and not yet flushed, all partitions together", _at_least_one
    )

    def __attrs_post_init__(self) -> None:
        bounds = [name for name in ("max_messages", "max_bytes", "max_interval_ms") if getattr(self, name) is not None]
        if self.policy != "async" and bounds:
            raise ConfigurationError(
                f'{", ".join(bounds)}: bounds of an asynchronous flush; write policy = "async" too'
            )

    @property
    def value(self) -> FlushPolicy | None:
        """The policy, None where the backend decides (see ``mqcore.guarantees.resolve_flush``)."""
        if self.policy is None:
            return None
        if self.policy == "async":
            return AsyncFlush(
                max_messages=self.max_messages, max_bytes=self.max_bytes, max_interval_ms=self.max_interval_ms
            )
        return SyncFlush() if self.policy == "sync" else NoFlush()


@attrs.frozen(kw_only=True)
class ReplicationTable:
    """Table ``[replication]``: when an acknowledgement waits for other nodes."""

    policy: Literal["sync", "async", "none"] = _key("none", "wait for the in-sync set, do not wait, or one copy only")
    copies: int | None = _key(None, "sync: nodes that hold a message, the primary included; at least 2")
    level: Level | None = _key(None, "sync: level at which each of them holds it")
    on_missing: Literal["block", "reject"] | None = _key(
        None, "sync, throttle: sends wait or are rejected while too few nodes are in the set"
    )
    max_delay_ms: int | None = _key(None, "async: how far a replica may trail", _at_least_one)
    on_exceeded: Literal["report", "throttle"] | None = _key(None, "async: what happens when it trails farther")

    def __attrs_post_init__(self) -> None:
        names = dict.fromkeys(name for group in _ARGUMENTS.values() for name in group)
        foreign = [n for n in names if getattr(self, n) is not None and n not in _ARGUMENTS[self.policy]]
        if foreign:
            raise ConfigurationError(f'{", ".join(foreign)}: without meaning under policy = "{self.policy}"')
        try:
            _ = self.value
        except ValueError as error:
            raise ConfigurationError(str(error.args[0])) from None

    @property
    def value(self) -> ReplicationPolicy:
        """The policy."""
        given: dict[str, Any] = {
            name: getattr(self, name) for name in _ARGUMENTS[self.policy] if getattr(self, name) is not None
        }
        if self.policy == "sync":
            return SyncReplication(**given)
        return AsyncReplication(**given) if self.policy == "async" else NoReplication()


@attrs.frozen(kw_only=True)
class RetentionTable:
    """Table ``[retention]``: how long and how much of each log is kept, where its topic does not say. Unset: all."""

    age_ms: int | None = _key(None, "messages that are older go; of topics that do not say", _at_least_one)
    partition_bytes: int | None = _key(
        None, "the oldest messages of a partition go while it holds more than this; of topics that do not say",
        _at_least_one,
    )  # fmt: skip
    total_bytes: int | None = _key(
        None, "the oldest messages go, of whatever topic, while all partitions together hold more", _at_least_one
    )
    check_interval_ms: int = _key(10_000, "how often the primary looks for what is to go", validators.ge(1))
    clock_step_max_ms: int = _key(
        60_000, "nothing goes by age once the wall clock has been set by more than this", validators.ge(1)
    )
    sync_hold_max_ms: int = _key(
        3_600_000, "how long a replica that still copies a log holds up what it has not got", validators.ge(0)
    )


@attrs.frozen(kw_only=True)
class TopicConfig:
    """Table ``[topics.NAME]``: one topic. What is not set follows the broker."""

    partitions: int = _key(1, "partitions; can be raised later, never lowered", validators.ge(1))
    flush: FlushPolicy | None = _key(None, "flush policy of this topic; else the broker's")
    replication: ReplicationPolicy | None = _key(None, "replication policy of this topic; else the broker's")
    weakest_send: FlushPolicy | None = _key(None, "weakest flush policy that one send may ask for; else the topic's")
    visible: Literal["committed", "stable"] = _key(
        "committed", "consumers see what meets the topic's policy, or only what is flushed and held by the whole set"
    )
    retention_ms: int | None = _key(
        None, "messages that are older go; 0: never by age; else the broker's retention.age_ms", _at_least_zero
    )
    retention_bytes: int | None = _key(
        None, "the oldest messages of a partition go while it holds more; 0: never by size; else the broker's",
        _at_least_zero,
    )  # fmt: skip
    dead_letter: str | None = _key(
        None, "topic for messages that its consumers fail to handle; unset: none",
        validators.optional(validators.matches_re(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,200}\Z")),
    )  # fmt: skip
    private_tags: tuple[int, ...] = _key(
        (),
        "tags of private codecs and body encodings, 128 to 255, that its batches may have",
        validators.deep_iterable(validators.and_(validators.ge(PRIVATE_TAG_MIN), validators.le(255))),
    )


@attrs.frozen(kw_only=True)
class BrokerConfig:
    """Everything that a broker is composed from."""

    name: str = _key("mqcore", "name of the broker in logs and replies", validators.matches_re(NAME_PATTERN))
    storage: StorageTable = attrs.field(metadata={"help": "the storage backend"})
    listen: tuple[ListenTable, ...] = _key((), "where to listen, one table each")
    tls: TlsOptions = _key(TlsOptions(), "certificates of the listeners, and of this node when it connects to others")
    flush: FlushTable = _key(FlushTable(), "flush policy")
    replication: ReplicationTable = _key(ReplicationTable(), "replication policy")
    retention: RetentionTable = _key(RetentionTable(), "how long and how much is kept")
    survive: tuple[Fault, ...] = _key((), "faults that lose nothing acknowledged, or the broker refuses to start")
    insecure: bool = _key(False, "listen where other machines can reach it, though anybody may do anything there")
    http: str | None = _key(None, "HOST:PORT that shows /metrics, /health and /ready, to all who reach it; unset: none")
    offset_store: str | None = _key(
        None, "where cursors of groups are kept, as in postgres://10.0.0.7/mqcore; log, unset: in a log of the broker"
    )
    access: AccessTable | None = _key(None, "who may connect and what they may do; unset: everybody, everything")
    log_level: Literal["debug", "info", "warning", "error"] = _key("info", "least severe lines to log")
    limits: Limits = _key(Limits(), "bounds of everything that could grow")
    cluster: ClusterTable | None = _key(None, "the replica sets that this broker is in; unset: it is alone")
    topics: Mapping[str, TopicConfig] = _table("topics made at start if they are missing")

    def __attrs_post_init__(self) -> None:
        # One file serves every node of a cluster, on one machine too: what is a node's own may have its name in it.
        for key in ("storage", "listen", "tls"):
            object.__setattr__(self, key, with_own_name(getattr(self, key), self.name))
        if self.access is not None:
            object.__setattr__(self, "access", self.access.of_node(self.name))
        urls = [listener.url for listener in self.listen]
        for url in urls:
            if urls.count(url) > 1:
                raise ConfigurationError(f"listen: {url} is given twice")
        if self.cluster is not None:
            check_own_node(self.cluster, self.name, {each.url: each.advertise for each in self.listen})
            tied = [node.name for each in self.cluster.sets for node in each.nodes if node.principal is not None]
            if tied and (self.access is None or not self.access.authenticators):
                raise ConfigurationError(
                    f"node {tied[0]!r} has a principal, which nothing is held against without [access] and "
                    "authenticators: write them, or leave principal out"
                )
        for name, topic in self.topics.items():
            check_topic_name(name, self.limits)
            if topic.partitions > self.limits.partitions_per_topic_max:
                raise ConfigurationError(
                    f"topics.{name}.partitions: {topic.partitions} is more than partitions_per_topic_max, "
                    f"{self.limits.partitions_per_topic_max}"
                )
        total = sum(topic.partitions for topic in self.topics.values())
        for count, limit in ((len(self.topics), "topics_max"), (total, "partitions_max")):
            if count > getattr(self.limits, limit):
                raise ConfigurationError(f"topics: {count} in all, more than {limit}, {getattr(self.limits, limit)}")

    @property
    def own_set(self) -> SetTable | None:
        """The replica set that this broker is in, None when it is alone."""
        return None if self.cluster is None else self.cluster.set_of(self.name)
