"""The state table: which role may send what, when. Everything not listed is a protocol error.

Each side of a connection has a state; what a role sends moves its own. One rule ties them: the broker's welcome opens
the client's side too. The tables in docs/protocol.md are compared with this one by a test; what the connection looks
up for each frame is computed from it at import, so that no fast path can hold another opinion.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from mqcore.protocol._messages import Kind

__all__ = ["STEPS", "TRANSITIONS", "Role", "State", "Steps", "steps_of"]


class Role(enum.Enum):
    """Which end of the connection."""

    CLIENT = "client"
    BROKER = "broker"

    @property
    def other(self) -> Role:
        """The opposite end."""
        return Role.BROKER if self is Role.CLIENT else Role.CLIENT


class State(enum.Enum):
    """State of one side.

    ``ERROR``: a rule was broken. It absorbs: nothing is read any more, and one ``fatal`` is all that may be sent.
    """

    START = "start"
    GREETED = "greeted"
    OPEN = "open"
    ENDED = "ended"
    ERROR = "error"
    CLOSED = "closed"


_CLIENT_REQUESTS = (Kind.PRODUCE, Kind.FETCH, Kind.CALL, Kind.PING, Kind.SYNC, Kind.COMMIT)
_BROKER_REPLIES = (
    Kind.PRODUCED,
    Kind.FETCHED,
    Kind.RESULT,
    Kind.FAILED,
    Kind.PONG,
    Kind.SYNCED,
    Kind.COMMITTED,
)
_NOT_CLOSED = tuple(state for state in State if state is not State.CLOSED)

TRANSITIONS: dict[tuple[Role, State, Kind], State] = {
    (Role.CLIENT, State.START, Kind.HELLO): State.GREETED,
    **{(Role.CLIENT, State.OPEN, kind): State.OPEN for kind in _CLIENT_REQUESTS},
    (Role.CLIENT, State.OPEN, Kind.END): State.ENDED,
    # Not as its first frame: a foreign protocol's bytes would pass for it more often than a client says only this.
    **{(Role.CLIENT, state, Kind.FATAL): State.CLOSED for state in _NOT_CLOSED if state is not State.START},
    (Role.BROKER, State.GREETED, Kind.WELCOME): State.OPEN,
    **{(Role.BROKER, State.OPEN, kind): State.OPEN for kind in _BROKER_REPLIES},
    (Role.BROKER, State.OPEN, Kind.END): State.ENDED,
    **{(Role.BROKER, state, Kind.FATAL): State.CLOSED for state in _NOT_CLOSED},
}
"""The state after sending a frame of a kind; what is not in the table may not be sent."""

_TIES: dict[Kind, State] = {Kind.HELLO: State.GREETED, Kind.WELCOME: State.OPEN}
"""The state of the *other* side after a frame of this kind."""

R = TypeVar("R", bound=enum.Enum)
K = TypeVar("K", bound=enum.IntEnum)


class Steps(NamedTuple):
    """What may happen in one pair of states: by kind, the pair (own state, peer's state) after it."""

    sends: Mapping[int, tuple[State, State]]
    receives: Mapping[int, tuple[State, State]]


def steps_of(
    own: R, peer: R, transitions: Mapping[tuple[R, State, K], State], ties: Mapping[K, State]
) -> dict[tuple[State, State], Steps]:
    """Return the table as the role ``own`` sees it, by (own state, peer's state)."""
    return {
        (own_state, peer_state): Steps(
            sends={
                kind: (after, ties.get(kind, peer_state))
                for (role, state, kind), after in transitions.items()
                if role is own and state is own_state
            },
            receives={
                kind: (ties.get(kind, own_state), after)
                for (role, state, kind), after in transitions.items()
                if role is peer and state is peer_state
            },
        )
        for own_state in State
        for peer_state in State
    }


STEPS = {role: steps_of(role, role.other, TRANSITIONS, _TIES) for role in Role}
"""``TRANSITIONS`` as each role looks it up."""
