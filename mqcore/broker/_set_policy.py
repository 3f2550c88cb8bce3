"""What follows from the policies of a set's topics for a node of it: the policy of the logs that everything else stands
on (R13), and whether the node reports flushed positions only (R2 b).
"""

from __future__ import annotations

from collections.abc import Iterable

from mqcore.abc import Capabilities
from mqcore.guarantees import Level, NoFlush, SyncFlush, SyncReplication
from mqcore.log import LogStore
from mqcore.replication import CommitPolicy, SetRecord

__all__ = ["may_report_flushed_only", "strongest_policy", "vouched_level"]


def strongest_policy(
    record: SetRecord | None, capabilities: Capabilities, *, copies_min: int, is_manual: bool
) -> CommitPolicy:
    """Return the policy by the ``record`` of a set (None: a broker that is alone), never by what a topic says.

    ``copies_min``: the most that a topic asks for. ``is_manual``: people say who reigns (R16).
    """
    flush = SyncFlush() if capabilities.flush_level >= Level.DISK else NoFlush()
    if record is None:
        return CommitPolicy(flush=flush)
    copies = max(record.copies_min, copies_min)
    if not is_manual:
        # By the members there are, whatever the topics ask for: any of them may reign next. By hand a member that
        # is away stays one, and a set that waits for no copies goes on without it.
        copies = max(copies, len(record.members))
    if min(copies, record.copies_cap or copies) < 2:
        # Who joins a set of one holds all of it (R6), as only what is stable is committed.
        return CommitPolicy(flush=flush, stable_only=not is_manual)
    level = max(capabilities.append_level, min(capabilities.flush_level, Level.DISK))
    # Held by every member of the set anyway; and more copies than two would keep the third node from being
    # admitted where that is a batch of this log.
    return CommitPolicy(flush=flush, replication=SyncReplication(copies=2, level=level))


def may_report_flushed_only(capabilities: Capabilities, policies: Iterable[CommitPolicy]) -> bool:
    """Whether a node can report flushed positions only, and nothing waits any longer for that; ``policies``: of the
    topics, or where there are none of new ones. The logs of no topic never stand in the way.
    """
    return capabilities.flush_level >= Level.DISK and all(policy.counts_flushed_only for policy in policies)


def vouched_level(store: LogStore) -> Level:
    """Level that a node vouches for of what it has not flushed; none if it reports flushed positions only (R2 b)."""
    return Level.NONE if store.flushed_only else store.backend.capabilities.append_level
