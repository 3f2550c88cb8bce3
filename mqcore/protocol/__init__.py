"""The wire protocol as a pure state machine (no I/O): ``Connection``, its messages and codes. See docs/protocol.md."""

from mqcore.protocol._connection import VERSION_MAX, VERSION_MIN, Connection
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
    "VERSION_MAX",
    "VERSION_MIN",
    "Call",
    "Code",
    "Connection",
    "End",
    "Failed",
    "Fatal",
    "Fetch",
    "Fetched",
    "Hello",
    "Kind",
    "Message",
    "Ping",
    "Pong",
    "Produce",
    "Produced",
    "RequestFailedError",
    "Result",
    "Role",
    "SendPolicy",
    "State",
    "TRANSITIONS",
    "Welcome",
    "error_for",
]
