"""The state table: which role may send what, when. Everything not listed is a protocol error.

Each side of a connection has a state; what a role sends moves its own. One rule ties them: the broker's welcome opens
the client's side too. The tables in docs/protocol.md are drawn from this one (a test compares).
"""

from __future__ import annotations

import enum

from mqcore.protocol._messages import Kind

__all__ = ["TRANSITIONS", "Role", "State", "next_states"]


class Role(enum.Enum):
    """Which end of the connection."""

    CLIENT = "client"
    BROKER = "broker"

    @property
    def other(self) -> Role:
        """The opposite end."""
        return Role.BROKER if self is Role.CLIENT else Role.CLIENT


class State(enum.Enum):
    """State of one side."""

    START = "start"
    GREETED = "greeted"
    OPEN = "open"
    ENDED = "ended"
    CLOSED = "closed"


_CLIENT_REQUESTS = (Kind.PRODUCE, Kind.FETCH, Kind.CALL, Kind.PING)
_BROKER_REPLIES = (Kind.PRODUCED, Kind.FETCHED, Kind.RESULT, Kind.FAILED, Kind.PONG)

TRANSITIONS: dict[tuple[Role, State, Kind], State] = {
    (Role.CLIENT, State.START, Kind.HELLO): State.GREETED,
    **{(Role.CLIENT, State.OPEN, kind): State.OPEN for kind in _CLIENT_REQUESTS},
    (Role.CLIENT, State.OPEN, Kind.END): State.ENDED,
    (Role.BROKER, State.GREETED, Kind.WELCOME): State.OPEN,
    **{(Role.BROKER, State.OPEN, kind): State.OPEN for kind in _BROKER_REPLIES},
    (Role.BROKER, State.OPEN, Kind.END): State.ENDED,
    **{(role, state, Kind.FATAL): State.CLOSED for role in Role for state in State if state is not State.CLOSED},
}
"""The state after sending a frame of a kind; what is not in the table may not be sent."""


def next_states(role: Role, own: State, other: State, kind: Kind) -> tuple[State, State] | None:
    """Return the states of ``role`` and of the other side after ``role`` sent ``kind``; None where it is forbidden."""
    target = TRANSITIONS.get((role, own, kind))
    if target is None:
        return None
    if kind is Kind.HELLO:
        return target, State.GREETED
    if kind is Kind.WELCOME:
        return target, State.OPEN
    return target, other
