"""What an acknowledgement means: levels, policies, clauses, the oracle, promises. Pure: no I/O, no clock, no trio."""

from mqcore.guarantees.build import (
    Build,
    OnDegraded,
    TopicBuild,
    at_least_as_strong,
    least_level,
    level_for,
    resolve_flush,
)
from mqcore.guarantees.clauses import CLAUSES, Clause, clauses_as_markdown
from mqcore.guarantees.copies import Copy
from mqcore.guarantees.explain import Explanation, explain
from mqcore.guarantees.faults import SURVIVED, Fault, survives
from mqcore.guarantees.levels import Level
from mqcore.guarantees.oracle import (
    FaultEvent,
    HeldCopy,
    Promotion,
    SendOutcome,
    Sent,
    SentReceipt,
    may_survive,
    must_survive,
)
from mqcore.guarantees.policies import (
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.guarantees.policy_text import format_flush, format_replication, parse_flush, parse_replication
from mqcore.guarantees.promises import (
    Bound,
    LossExtent,
    Promise,
    PromiseTable,
    placements,
    promise_table,
    promise_tables,
    weakest_receipt,
)
from mqcore.guarantees.refusals import Refusal, check_available, check_build, raise_refusals

__all__ = [
    "CLAUSES",
    "SURVIVED",
    "AsyncFlush",
    "AsyncReplication",
    "Bound",
    "Build",
    "Clause",
    "Copy",
    "Explanation",
    "Fault",
    "FaultEvent",
    "FlushPolicy",
    "HeldCopy",
    "Level",
    "LossExtent",
    "NoFlush",
    "NoReplication",
    "OnDegraded",
    "Promise",
    "PromiseTable",
    "Promotion",
    "Refusal",
    "ReplicationPolicy",
    "SendOutcome",
    "Sent",
    "SentReceipt",
    "SyncFlush",
    "SyncReplication",
    "TopicBuild",
    "at_least_as_strong",
    "check_available",
    "check_build",
    "clauses_as_markdown",
    "explain",
    "format_flush",
    "format_replication",
    "least_level",
    "level_for",
    "may_survive",
    "must_survive",
    "parse_flush",
    "parse_replication",
    "placements",
    "promise_table",
    "promise_tables",
    "raise_refusals",
    "resolve_flush",
    "survives",
    "weakest_receipt",
]
