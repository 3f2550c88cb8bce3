"""The catalogue of topics: what the metadata log says (rule R13). No partition is opened here.

Creation is acknowledged when its record is durable, before the first partition log exists; deletion is a durable record
first, files later. A topic has a random id, and its logs are named by id, so that a name used again meets no old bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import cattrs
import trio

from mqcore.abc import Notice
from mqcore.config import TopicConfig, check_topic_name
from mqcore.errors import CorruptionError, FlushFailedError, MqcoreError, RejectedError, StorageError
from mqcore.guarantees import FlushPolicy, format_flush, parse_flush
from mqcore.limits import Limits
from mqcore.log import MetadataLog
from mqcore.nurseries import root_cause
from mqcore.ports import Ports
from mqcore.protocol import Code

__all__ = ["Topic", "Topics", "config_from_json", "config_to_json", "topic_names"]

RECORD_TYPES = ("topic-created", "topic-altered", "topic-deleted", "topic-removed")

_COMPACT_RECORDS_MIN = 4096


@attrs.frozen
class Topic:
    """A topic: its random 16-byte id, its name and its configuration."""

    id: bytes
    name: str
    config: TopicConfig

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return self.config.partitions


_converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)
_converter.register_unstructure_hook_func(
    lambda hint: hint == FlushPolicy or hint == FlushPolicy | None,
    lambda policy: None if policy is None else format_flush(policy),
)
_converter.register_structure_hook_func(
    lambda hint: hint == FlushPolicy or hint == FlushPolicy | None,
    lambda text, _: None if text is None else parse_flush(str(text)),
)


def topic_names(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names by id (hexadecimal) of the topics of these records, deleted ones too as long as they are remembered."""
    return {str(record["id"]): str(record["name"]) for record in records if "id" in record and "name" in record}


def config_to_json(config: TopicConfig) -> dict[str, Any]:
    """The keys of ``config`` that differ from their defaults, as JSON values."""
    plain: dict[str, Any] = _converter.unstructure(config, TopicConfig)
    return plain


def config_from_json(plain: Mapping[str, Any]) -> TopicConfig:
    """The inverse of ``config_to_json``; ``RejectedError`` names an unknown key or a value that cannot be."""
    known = {field.name for field in attrs.fields(TopicConfig)}
    for key in plain:
        if key not in known:
            raise _refused(Code.INVALID_REQUEST, f"unknown topic key {key!r}; known: {', '.join(sorted(known))}")
    try:
        return _converter.structure(plain, TopicConfig)
    except Exception as error:
        cause = root_cause(error)
        text = f"configuration of the topic: {str(cause) or type(cause).__name__}"
        raise _refused(Code.INVALID_REQUEST, text) from None


class _UnknownRecord(Exception):
    """A record of a type that this version does not have."""


def _refused(code: Code, text: str) -> RejectedError:
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)


class Topics:
    """The topics of one broker, in memory and in the metadata log. One change at a time."""

    def __init__(
        self, metadata: MetadataLog, limits: Limits, ports: Ports, report: Callable[[Notice], None]
    ) -> None:
        self._report = report
        self._metadata = metadata
        self._limits = limits
        self._random = ports.random
        self._records = 0
        self._changing = trio.Lock()
        self.by_name: dict[str, Topic] = {}
        self.by_id: dict[bytes, Topic] = {}
        self.deleted: dict[bytes, None] = {}  # deleted topics whose logs are not known to be gone
        self.in_doubt: dict[bytes, MqcoreError] = {}  # topics of which only the next start can say if they are deleted

    async def replay(self) -> None:
        """Read the metadata log to its end.

        Raises ``CorruptionError`` on a record that means nothing, ``StorageError`` (kind ``foreign``) on a whole one
        that says what only another version of mqcore knows: a type, a key, a value.
        """
        for record in await self._metadata.replay():
            self._records += 1
            try:
                self._apply(record)
            except (RejectedError, _UnknownRecord) as error:
                text = f"record {record!r} says what this mqcore does not know: {error}; use the mqcore that wrote it"
                raise StorageError(f"metadata log: {text}", kind="foreign") from error
            except (KeyError, TypeError, ValueError) as error:
                text = f"record {record!r} cannot be applied: {error!r}"
                raise CorruptionError(text, where="metadata log") from error

    def _apply(self, record: Mapping[str, Any]) -> None:
        kind = record["type"]
        if kind not in RECORD_TYPES:
            raise _UnknownRecord(f"record type {kind!r}, which is none of {', '.join(RECORD_TYPES)}")
        topic_id = bytes.fromhex(record["id"])
        if kind in ("topic-created", "topic-altered"):
            topic = Topic(topic_id, record["name"], config_from_json(record["config"]))
            self.by_name[topic.name] = topic
            self.by_id[topic_id] = topic
        elif kind == "topic-deleted":
            topic = self.by_id.pop(topic_id)
            del self.by_name[topic.name]
            self.deleted[topic_id] = None
        else:
            self.deleted.pop(topic_id, None)

    def get(self, name: str, *, to_use: bool = True) -> Topic:
        """Return the topic called ``name``.

        ``RejectedError`` (unknown-topic) says how to make it if it is wanted ``to_use``; ``ConfigurationError`` for a
        name that no topic can have.
        """
        topic = self.by_name.get(name)
        if topic is None:
            check_topic_name(name, self._limits)
            remedy = f"make it with 'mqcore topic create {name}'" if to_use else "'mqcore topic list' shows them all"
            raise _refused(Code.UNKNOWN_TOPIC, f"no topic {name!r} here: {remedy}")
        return topic

    async def create(self, name: str, config: TopicConfig) -> Topic:
        """Create a topic; durable when it returns. If cancelled, it may exist."""
        check_topic_name(name, self._limits)
        async with self._changing:
            if name in self.by_name:
                raise _refused(Code.TOPIC_EXISTS, f"topic {name!r} exists already")
            self._check_room(config.partitions, topics=1)
            topic_id = self._random.randbytes(16)
            await self._write("topic-created", topic_id, name=name, config=config_to_json(config))
            return self.by_name[name]

    async def alter(
        self, name: str, changes: Mapping[str, Any], check: Callable[[str, TopicConfig], None]
    ) -> Topic:
        """Change keys of a topic's configuration (``None`` sets one back to its default); partitions only grow.

        ``check`` is given the name and what comes of it, after every change before this one; it raises what refuses it.
        """
        async with self._changing:
            topic, config = self.get(name, to_use=False), self._altered_config(name, changes)
            check(name, config)
            self._check_room(config.partitions - topic.partitions)
            await self._write("topic-altered", topic.id, name=name, config=config_to_json(config))
            return self.by_id[topic.id]

    def _altered_config(self, name: str, changes: Mapping[str, Any]) -> TopicConfig:
        topic = self.get(name, to_use=False)
        plain = {**config_to_json(topic.config), **changes}
        config = config_from_json({key: value for key, value in plain.items() if value is not None})
        if config.partitions < topic.partitions:
            raise _refused(
                Code.INVALID_REQUEST,
                f"topic {name!r} has {topic.partitions} partitions; they can be raised, never lowered "
                f"(asked: {config.partitions})",
            )
        return config

    async def delete(self, name: str) -> Topic:
        """Delete a topic from the catalogue, durably; its logs are the caller's to remove, then ``removed``."""
        async with self._changing:
            topic = self.get(name, to_use=False)
            await self._write("topic-deleted", topic.id)
            return topic

    async def removed(self, topic_id: bytes) -> None:
        """Note that the logs of a deleted topic are gone."""
        async with self._changing:
            await self._write("topic-removed", topic_id)

    def _check_room(self, partitions: int, topics: int = 0) -> None:
        limits = self._limits
        if len(self.by_name) + topics > limits.topics_max:
            raise _refused(Code.LIMIT_REACHED, f"{limits.topics_max} topics exist already (limit topics_max)")
        in_all = sum(topic.partitions for topic in self.by_name.values()) + partitions
        if partitions > limits.partitions_per_topic_max or in_all > limits.partitions_max:
            raise _refused(
                Code.LIMIT_REACHED,
                f"{partitions} more partitions: at most {limits.partitions_per_topic_max} a topic and "
                f"{limits.partitions_max} in all (limits partitions_per_topic_max, partitions_max)",
            )

    async def _write(self, kind: str, topic_id: bytes, **facts: Any) -> None:
        """Write a record and apply it, both or neither: a caller that leaves between would part memory from disk."""
        record = {"type": kind, "id": topic_id.hex(), **facts}
        with trio.CancelScope(shield=True):
            try:
                await self._metadata.append([record])
            except MqcoreError as error:
                if kind == "topic-deleted" and self._metadata.failed is not None:
                    self.in_doubt[topic_id] = error
                raise
            self._apply(record)
            self._records += 1
            if self._records > max(_COMPACT_RECORDS_MIN, 4 * len(self.by_id)):
                await self._compact()

    async def _compact(self) -> None:
        """Make the metadata log short again; what was stored before is in force whether that works or not."""
        self._records = len(self.by_id)
        try:
            await self._metadata.compact(self._state())
        except FlushFailedError:
            raise
        except MqcoreError as error:
            self._report(Notice("metadata-not-compacted", f"the metadata log stays as it is for now: {error}"))

    def _state(self) -> list[dict[str, Any]]:
        created = [
            {"type": "topic-created", "id": topic.id.hex(), "name": topic.name, "config": config_to_json(topic.config)}
            for topic in self.by_id.values()
        ]
        # A deleted topic whose files are not gone yet has to be remembered: created without a place, then deleted.
        deleted = [
            record
            for topic_id in self.deleted
            for record in (
                {"type": "topic-created", "id": topic_id.hex(), "name": f".{topic_id.hex()}", "config": {}},
                {"type": "topic-deleted", "id": topic_id.hex()},
            )
        ]
        return created + deleted
