"""Administration: topics, offsets, status, what a part of the running broker does on request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from mqcore.client._results import Position, ask
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.operations import (
    AlterTopic,
    BrokerStatus,
    ClockConfirmed,
    ConfirmClock,
    CreateTopic,
    DeletedTopic,
    DeleteTopic,
    DescribeBroker,
    DescribeTopic,
    FoundOffset,
    ListTopics,
    LookUpOffset,
    Operate,
    ReloadBroker,
    ReloadedBroker,
    ResolveTopic,
    TopicDescription,
    TopicInfo,
    TopicSummary,
)

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
        request = CreateTopic(name=name, partitions=partitions, config=dict(config or {}))
        return await ask(self._router, request, TopicInfo, is_repeatable=False)

    async def alter_topic(
        self, name: str, partitions: int | None = None, config: Mapping[str, object] | None = None
    ) -> TopicInfo:
        """Change a topic's configuration, or give it more partitions (never fewer), and return it."""
        request = AlterTopic(name=name, partitions=partitions, config=dict(config or {}))
        return await ask(self._router, request, TopicInfo, is_repeatable=True)

    async def delete_topic(self, name: str) -> str:
        """Delete a topic with all its messages; return its id (32 hexadecimal digits)."""
        return (await ask(self._router, DeleteTopic(name=name), DeletedTopic, is_repeatable=False)).id

    async def list_topics(self) -> list[TopicSummary]:
        """Return every topic, by name."""
        topics: list[TopicSummary] = []
        while True:
            request = ListTopics(after=topics[-1].name if topics else "")
            page = await ask(self._router, request, tuple[TopicSummary, ...], is_repeatable=True)
            if not page:
                return topics
            topics += page

    async def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic with its configuration and what each partition holds, whichever sets own them."""
        topic = await self._describe_at(name, None)
        self._router.learn(topic)
        for number in range(len(topic.sets)):
            owned = [partition for partition, owner in enumerate(topic.owners) if owner == number]
            if owned and owned[0] not in {log.partition for log in topic.logs}:
                session = self._router.owner_of(bytes.fromhex(topic.id), owned[0])
                logs = topic.logs + (await self._describe_at(name, session)).logs
                topic = attrs.evolve(topic, logs=tuple(sorted(logs, key=lambda log: log.partition)))
        return topic

    async def _describe_at(self, name: str, session: Session | None) -> TopicDescription:
        """Return a topic with the partitions of one set: of the one that ``session`` leads to, else of the home one."""
        topic: TopicDescription | None = None
        while True:
            request = DescribeTopic(name=name, after=topic.logs[-1].partition if topic else -1)
            page = await ask(self._router, request, TopicDescription, is_repeatable=True, at=session)
            topic = page if topic is None else attrs.evolve(topic, logs=topic.logs + page.logs)
            if not page.logs or page.logs[-1].partition + 1 >= topic.partitions:
                return topic

    async def resolve_topic(self, name: str) -> TopicInfo:
        """Return a topic's id, partitions and configuration; its logs are not opened for it."""
        return await ask(self._router, ResolveTopic(name=name), TopicInfo, is_repeatable=True)

    async def look_up_offset(self, topic: str, partition: int, at: str | int | datetime) -> Position:
        """Return the position at ``"start"``, at ``"end"`` or at a time; ``ValueError`` for what is none of these.

        A time (``datetime`` with a zone, or ms since 1970 UTC) stands for the first message that the broker took in
        then or later.
        """
        request = LookUpOffset(topic=topic, partition=partition, at=time_ms(at) if isinstance(at, datetime) else at)
        found = await ask(self._router, request, FoundOffset, is_repeatable=True)
        return Position(found.offset, found.epoch)

    async def confirm_clock(self) -> int:
        """Have the broker trim by age again although its wall clock was set; return by how much it was, in ms.

        Raises ``MqcoreError``. If cancelled, it may be confirmed.
        """
        return (await ask(self._router, ConfirmClock(), ClockConfirmed, is_repeatable=True)).step_ms

    async def reload(self) -> ReloadedBroker:
        """Have the broker read its configuration file again; return what was applied and what waits for a restart.

        Raises ``RejectedError`` when the file has an error, which changes nothing, or the broker has no file. If
        cancelled, it may have been applied.
        """
        return await ask(self._router, ReloadBroker(), ReloadedBroker, is_repeatable=True)

    async def status(self) -> BrokerStatus:
        """Return facts of the running broker."""
        return await ask(self._router, DescribeBroker(), BrokerStatus, is_repeatable=True)

    async def operate(self, part: str, operation: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Ask a part of the running broker for one of its own operations and return what it answers."""
        request = Operate(part=part, operation=operation, arguments=dict(arguments or {}))
        return await ask(self._router, request, None, is_repeatable=False)


def time_ms(moment: datetime) -> int:
    """``moment`` in ms since 1970 UTC; ValueError when it names no zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} names no time zone: use datetime.now(timezone.utc) or .astimezone()")
    return int(moment.timestamp() * 1000)
