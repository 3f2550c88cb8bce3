"""What the operations of all subjects share: what they may use of the node, and pages of a reply."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs

from mqcore.broker._reign import Reign
from mqcore.limits import Limits
from mqcore.operations import to_json

__all__ = ["AdminScope", "Page"]

_REPLY_BYTES_BESIDE = 2048
"""Of the limit, for what a reply says beside its entries."""

EntryT = TypeVar("EntryT")


@attrs.frozen
class AdminScope:
    """What an operation may use: the node's limits, its present reign (``RejectedError`` when there is none)."""

    limits: Limits
    reign: Callable[[], Reign]
    status: Callable[[], dict[str, object]]
    operate: Callable[[str, str, Mapping[str, Any]], Awaitable[object]]


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
