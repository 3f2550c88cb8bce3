"""Replication as state machines: what may be acknowledged, and when. No I/O, no clock, no trio."""

from mqcore.replication._commit import Appended, CommitRule, LogEnd, Released
from mqcore.replication._members import InSyncSet, Member
from mqcore.replication._policy import CommitPolicy
from mqcore.replication._window import AsyncWindow, UnflushedTotal

__all__ = [
    "Appended",
    "AsyncWindow",
    "CommitPolicy",
    "CommitRule",
    "InSyncSet",
    "LogEnd",
    "Member",
    "Released",
    "UnflushedTotal",
]
