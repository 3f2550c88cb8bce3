"""The wire protocol as pure state machines (no I/O): ``Connection`` of a client, ``FollowStream`` of a replica.

Their messages and codes are here too; docs/protocol.md has the bytes.
"""

from mqcore.protocol._connection import VERSION_MAX, VERSION_MIN, Connection
from mqcore.protocol._follow_messages import (
    CommittedOffsets,
    Credit,
    Diverged,
    Follow,
    Followed,
    FollowKind,
    FollowMessage,
    Heartbeat,
    LogCommitted,
    LogData,
    LogNamed,
    LogPositions,
    PositionRefused,
    Positions,
)
from mqcore.protocol._follow_state import FOLLOW_TRANSITIONS, FollowRole
from mqcore.protocol._follow_stream import FollowStream
from mqcore.protocol._messages import (
    Call,
    End,
    Failed,
    Fatal,
    Fetch,
    Fetched,
    Hello,
    Kind,
    Message,
    Ping,
    Pong,
    Produce,
    Produced,
    Result,
    SendPolicy,
    Welcome,
)
from mqcore.protocol._state import TRANSITIONS, Role, State
from mqcore.protocol.codes import Code, RequestFailedError, error_for

__all__ = [
    "Call",
    "Code",
    "CommittedOffsets",
    "Connection",
    "Credit",
    "Diverged",
    "End",
    "FOLLOW_TRANSITIONS",
    "Failed",
    "Fatal",
    "Fetch",
    "Fetched",
    "Follow",
    "FollowKind",
    "FollowMessage",
    "FollowRole",
    "FollowStream",
    "Followed",
    "Heartbeat",
    "Hello",
    "Kind",
    "LogCommitted",
    "LogData",
    "LogNamed",
    "LogPositions",
    "Message",
    "Ping",
    "Pong",
    "PositionRefused",
    "Positions",
    "Produce",
    "Produced",
    "RequestFailedError",
    "Result",
    "Role",
    "SendPolicy",
    "State",
    "TRANSITIONS",
    "VERSION_MAX",
    "VERSION_MIN",
    "Welcome",
    "error_for",
]
