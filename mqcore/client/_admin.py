"""Administration: topics, offsets, status, what a part of the running broker does on request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mqcore.client._router import Router

__all__ = ["Admin"]


class Admin:
    """Requests to the broker that are not about messages.

    Results are the JSON values of docs/protocol.md. Every method raises ``RejectedError`` (``name`` and ``code`` say
    why), ``RequestFailedError`` and ``NotReachedError``; those that change something also ``OutcomeUnknownError``, as
    when the connection broke before the answer. If cancelled, the request may have been carried out.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Create a topic and return it; ``config`` as in docs/composing.md (``flush``, ``visible``, ...)."""
        arguments: dict[str, object] = {"name": name, "partitions": partitions, "config": dict(config or {})}
        return await self._request("topic.create", arguments, is_repeatable=False)

    async def alter_topic(
        self, name: str, partitions: int | None = None, config: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Change a topic's configuration, or give it more partitions (never fewer), and return it."""
        arguments: dict[str, object] = {"name": name, "config": dict(config or {})}
        if partitions is not None:
            arguments["partitions"] = partitions
        return await self._request("topic.alter", arguments, is_repeatable=True)

    async def delete_topic(self, name: str) -> dict[str, Any]:
        """Delete a topic with all its messages; return its name and id."""
        return await self._request("topic.delete", {"name": name}, is_repeatable=False)

    async def list_topics(self) -> list[dict[str, Any]]:
        """Return every topic: name, id, number of partitions."""
        topics: list[dict[str, Any]] = []
        while True:
            arguments = {"after": topics[-1]["name"]} if topics else {}
            page = await self._router.call("topic.list", arguments, is_repeatable=True)
            if not page:
                return topics
            topics += page

    async def describe_topic(self, name: str) -> dict[str, Any]:
        """Return a topic with its configuration and, for each partition, its offsets and size."""
        topic = await self._request("topic.describe", {"name": name}, is_repeatable=True)
        logs = topic["logs"]
        while logs and logs[-1]["partition"] + 1 < topic["partitions"]:
            arguments = {"name": name, "after": logs[-1]["partition"]}
            page = (await self._request("topic.describe", arguments, is_repeatable=True))["logs"]
            if not page:
                break
            logs += page
        return topic

    async def resolve_topic(self, name: str) -> dict[str, Any]:
        """Return a topic's id, partitions and configuration; its logs are not opened for it."""
        return await self._request("topic.resolve", {"name": name}, is_repeatable=True)

    async def look_up_offset(self, topic: str, partition: int, at: str | int | datetime) -> tuple[int, int]:
        """Return the position (offset, epoch) at ``"start"``, at ``"end"`` or at a time.

        A time (``datetime`` with a zone, or ms since 1970 UTC) stands for the first message that the broker took in
        then or later.
        """
        moment = time_ms(at) if isinstance(at, datetime) else at
        arguments: dict[str, object] = {"topic": topic, "partition": partition, "at": moment}
        result = await self._request("offsets.lookup", arguments, is_repeatable=True)
        return int(result["offset"]), int(result["epoch"])

    async def status(self) -> dict[str, Any]:
        """Return facts of the running broker."""
        return await self._request("broker.status", {}, is_repeatable=True)

    async def operate(self, part: str, operation: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Ask a part of the running broker for one of its own operations and return what it answers."""
        request: dict[str, object] = {"part": part, "operation": operation, "arguments": dict(arguments or {})}
        return await self._router.call("operate", request, is_repeatable=False)

    async def _request(self, operation: str, arguments: dict[str, object], *, is_repeatable: bool) -> dict[str, Any]:
        result = await self._router.call(operation, arguments, is_repeatable=is_repeatable)
        return dict(result)


def time_ms(moment: datetime) -> int:
    """``moment`` in ms since 1970 UTC; ValueError when it names no zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} names no time zone: use datetime.now(timezone.utc) or .astimezone()")
    return int(moment.timestamp() * 1000)
