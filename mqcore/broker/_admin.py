"""Administrative operations: what a ``call`` may ask of a broker, by name (table in docs/protocol.md).

Every handler checks its arguments itself: they come from a peer. A part's own operations go through ``operate``; the
core never names a part.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from mqcore.broker._reign import Reign
from mqcore.broker._topics import Topic, config_from_json, config_to_json
from mqcore.errors import MqcoreError, RejectedError
from mqcore.limits import Limits
from mqcore.protocol import Code

__all__ = ["AdminScope", "Operation", "OPERATIONS"]

LIST_PAGE = 10_000
DESCRIBE_PAGE = 1_000
"""Entries of one reply where the call names no ``limit``."""

DAMAGES_SHOWN_MAX = 100
"""Damaged ranges of one log that a description names."""

_REPLY_BYTES_BESIDE = 2048
"""Of the limit, for what a reply says beside its entries."""

@attrs.frozen
class AdminScope:
    """What an operation may use: the node's limits, its present reign (``RejectedError`` when there is none)."""

    limits: Limits
    reign: Callable[[], Reign]
    status: Callable[[], dict[str, object]]
    operate: Callable[[str, str, Mapping[str, Any]], Awaitable[object]]


Operation = Callable[[AdminScope, Mapping[str, Any]], Awaitable[object]]


def _invalid(text: str, code: Code = Code.INVALID_REQUEST) -> RejectedError:
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)


def _argument(arguments: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = arguments.get(name, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _invalid(f"argument {name!r} must be {kind.__name__}, not {value!r}")
    return value


def _only(arguments: Mapping[str, Any], *names: str) -> None:
    for name in arguments:
        if name not in names:
            raise _invalid(f"unknown argument {name!r}; known: {', '.join(names) or 'none'}")


class _Page:
    """Entries of one reply, as many as its limit and its bytes allow, and never none."""

    def __init__(self, limits: Limits, limit: int) -> None:
        if limit < 1:
            raise _invalid(f"argument 'limit' must be at least 1, not {limit}")
        self.entries: list[dict[str, object]] = []
        self._limit = limit
        self._bytes_left = min(limits.admin_bytes_max, limits.frame_bytes_max) - _REPLY_BYTES_BESIDE

    def take(self, entry: dict[str, object]) -> bool:
        """Add ``entry`` and return True; False when it must be left for the next page."""
        self._bytes_left -= len(json.dumps(entry)) + 2
        if self.entries and (self._bytes_left < 0 or len(self.entries) >= self._limit):
            return False
        self.entries.append(entry)
        return True


def _brief(topic: Topic) -> dict[str, object]:
    return {"name": topic.name, "id": topic.id.hex(), "partitions": topic.partitions}


async def _describe(reign: Reign, topic: Topic, after: int, page: _Page) -> dict[str, object]:
    for index in range(max(after, -1) + 1, topic.partitions):
        partition = await reign.open_partition(topic.id, index)
        log = partition.log
        damages = log.damages
        entry: dict[str, object] = {
            "partition": index,
            "start_offset": log.start_offset,
            "committed_offset": partition.committed_offset,
            "durable_offset": log.durable_offset,
            "end_offset": log.end_offset,
            "bytes": log.bytes_total,
            "epoch": log.epoch_at(log.end_offset),
            "failure": str(partition.failure) if partition.failure else None,
            "damaged": [[damage.first_offset, damage.next_offset] for damage in damages[:DAMAGES_SHOWN_MAX]],
        }
        if not page.take(entry):
            break
    return {**_brief(topic), "config": config_to_json(topic.config), "logs": page.entries}


async def _topic_create(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "name", "partitions", "config")
    reign = scope.reign()
    plain = dict(_argument(arguments, "config", dict, {}))
    plain.setdefault("partitions", _argument(arguments, "partitions", int, 1))
    name, config = _argument(arguments, "name", str), config_from_json(plain)
    reign.check_topic_config(name, config)
    topic = await reign.topics.create(name, config)
    return {**_brief(topic), "config": config_to_json(topic.config)}


async def _topic_list(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "after", "limit")
    reign = scope.reign()
    after = _argument(arguments, "after", str, "")
    page = _Page(scope.limits, _argument(arguments, "limit", int, LIST_PAGE))
    for name in sorted(name for name in reign.topics.by_name if name > after):
        if not page.take(_brief(reign.topics.by_name[name])):
            break
    return page.entries


async def _topic_describe(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "name", "after", "limit")
    reign = scope.reign()
    topic = reign.topics.get(_argument(arguments, "name", str), to_use=False)
    page = _Page(scope.limits, _argument(arguments, "limit", int, DESCRIBE_PAGE))
    return await _describe(reign, topic, _argument(arguments, "after", int, -1), page)


async def _topic_resolve(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "name")
    reign = scope.reign()
    topic = reign.topics.get(_argument(arguments, "name", str))
    return {**_brief(topic), "config": config_to_json(topic.config)}


async def _topic_alter(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "name", "partitions", "config")
    reign = scope.reign()
    changes = dict(_argument(arguments, "config", dict, {}))
    if "partitions" in arguments:
        changes["partitions"] = _argument(arguments, "partitions", int)
    topic = await reign.topics.alter(_argument(arguments, "name", str), changes, reign.check_topic_config)
    reign.topic_altered(reign.topics.by_id.get(topic.id, topic))  # another change may have come after this one
    return {**_brief(topic), "config": config_to_json(topic.config)}


async def _delete(reign: Reign, name: str) -> Topic:
    try:
        topic = await reign.topics.delete(name)
    except MqcoreError as error:
        for topic_id in list(reign.topics.in_doubt):
            await reign.retire_partitions(topic_id, Code.STORAGE_STOPPED, error)
        raise
    await reign.remove_logs(topic.id)
    return topic


async def _topic_delete(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "name")
    reign, name = scope.reign(), _argument(arguments, "name", str)
    deleted: list[Topic] = []
    with trio.CancelScope(shield=True):  # the caller may leave: a deletion that is durable goes on to its end
        deleted.append(await _delete(reign, name))
    return {"name": deleted[0].name, "id": deleted[0].id.hex()}


async def _offsets_lookup(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "topic", "partition", "at")
    reign = scope.reign()
    topic = reign.topics.get(_argument(arguments, "topic", str))
    partition = await reign.open_partition(topic.id, _argument(arguments, "partition", int))
    at = arguments.get("at")
    if at == "start":
        offset = partition.log.start_offset
    elif at == "end":
        offset = partition.committed_offset
    elif isinstance(at, int) and not isinstance(at, bool):
        offset = min(await partition.log.offset_at_time(at), partition.committed_offset)
    else:
        raise _invalid(f"argument 'at' must be \"start\", \"end\" or a time in ms since 1970, not {at!r}")
    return {"offset": offset, "epoch": partition.log.epoch_at(offset)}


async def _broker_status(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments)
    return scope.status()


async def _operate(scope: AdminScope, arguments: Mapping[str, Any]) -> object:
    _only(arguments, "part", "operation", "arguments")
    part = _argument(arguments, "part", str)
    operation = _argument(arguments, "operation", str)
    return await scope.operate(part, operation, _argument(arguments, "arguments", dict, {}))


OPERATIONS: dict[str, Operation] = {
    "broker.status": _broker_status,
    "offsets.lookup": _offsets_lookup,
    "operate": _operate,
    "topic.alter": _topic_alter,
    "topic.create": _topic_create,
    "topic.delete": _topic_delete,
    "topic.describe": _topic_describe,
    "topic.list": _topic_list,
    "topic.resolve": _topic_resolve,
}
