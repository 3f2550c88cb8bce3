"""What an acknowledgement means: levels, policies, clauses and the oracle. Pure: no I/O, no clock, no trio."""

from mqcore.guarantees.levels import Level
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

__all__ = [
    "AsyncFlush",
    "AsyncReplication",
    "FlushPolicy",
    "Level",
    "NoFlush",
    "NoReplication",
    "ReplicationPolicy",
    "SyncFlush",
    "SyncReplication",
]
