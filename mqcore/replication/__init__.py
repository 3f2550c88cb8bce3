"""Replication as state machines: what may be acknowledged, and when. No I/O, no clock, no trio."""

from mqcore.replication._beginning import RecoveredRecord, first_record, no_record, recovered_record
from mqcore.replication._by_hand import ManualPromotion, judge_promotion, newest_record, reason_to_wait
from mqcore.replication._candidates import Candidacy, LogTip, NodeState, check_arbiter, judge_candidacy, logs_to_fetch
from mqcore.replication._commit import Appended, CommitRule, LogEnd, Released
from mqcore.replication._first_sync import SyncPace, SyncProgress, SyncState
from mqcore.replication._lease import ClockReading, LeaseHolder, LeaseObserver, LeaseTerms, LeaseValue
from mqcore.replication._members import InSyncSet, Member
from mqcore.replication._membership import FollowerFacts, Membership, WantedChange
from mqcore.replication._policy import CommitPolicy, capped_replication
from mqcore.replication._reconcile import Counts, Held, PartsAt, cut_of_divergence, judge_report
from mqcore.replication._record import NODES_PER_SET_MAX, RECORD_BYTES_MAX, SetRecord
from mqcore.replication._window import AsyncWindow, UnflushedTotal

__all__ = [
    "NODES_PER_SET_MAX",
    "RECORD_BYTES_MAX",
    "Appended",
    "AsyncWindow",
    "Candidacy",
    "ClockReading",
    "CommitPolicy",
    "CommitRule",
    "Counts",
    "FollowerFacts",
    "Held",
    "InSyncSet",
    "LeaseHolder",
    "LeaseObserver",
    "LeaseTerms",
    "LeaseValue",
    "LogEnd",
    "LogTip",
    "ManualPromotion",
    "Member",
    "Membership",
    "NodeState",
    "PartsAt",
    "RecoveredRecord",
    "Released",
    "SetRecord",
    "SyncPace",
    "SyncProgress",
    "SyncState",
    "UnflushedTotal",
    "WantedChange",
    "check_arbiter",
    "capped_replication",
    "cut_of_divergence",
    "first_record",
    "judge_candidacy",
    "judge_promotion",
    "judge_report",
    "logs_to_fetch",
    "newest_record",
    "reason_to_wait",
    "no_record",
    "recovered_record",
]
