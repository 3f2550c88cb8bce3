"""The state table of a follower's stream: which role may send what, when. Everything not listed is a protocol error.

Built like that of client streams, and compared with docs/protocol.md by a test.
"""

from __future__ import annotations

import enum

from mqcore.protocol._follow_messages import FollowKind
from mqcore.protocol._state import State, steps_of

__all__ = ["FOLLOW_STEPS", "FOLLOW_TRANSITIONS", "FollowRole"]


class FollowRole(enum.Enum):
    """Which end of a follower's stream."""

    FOLLOWER = "follower"
    PRIMARY = "primary"

    @property
    def other(self) -> FollowRole:
        """The opposite end."""
        return FollowRole.PRIMARY if self is FollowRole.FOLLOWER else FollowRole.FOLLOWER


_OF_FOLLOWER = (FollowKind.POSITIONS, FollowKind.CREDIT, FollowKind.HEARTBEAT)
_OF_PRIMARY = (
    FollowKind.LOG_NAMED,
    FollowKind.LOG_DATA,
    FollowKind.COMMITTED_OFFSETS,
    FollowKind.DIVERGED,
    FollowKind.POSITION_REFUSED,
    FollowKind.HEARTBEAT,
    FollowKind.LOG_BEGINS,
)
_NOT_CLOSED = tuple(state for state in State if state is not State.CLOSED)

FOLLOW_TRANSITIONS: dict[tuple[FollowRole, State, FollowKind], State] = {
    (FollowRole.FOLLOWER, State.START, FollowKind.FOLLOW): State.GREETED,
    **{(FollowRole.FOLLOWER, State.OPEN, kind): State.OPEN for kind in _OF_FOLLOWER},
    (FollowRole.FOLLOWER, State.OPEN, FollowKind.END): State.ENDED,
    # As with a client: no first frame, since foreign bytes would pass for it.
    **{
        (FollowRole.FOLLOWER, state, FollowKind.FATAL): State.CLOSED
        for state in _NOT_CLOSED
        if state is not State.START
    },
    (FollowRole.PRIMARY, State.GREETED, FollowKind.FOLLOWED): State.OPEN,
    **{(FollowRole.PRIMARY, State.OPEN, kind): State.OPEN for kind in _OF_PRIMARY},
    (FollowRole.PRIMARY, State.OPEN, FollowKind.END): State.ENDED,
    **{(FollowRole.PRIMARY, state, FollowKind.FATAL): State.CLOSED for state in _NOT_CLOSED},
}
"""The state after sending a frame of a kind; what is not in the table may not be sent."""

_TIES = {FollowKind.FOLLOW: State.GREETED, FollowKind.FOLLOWED: State.OPEN}

FOLLOW_STEPS = {role: steps_of(role, role.other, FOLLOW_TRANSITIONS, _TIES) for role in FollowRole}
"""``FOLLOW_TRANSITIONS`` as each role looks it up."""
