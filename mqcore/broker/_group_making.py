"""What a group of consumers may be, and how one is made: names, limits, assignors. Must not know members.

Every group of a reign takes its generations from one source, so that one that ends and begins anew repeats none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from mqcore.abc import Assignor, Notice, check_cursor_name
from mqcore.broker._cursor_log import CursorLog
from mqcore.broker._group_entry import TopicGroup
from mqcore.broker._topics import Topic
from mqcore.config import BrokerConfig
from mqcore.errors import ConfigurationError, PluginError, RejectedError
from mqcore.groups import Assign, GroupMachine
from mqcore.limits import Limits
from mqcore.log import LogStore
from mqcore.protocol import Code
from mqcore.registry import find, installed

__all__ = ["GroupMaker", "MakerReign", "refused"]

_GATHER_US = 20_000
"""How long a change of a group waits for others: of many members that come at once each would be a change."""
_NAME_BYTES_MAX = 200
"""Longest name of a group, in bytes: what a frame carries."""


def refused(code: Code, text: str) -> RejectedError:
    """The error of a request that is refused."""
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)


class MakerReign(Protocol):
    """What is used of the reign."""

    config: BrokerConfig
    limits: Limits
    store: LogStore

    def own_partitions(self, topic: Topic) -> list[int]:
        """Numbers of the partitions that are here."""
        ...


class GroupMaker:
    """Makes the groups of ``reign``, which has its epoch when the first is made."""

    def __init__(self, reign: MakerReign, cursors: CursorLog, report: Callable[[Notice], None]) -> None:
        self._reign = reign
        self._cursors = cursors
        self._report = report
        self._assignors: dict[str, Assignor] = {}
        self._generations: itertools.count[int] | None = None

    def check_name(self, group: str) -> None:
        """Raise ``RejectedError`` for a name that no group can have."""
        try:
            check_cursor_name("group", group)
        except ConfigurationError as error:
            raise refused(Code.INVALID_REQUEST, str(error)) from None
        if len(group.encode()) > _NAME_BYTES_MAX:
            raise refused(Code.INVALID_REQUEST, f"group name of {len(group.encode())} bytes; at most {_NAME_BYTES_MAX}")

    def check_count(
        self, key: tuple[str, bytes], partitions: Sequence[int], groups: Collection[tuple[str, bytes]]
    ) -> None:
        """Raise ``RejectedError`` where one more group beside ``groups``, or more cursors, would be too many.

        ``partitions``: where the group is to have cursors.
        """
        limits, topics = self._reign.limits, self._cursors.table.topics
        known = topics.get(key)
        is_new = known is None and key not in groups
        # Most of them are in both: they are put together only where there may be too many.
        if is_new and len(groups) + len(topics) >= limits.groups_max and len({*groups, *topics}) >= limits.groups_max:
            raise refused(Code.LIMIT_REACHED, f"{limits.groups_max} groups exist already (limit groups_max)")
        new = sum(known is None or known.get(partition) is None for partition in partitions)
        if new and self._cursors.table.count + new > limits.cursors_max:
            raise refused(Code.LIMIT_REACHED, f"{limits.cursors_max} cursors exist already (limit cursors_max)")

    def make(
        self, key: tuple[str, bytes], topic: Topic, assignor: str, *, holds_until_us: int, told_ms: int
    ) -> TopicGroup:
        """Make a group. ``holds_until_us``: as of ``GroupMachine``; ``told_ms``: as of ``TopicGroup``.

        Raises ``RejectedError`` for an assignor that is not installed.
        """
        first = self._reign.store.epoch << 32
        if self._generations is None:
            self._generations = itertools.count(first + 1)
        machine = GroupMachine(
            self.assign_by(assignor, topic),
            self._reign.own_partitions(topic),
            generation=first,
            generations=self._generations,
            holds_until_us=holds_until_us,
            gather_us=_GATHER_US,
            complain=lambda text: self._report(
                Notice("assignor-failed", f"group {key[0]!r}: {group.assignor}: {text}")
            ),
        )
        group = TopicGroup(*key, assignor, machine, partitions=topic.partitions, told_ms=told_ms)
        return group

    def assign_by(self, assignor: str, topic: Topic) -> Assign:
        """How an assignor shares out what is here of a topic. Raises as ``assignor``."""
        part = self.assignor(assignor)
        own_set = self._reign.config.own_set
        turn = topic.sets.index(own_set.name) if own_set is not None and own_set.name in topic.sets else 0

        def assign(members: Sequence[str], partitions: Sequence[int], owners: Mapping[int, str]) -> Mapping[int, str]:
            # Each set begins with another member: where sets have a partition each, the first would get all of them.
            first = turn % len(members)
            return part.assign((*members[first:], *members[:first]), partitions, owners)

        return assign

    def assignor(self, name: str) -> Assignor:
        """An assignor by its name. Raises ``RejectedError`` for one that is not installed."""
        part = self._assignors.get(name)
        if part is None:
            try:
                part = self._assignors[name] = find("assignors", name)()
            except PluginError:
                known = ", ".join(sorted({each.name for each in installed("assignors")}))
                text = f"no assignor {name[:60]!r} is installed on this broker; installed: {known}"
                raise refused(Code.UNKNOWN_ASSIGNOR, text) from None
        return part
