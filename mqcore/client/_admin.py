"""Administration: topics, offsets, status, what a part of the running broker does on request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from mqcore.client._results import Position, read_result
from mqcore.client._router import Router
from mqcore.operations import BrokerStatus, TopicDescription, TopicInfo, TopicSummary

__all__ = ["Admin"]


class Admin:
    """Requests to the broker that are not about messages.

    Every method raises ``RejectedError`` (``name`` and ``code`` say
    why), ``RequestFailedError`` and ``NotReachedError``; those that change something also ``OutcomeUnknownError``, as
    when the connection broke before the answer. If cancelled, the request may have been carried out.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, object] | None = None
    ) -> TopicInfo:
        """Create a topic and return it; ``config`` as in docs/composing.md (``flush``, ``visible``, ...)."""
        arguments: dict[str, object] = {"name": name, "partitions": partitions, "config": dict(config or {})}
        return read_result(await self._router.call("topic.create", arguments, is_repeatable=False), TopicInfo)

    async def alter_topic(
        self, name: str, partitions: int | None = None, config: Mapping[str, object] | None = None
    ) -> TopicInfo:
        """Change a topic's configuration, or give it more partitions (never fewer), and return it."""
        arguments: dict[str, object] = {"name": name, "config": dict(config or {})}
        if partitions is not None:
            arguments["partitions"] = partitions
        return read_result(await self._router.call("topic.alter", arguments, is_repeatable=True), TopicInfo)

    async def delete_topic(self, name: str) -> str:
        """Delete a topic with all its messages; return its id (32 hexadecimal digits)."""
        found = await self._router.call("topic.delete", {"name": name}, is_repeatable=False)
        return str(found["id"])

    async def list_topics(self) -> list[TopicSummary]:
        """Return every topic, by name."""
        topics: list[TopicSummary] = []
        while True:
            arguments: dict[str, object] = {"after": topics[-1].name} if topics else {}
            page = read_result(
                await self._router.call("topic.list", arguments, is_repeatable=True), tuple[TopicSummary, ...]
            )
            if not page:
                return topics
            topics += page

    async def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic with its configuration and what each partition holds."""
        arguments: dict[str, object] = {"name": name}
        topic: TopicDescription | None = None
        while True:
            value = await self._router.call("topic.describe", arguments, is_repeatable=True)
            page = read_result(value, TopicDescription)
            topic = page if topic is None else attrs.evolve(topic, logs=topic.logs + page.logs)
            if not page.logs or page.logs[-1].partition + 1 >= topic.partitions:
                return topic
            arguments["after"] = page.logs[-1].partition

    async def resolve_topic(self, name: str) -> TopicInfo:
        """Return a topic's id, partitions and configuration; its logs are not opened for it."""
        return read_result(await self._router.call("topic.resolve", {"name": name}, is_repeatable=True), TopicInfo)

    async def look_up_offset(self, topic: str, partition: int, at: str | int | datetime) -> Position:
        """Return the position at ``"start"``, at ``"end"`` or at a time.

        A time (``datetime`` with a zone, or ms since 1970 UTC) stands for the first message that the broker took in
        then or later.
        """
        moment = time_ms(at) if isinstance(at, datetime) else at
        arguments: dict[str, object] = {"topic": topic, "partition": partition, "at": moment}
        found = await self._router.call("offsets.lookup", arguments, is_repeatable=True)
        return Position(int(found["offset"]), int(found["epoch"]))

    async def status(self) -> BrokerStatus:
        """Return facts of the running broker."""
        return read_result(await self._router.call("broker.status", {}, is_repeatable=True), BrokerStatus)

    async def operate(self, part: str, operation: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Ask a part of the running broker for one of its own operations and return what it answers."""
        request: dict[str, object] = {"part": part, "operation": operation, "arguments": dict(arguments or {})}
        return await self._router.call("operate", request, is_repeatable=False)


def time_ms(moment: datetime) -> int:
    """``moment`` in ms since 1970 UTC; ValueError when it names no zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} names no time zone: use datetime.now(timezone.utc) or .astimezone()")
    return int(moment.timestamp() * 1000)
