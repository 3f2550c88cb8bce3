"""The keys of a broker's configuration, one attrs class per table; the metadata is what the documentation prints.

Values only: where they come from is ``_load``'s subject, what they promise is ``mqcore.guarantees``'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import attrs
from attrs import validators

from mqcore.batch import PRIVATE_TAG_MIN
from mqcore.config._names import check_topic_name
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
    "StorageTable",
    "TopicConfig",
]

DEFAULT_LISTEN = "tcp://127.0.0.1:7400"
"""Where ``mqcore serve`` listens when nothing says otherwise. An embedded broker listens nowhere by itself."""

T = TypeVar("T")

_ARGUMENTS = {"sync": ("copies", "level", "on_missing"), "async": ("max_delay_ms", "on_exceeded"), "none": ()}
_at_least_one = validators.optional(validators.ge(1))


def _key(default: T, help: str, validator: Any = None) -> T:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


def _table(help: str) -> Mapping[str, Any]:
    return attrs.field(factory=dict, metadata={"help": help})


@attrs.frozen(kw_only=True)
class StorageTable:
    """Table ``[storage]``: the URL that picks the storage backend, and options of that backend."""

    url: str = attrs.field(metadata={"help": "the storage backend and where it stores, as in mmap:///var/lib/mqcore"})
    options: Mapping[str, object] = _table("options of the backend, as in its URL's query")


@attrs.frozen(kw_only=True)
class ListenTable:
    """Table ``[[listen]]``: the URL of one listener, and options of its transport."""

    url: str = attrs.field(
        metadata={"help": "where to listen, as in tcp://127.0.0.1:7400 or unix:///run/mqcore.sock"}
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
        bounds = [
            name for name in ("max_messages", "max_bytes", "max_interval_ms") if getattr(self, name) is not None
        ]
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
        None, "sync: sends wait or are rejected while too few nodes are in the set"
    )
    max_delay_ms: int | None = _key(None, "async: how far a replica may trail", _at_least_one)
    on_exceeded: Literal["report", "throttle"] | None = _key(None, "async: what happens when it trails farther")

    def __attrs_post_init__(self) -> None:
        names = [name for group in _ARGUMENTS.values() for name in group]
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
class TopicConfig:
    """Table ``[topics.NAME]``: one topic. What is not set follows the broker."""

    partitions: int = _key(1, "partitions; can be raised later, never lowered", validators.ge(1))
    flush: FlushPolicy | None = _key(None, "flush policy of this topic; else the broker's")
    weakest_send: FlushPolicy | None = _key(None, "weakest flush policy that one send may ask for; else the topic's")
    visible: Literal["committed", "stable"] = _key(
        "committed", "consumers see what meets the topic's policy, or only what is flushed and held by the whole set"
    )
    private_tags: tuple[int, ...] = _key(
        (),
        "tags of private codecs and body encodings, 128 to 255, that its batches may have",
        validators.deep_iterable(validators.and_(validators.ge(PRIVATE_TAG_MIN), validators.le(255))),
    )


@attrs.frozen(kw_only=True)
class BrokerConfig:
    """Everything that a broker is composed from."""

    name: str = _key(
        "mqcore", "name of the broker in logs and replies", validators.matches_re(r"[A-Za-z0-9._-]{1,64}")
    )
    storage: StorageTable = attrs.field(metadata={"help": "the storage backend"})
    listen: tuple[ListenTable, ...] = _key((), "where to listen, one table each")
    flush: FlushTable = _key(FlushTable(), "flush policy")
    replication: ReplicationTable = _key(ReplicationTable(), "replication policy")
    role: Literal["primary", "replica"] = _key(
        "primary", "what this node is in its replica set; replica is refused: replication is not built in this version"
    )
    survive: tuple[Fault, ...] = _key((), "faults that lose nothing acknowledged, or the broker refuses to start")
    log_level: Literal["debug", "info", "warning", "error"] = _key("info", "least severe lines to log")
    limits: Limits = _key(Limits(), "bounds of everything that could grow")
    topics: Mapping[str, TopicConfig] = _table("topics made at start if they are missing")

    def __attrs_post_init__(self) -> None:
        urls = [listener.url for listener in self.listen]
        for url in urls:
            if urls.count(url) > 1:
                raise ConfigurationError(f"listen: {url} is given twice")
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
