"""The catalogue of topics: what the metadata log says (rule R13). No partition is opened here.

Creation is acknowledged when its record is durable, before the first partition log exists; deletion is a durable record
first, files later. A topic has a random id, and its logs are named by id, so that a name used again meets no old bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from mqcore.abc import Notice
from mqcore.broker._metadata_room import MetadataRoom
from mqcore.broker._topic_config import config_from_json, config_to_json, refused
from mqcore.config import TopicConfig, check_topic_name
from mqcore.errors import CorruptionError, FlushFailedError, MqcoreError, RejectedError, StorageError
from mqcore.limits import Limits
from mqcore.log import LogStart, LogStore, MetadataLog, SnapshotAt, encode_record, partition_log_name
from mqcore.ports import Ports
from mqcore.protocol import Code
from mqcore.replication import SetRecord

__all__ = ["Topic", "Topics", "delete_logs", "report_unknown_logs", "topic_names"]

RECORD_TYPES = (
    "topic-created",
    "topic-altered",
    "topic-deleted",
    "topic-removed",
    "topics-gone",
    "set-record",
    "log-starts",
)

_COMPACT_RECORDS_MIN = 4096
_STARTS_PER_RECORD = 1000
_A_TURN, _TOPIC_COST = 1000, 20
"""Starts of logs that a replica takes in, in some milliseconds, before others have their turn; a topic costs more."""
_GONE_MAX = 10_000
"""Deleted topics that are remembered: a node that was away for more of them keeps their logs, and reports them."""
_GONE_ID_BYTES = 40
_SAID = "by_name", "by_id", "deleted", "gone", "starts", "set_record", "_newest_record", "_room", "_records"
"""What a catalogue has of the records that it took in."""


@attrs.frozen
class Topic:
    """A topic: its random 16-byte id, its name and its configuration.

    ``sets``: the sets that own its partitions, in turn; none where the broker's own set owns them all.
    """

    id: bytes
    name: str
    config: TopicConfig
    sets: tuple[str, ...] = ()

    @property
    def partitions(self) -> int:
        """Number of partitions."""
        return self.config.partitions

    def owner_of(self, index: int) -> str | None:
        """Name of the set that owns a partition; None: the broker's own."""
        return self.sets[index % len(self.sets)] if self.sets else None


def topic_names(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names by id (hexadecimal) of the topics of these records, deleted ones too as long as they are remembered."""
    return {str(record["id"]): str(record["name"]) for record in records if "id" in record and "name" in record}


async def delete_logs(store: LogStore, topic_ids: Collection[bytes]) -> None:
    """Remove the logs of topics that were deleted, those that are still there. Raises ``StorageError``.

    If cancelled, some are still there; idempotent.
    """
    prefixes = {topic_id.hex() for topic_id in topic_ids}
    # Those in memory, too: a log that was never written to has no file, and would stay there for ever.
    known = {*await store.list_logs(), *store.opened_logs()} if prefixes else set[str]()
    names = sorted(name for name in known if name.partition("-")[0] in prefixes)
    for index, name in enumerate(names):
        # With the first, one flush forgets the ends of all of them.
        await store.delete_log(name, *(() if index else names))


async def report_unknown_logs(
    store: LogStore, topics: Topics, limits: Limits, report: Callable[[Notice], None]
) -> None:
    """Report logs that belong to no topic; they are kept as they are. Raises ``StorageError``."""
    known = {partition_log_name(each.id, index) for each in topics.by_id.values() for index in range(each.partitions)}
    known.update(topics.starts)  # the broker's own, too
    unknown = [name for name in await store.list_logs() if name not in known]
    if unknown:
        shown = unknown[: limits.log_names_reported_max]
        text = f"{len(unknown)} logs belong to no topic; they are kept as they are"
        report(Notice("unknown-logs", text, {"logs": shown}))


def _record_of_set(record: SetRecord) -> dict[str, Any]:
    return {"type": "set-record", "record": record.pack().decode()}


def _record_of_topic(kind: str, topic: Topic) -> dict[str, Any]:
    sets = {"sets": list(topic.sets)} if topic.sets else {}
    return {"type": kind, "id": topic.id.hex(), "name": topic.name, "config": config_to_json(topic.config), **sets}


def _starts_records(starts: Mapping[str, LogStart]) -> Iterator[dict[str, Any]]:
    names = sorted(starts)
    for begin in range(0, len(names), _STARTS_PER_RECORD):
        part = names[begin : begin + _STARTS_PER_RECORD]
        yield {"type": "log-starts", "starts": {name: starts[name].to_json() for name in part}}


async def _told_at_once(topic_id: bytes) -> None:
    """There is no other set."""


async def _not_minded(config: TopicConfig) -> None:
    """Nobody has to make ready for it."""


class _UnknownRecord(Exception):
    """A record of a type that this version does not have."""


class Topics:
    """The topics of one broker, in memory and in the metadata log. One change at a time.

    ``is_copied``: replicas copy the log, so that it is not made short here: see ``MetadataShortener``.
    """

    def __init__(
        self,
        metadata: MetadataLog,
        limits: Limits,
        ports: Ports,
        report: Callable[[Notice], None],
        *,
        is_copied: bool = False,
    ) -> None:
        self._is_copied = is_copied
        self._report = report
        self._metadata = metadata
        self._limits = limits
        self._random = ports.random
        self._room = MetadataRoom(limits.batch_bytes_max)
        self._records = 0
        self._position = 0
        self._changing = trio.Lock()
        self.set_names: tuple[str, ...] = ()
        """The sets over which new topics are spread; none where there is one set."""
        self.before_write: Callable[[TopicConfig], Awaitable[None]] = _not_minded
        """Awaited with the configuration of a topic that is about to be made or altered."""
        self.changed: Callable[[bytes], None] = lambda topic_id: None
        """Called with the id of each topic that was made, altered or deleted."""
        self.told: Callable[[bytes], Awaitable[None]] = _told_at_once
        """Waits until the other sets of the cluster know of a change."""
        self.set_record: SetRecord | None = None
        """The record of the set, where the metadata log keeps it (R16)."""
        self._newest_record: SetRecord | None = None
        self.starts: dict[str, LogStart] = {}
        """Where retention has let logs begin, by log name (R15)."""
        self.by_name: dict[str, Topic] = {}
        self.by_id: dict[bytes, Topic] = {}
        self.deleted: dict[bytes, None] = {}  # deleted topics whose logs are not known to be gone
        self.gone: dict[bytes, None] = {}  # every deleted topic: this node may have been away meanwhile
        self.in_doubt: dict[bytes, MqcoreError] = {}  # topics of which only the next start can say if they are deleted

    async def replay(self) -> None:
        """Read the metadata log to its end.

        Raises ``CorruptionError`` on a record that means nothing, ``StorageError`` (kind ``foreign``) on a whole one
        that says what only another version of mqcore knows: a type, a key, a value.
        """
        self._take(await self._metadata.replay())

    async def take_committed(self, committed_offset: int) -> None:
        """Take in what a copied metadata log has new below ``committed_offset``. Raises as ``replay``."""
        records, replaced, position = await self._metadata.committed_after(self._position, committed_offset)
        if replaced:
            await self._take_anew(records)
        else:
            self._take(records)
        self._position = position  # not before: what cannot be applied is met, and said, again and not passed over

    async def _take_anew(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Have what ``records`` say in the place of all that was known, in one step; others run before that."""
        fresh = copy.copy(self)
        fresh.by_name, fresh.by_id, fresh.deleted, fresh.starts, fresh.gone = {}, {}, {}, {}, dict(self.gone)
        fresh._room = MetadataRoom(self._limits.batch_bytes_max)
        taken = 0
        for record in records:
            fresh._take([record])
            taken += _TOPIC_COST + len(record.get("starts", ()))
            if taken >= _A_TURN:
                taken = 0
                await trio.lowlevel.checkpoint()
        fresh._forget(topic_id for topic_id in self.by_id if topic_id not in fresh.by_id)
        for name in _SAID:
            setattr(self, name, getattr(fresh, name))

    def _take(self, records: Sequence[Mapping[str, Any]]) -> None:
        for record in records:
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
        if kind == "set-record":
            self.set_record = self._newest_record = SetRecord.unpack(
                str(record["record"]).encode(), where="metadata log"
            )
            return
        if kind == "log-starts":
            for name, value in record["starts"].items():
                begins, before = LogStart.from_json(value), self.starts.get(name)
                if before is None or begins > before:  # a log's start never goes back (R15)
                    self.starts[name] = begins
            return
        if kind == "topics-gone":
            self._forget(map(bytes.fromhex, record["ids"]))
            return
        topic_id = bytes.fromhex(record["id"])
        if kind in ("topic-created", "topic-altered"):
            sets = tuple(str(name) for name in record.get("sets", ()))
            topic = Topic(topic_id, record["name"], config_from_json(record["config"]), sets)
            self.by_name[topic.name] = topic
            self.by_id[topic_id] = topic
            self._room.take(topic_id, len(encode_record(record)), topic.partitions)
        elif kind == "topic-deleted":
            topic = self.by_id.pop(topic_id)
            del self.by_name[topic.name]
            self._room.give_back(topic_id)
            self.deleted[topic_id] = None
            self._forget([topic_id])
            for index in range(topic.partitions):
                self.starts.pop(partition_log_name(topic_id, index), None)
        else:
            self.deleted.pop(topic_id, None)
        self.changed(topic_id)

    def _forget(self, topic_ids: Iterable[bytes]) -> None:
        """Remember that topics are gone, for logs of them that turn up; the oldest give way."""
        self.gone.update(dict.fromkeys(topic_ids))
        for topic_id in list(self.gone)[: max(0, len(self.gone) - _GONE_MAX)]:
            del self.gone[topic_id]

    def get(self, name: str, *, to_use: bool = True) -> Topic:
        """Return the topic called ``name``.

        ``RejectedError`` (unknown-topic) says how to make it if it is wanted ``to_use``; ``ConfigurationError`` for a
        name that no topic can have.
        """
        topic = self.by_name.get(name)
        if topic is None:
            check_topic_name(name, self._limits)
            remedy = f"make it with 'mqcore topic create {name}'" if to_use else "'mqcore topic list' shows them all"
            raise refused(Code.UNKNOWN_TOPIC, f"no topic {name!r} here: {remedy}")
        return topic

    async def create(self, name: str, config: TopicConfig) -> Topic:
        """Create a topic; durable when it returns. If cancelled, it may exist."""
        check_topic_name(name, self._limits)
        async with self._changing:
            if name in self.by_name:
                raise refused(Code.TOPIC_EXISTS, f"topic {name!r} exists already")
            self._check_room(config.partitions, topics=1)
            topic_id = self._random.randbytes(16)
            # Each topic begins at another set: many topics of one partition are spread like one of many.
            first = topic_id[0] % max(len(self.set_names), 1)
            sets = self.set_names[first:] + self.set_names[:first]
            await self._write_topic("topic-created", Topic(topic_id, name, config, sets))
            return self.by_name[name]

    async def place(self, topic: Topic) -> bool:
        """Take a topic over as the map of topics has it; return whether anything was new. Durable when it returns."""
        check_topic_name(topic.name, self._limits)
        async with self._changing:
            known = self.by_id.get(topic.id)
            if known == topic or topic.id in self.gone:  # of a primary that has not heard of it: the map is further
                return False
            if known is None and topic.name in self.by_name:
                raise refused(Code.TOPIC_EXISTS, f"another topic {topic.name!r} exists already, of this set alone")
            self._check_room(topic.partitions - (known.partitions if known else 0), topics=int(known is None))
            await self._write_topic("topic-created" if known is None else "topic-altered", topic)
            return True

    async def _write_topic(self, kind: str, topic: Topic) -> None:
        record = _record_of_topic(kind, topic)
        size = len(encode_record(record))
        if self._is_copied and (why_not := self._room.refusal(topic.id, size, topic.partitions)):
            raise refused(Code.LIMIT_REACHED, why_not)
        await self.before_write(topic.config)
        await self._write(record)

    async def alter(self, name: str, changes: Mapping[str, Any], check: Callable[[str, TopicConfig], None]) -> Topic:
        """Change keys of a topic's configuration (``None`` sets one back to its default); partitions only grow.

        ``check`` is given the name and what comes of it, after every change before this one; it raises what refuses it.
        """
        async with self._changing:
            topic, config = self.get(name, to_use=False), self._altered_config(name, changes)
            check(name, config)
            self._check_room(config.partitions - topic.partitions)
            await self._write_topic("topic-altered", attrs.evolve(topic, config=config))
            return self.by_id[topic.id]

    def _altered_config(self, name: str, changes: Mapping[str, Any]) -> TopicConfig:
        topic = self.get(name, to_use=False)
        plain = {**config_to_json(topic.config), **changes}
        config = config_from_json({key: value for key, value in plain.items() if value is not None})
        if config.partitions < topic.partitions:
            raise refused(
                Code.INVALID_REQUEST,
                f"topic {name!r} has {topic.partitions} partitions; they can be raised, never lowered "
                f"(asked: {config.partitions})",
            )
        return config

    async def delete(self, name: str) -> Topic:
        """Delete a topic from the catalogue, durably; its logs are the caller's to remove, then ``removed``."""
        async with self._changing:
            topic = self.get(name, to_use=False)
            await self._write({"type": "topic-deleted", "id": topic.id.hex()})
            return topic

    async def removed(self, topic_id: bytes) -> None:
        """Note that the logs of a deleted topic are gone."""
        async with self._changing:
            await self._write({"type": "topic-removed", "id": topic_id.hex()})

    async def write_set_record(self, record: SetRecord, appended: Callable[[], None] = lambda: None) -> None:
        """Write the record of the set; committed when it returns. Beside any change of a topic, which may wait for it.

        ``appended`` is called when it is in the log. Raises as ``MetadataLog.append``. If cancelled, it may be written.
        """

        def now_in_log() -> None:
            self._newest_record = record  # for a snapshot, which may come before this is committed
            appended()

        await self._metadata.append([_record_of_set(record)], now_in_log)
        self.set_record = record

    @property
    def failed(self) -> StorageError | None:
        """Why no change can be written any more; None while they can."""
        return self._metadata.failed

    async def write_starts(self, starts: Mapping[str, LogStart]) -> None:
        """Write where logs begin from now on, by name; committed when it returns, and theirs to trim then.

        Raises as ``MetadataLog.append``. If cancelled, it may be written.
        """
        for record in _starts_records(starts):
            async with self._changing:
                with trio.CancelScope(shield=True):
                    await self._metadata.append([record])
                    self._apply(record)
                    await self._count_record()

    async def write_snapshot(self) -> None:
        """Write all that is in force anew, in the place of what the metadata log has said so far. Committed.

        Raises as ``MetadataLog.write_snapshot``. If cancelled, it may be written.
        """
        async with self._changing:
            with trio.CancelScope(shield=True):
                await self._metadata.write_snapshot(self._state(), self._last, self._limits.batch_bytes_max)

    @property
    def snapshot(self) -> SnapshotAt | None:
        """Where the metadata log says all that was in force; None where it has not been made short yet."""
        return self._metadata.snapshot

    def began_anew(self) -> None:
        """Take in that the metadata log is another one, which begins elsewhere."""
        self._metadata.began_anew()

    def _check_room(self, partitions: int, topics: int = 0) -> None:
        limits = self._limits
        if len(self.by_name) + topics > limits.topics_max:
            raise refused(Code.LIMIT_REACHED, f"{limits.topics_max} topics exist already (limit topics_max)")
        in_all = sum(topic.partitions for topic in self.by_name.values()) + partitions
        if partitions > limits.partitions_per_topic_max or in_all > limits.partitions_max:
            raise refused(
                Code.LIMIT_REACHED,
                f"{partitions} more partitions: at most {limits.partitions_per_topic_max} a topic and "
                f"{limits.partitions_max} in all (limits partitions_per_topic_max, partitions_max)",
            )

    async def _write(self, record: Mapping[str, Any]) -> None:
        """Write a record and apply it, both or neither: a caller that leaves between would part memory from disk."""
        with trio.CancelScope(shield=True):
            try:
                await self._metadata.append([record])
            except MqcoreError as error:
                if record["type"] == "topic-deleted" and self._metadata.failed is not None:
                    self.in_doubt[bytes.fromhex(record["id"])] = error
                raise
            self._apply(record)
            await self._count_record()

    async def _count_record(self) -> None:
        self._records += 1
        if not self._is_copied and self._records > max(_COMPACT_RECORDS_MIN, 4 * len(self.by_id)):
            await self._compact()

    async def _compact(self) -> None:
        """Make the metadata log short again; what was stored before is in force whether that works or not."""
        self._records = len(self.by_id)
        try:
            await self._metadata.compact([*self._state(), *self._last(0)])
        except FlushFailedError:
            raise
        except MqcoreError as error:
            self._report(Notice("metadata-not-compacted", f"the metadata log stays as it is for now: {error}"))

    def _state(self) -> Iterable[dict[str, Any]]:
        """All that is in force, but for ``_last``: while it is read nothing is changed."""
        for topic in self.by_id.values():
            yield _record_of_topic("topic-created", topic)
        # A deleted topic whose files are not gone yet has to be remembered: created without a place, then deleted.
        for topic_id in self.deleted:
            yield {"type": "topic-created", "id": topic_id.hex(), "name": f".{topic_id.hex()}", "config": {}}
            yield {"type": "topic-deleted", "id": topic_id.hex()}
        yield from _starts_records(self.starts)

    def _last(self, room: int) -> list[dict[str, Any]]:
        """The record of the set, which may change beside topics; of deleted topics the last that there is room for."""
        last = [] if self._newest_record is None else [_record_of_set(self._newest_record)]
        room -= sum(len(encode_record(each)) for each in last) + _GONE_ID_BYTES
        gone = [topic_id.hex() for topic_id in self.gone if topic_id not in self.deleted] if self._is_copied else []
        kept = gone[max(0, len(gone) - max(0, room // _GONE_ID_BYTES)) :]
        return [*last, {"type": "topics-gone", "ids": kept}] if kept else last
