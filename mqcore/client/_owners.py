"""Which server of which set to ask about a topic, or about all of them: what each set has is asked of each."""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.client._admin import Admin
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.operations import TopicInfo

__all__ = ["Owners"]


class Owners:
    """Servers of the sets of a cluster; None stands for the one that the client is connected to."""

    def __init__(self, router: Router, admin: Admin) -> None:
        self._router = router
        self._admin = admin

    async def resolve(self, topic: str) -> TopicInfo:
        """Return a topic with the sets that own it, which the router knows from then on. Raises as ``Admin``."""
        found = await self._admin.resolve_topic(topic)
        self._router.learn(found)
        return found

    async def of_topic(self, topic: str) -> list[Session | None]:
        """A server of each set that owns some of ``topic``. Raises as ``Admin``."""
        found = await self.resolve(topic)
        return [session for session, _ in self.owned(found, range(found.partitions))]

    def owned(self, found: TopicInfo, partitions: Sequence[int]) -> list[tuple[Session | None, list[int]]]:
        """For each set that owns some of ``partitions`` its server, and which those are; by their first one."""
        if not found.owners:
            return [(None, list(partitions))]
        by_set: dict[int, list[int]] = {}
        for number in partitions:
            owner = found.owners[number] if number < len(found.owners) else found.owners[0]
            by_set.setdefault(owner, []).append(number)
        topic_id = bytes.fromhex(found.id)
        return [(self._router.owner_of(topic_id, own[0]), own) for own in by_set.values()]

    async def all(self) -> list[Session | None]:
        """A server of each set: found by way of topics, since every set is told of by the topics that it owns."""
        sessions: dict[str, Session | None] = {}
        for topic in await self._admin.list_topics():
            found = await self.resolve(topic.name)
            if not found.sets:
                break
            for session, own in self.owned(found, range(found.partitions)):
                sessions.setdefault(found.sets[found.owners[own[0]]].name, session)
        return list(sessions.values()) or [None]
