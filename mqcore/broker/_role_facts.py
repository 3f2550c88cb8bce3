"""What a node's present role has: for ``mqcore status`` and for metrics, so that both say the same of one node.

Must not know who asks, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqcore.broker._copy import PartitionCopy
from mqcore.broker._cursor_log import CURSORS_KEY
from mqcore.broker._group_commit import GroupCommit
from mqcore.broker._partition import Partition
from mqcore.broker._reign import Reign
from mqcore.broker._roles import RoleKeeper
from mqcore.broker._topics import Topics

__all__ = ["RoleFacts"]

_FAILURES_SHOWN_MAX = 100


class RoleFacts:
    """Facts of ``reign``, or of what ``roles`` follows; with neither all of it is empty or zero."""

    def __init__(self, reign: Reign | None, roles: RoleKeeper | None) -> None:
        follower = None if roles is None else roles.follower
        role = reign or follower
        self.topics: Topics | None = None if role is None else role.topics
        self.group_commit: GroupCommit | None = None if role is None else role.group_commit
        self.unflushed_bytes = 0 if reign is None else reign.unflushed.bytes_now
        """Acknowledged and not flushed: a replica acknowledges nothing."""
        self._partitions = {} if reign is None else reign.partitions
        self._cursors = None if reign is None else reign.groups.cursors
        self._logs: Mapping[tuple[bytes, int], Partition | PartitionCopy] = (
            reign.partitions if reign is not None else follower.copies if follower is not None else {}
        )

    @property
    def topics_count(self) -> int:
        """How many topics are known."""
        return 0 if self.topics is None else len(self.topics.by_name)

    def partitions(self) -> Mapping[tuple[bytes, int], Partition | PartitionCopy]:
        """Open partitions of topics, or copies of them, by topic id and number."""
        # A replica keeps its copy of the set's cursors among them, which is no topic's.
        return {key: each for key, each in self._logs.items() if key != CURSORS_KEY}

    def failures(self) -> Sequence[str]:
        """Failures of partitions, each as it was reported; not of those that were closed as their role ended."""
        return [str(each.failure) for each in self._logs.values() if each.failure and not each.closure]

    def refusing(self) -> Sequence[str]:
        """Why sends are refused at the moment where the log is whole, as on a full disk; each reason is of one log."""
        logs = self._partitions.values()
        return [f"log {each.log.name}: {each.refusing}" for each in logs if each.refusing and not each.closure]

    def status(self) -> dict[str, object]:
        """The part of a broker's status that depends on its role, as JSON values."""
        failures = self.failures()
        commit = self.group_commit
        return {
            "topics": self.topics_count,
            "partitions_open": len(self.partitions()),
            "flushes": 0 if commit is None else commit.flushes,
            "logs_flushed": 0 if commit is None else commit.logs_flushed,
            "unflushed_bytes": self.unflushed_bytes,
            "partitions_failed": len(failures),
            "failures": failures[:_FAILURES_SHOWN_MAX],
            "refusing": self.refusing()[:_FAILURES_SHOWN_MAX],
            "groups_refused": "" if self._cursors is None else self._cursors.why_not_served,
        }
