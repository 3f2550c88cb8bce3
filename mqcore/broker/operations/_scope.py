"""What the operations of all subjects share: what they may use of the node, and pages of a reply."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from mqcore.broker._gate import Permit
from mqcore.broker._reign import Reign
from mqcore.broker._roles import RoleKeeper
from mqcore.errors import RejectedError
from mqcore.limits import Limits
from mqcore.log import LogStore
from mqcore.operations import ReloadedBroker, to_json

__all__ = ["AdminScope", "Page"]

_REPLY_BYTES_BESIDE = 2048
"""Of the limit, for what a reply says beside its entries."""

EntryT = TypeVar("EntryT")


@attrs.frozen
class AdminScope:
    """What an operation may use: the node's limits, its store, its present reign (``RejectedError``: there is none).

    ``roles``: who decides the node's role in its set; None for a broker that is in none. ``permit``: what who
    asks may do; None: everything. ``reload``: reads the configuration file again; None: there is none.
    """

    limits: Limits
    store: LogStore
    reign: Callable[[], Reign]
    status: Callable[[], dict[str, object]]
    operate: Callable[[str, str, Mapping[str, Any]], Awaitable[object]]
    roles: RoleKeeper | None = None
    permit: Permit | None = None
    reload: Callable[[], Awaitable[ReloadedBroker]] | None = None

    def may_describe(self, topic: str) -> bool:
        """Whether who asks may know of the topic called ``topic``."""
        return self.permit is None or self.permit.allows("describe", f"topic:{topic}")

    def may_describe_group(self, name: str) -> bool:
        """Whether who asks may know of the consumer group called ``name``."""
        return self.permit is None or self.permit.allows("describe", f"group:{name}")

    def may_describe_producer(self, name: str) -> bool:
        """Whether who asks may know of the producer called ``name``."""
        return self.permit is None or self.permit.allows("describe", f"producer:{name}")

    def topic_name(self, topic_id: str) -> str:
        """Return the name of the topic with this id (hexadecimal); empty when it is not known here and now."""
        try:
            key = bytes.fromhex(topic_id)  # as who carries it out reads it: large letters and spaces name the same one
        except ValueError:
            return ""
        follower = self.roles.follower if self.roles is not None else None
        try:
            topics = follower.topics if follower is not None else self.reign().topics
        except RejectedError:
            return ""
        topic = topics.by_id.get(key)
        return topic.name if topic is not None else ""


class Page(Generic[EntryT]):
    """Entries of one reply, as many as its limit and its bytes allow, and never none."""

    def __init__(self, limits: Limits, limit: int) -> None:
        self.entries: list[EntryT] = []
        self._limit = limit
        self._bytes_left = limits.admin_bytes_max - _REPLY_BYTES_BESIDE

    def take(self, entry: EntryT) -> bool:
        """Add ``entry`` and return True; False when it must be left for the next page."""
        self._bytes_left -= len(json.dumps(to_json(entry))) + 2
        if self.entries and (self._bytes_left < 0 or len(self.entries) >= self._limit):
            return False
        self.entries.append(entry)
        return True
