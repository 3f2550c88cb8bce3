"""The messages of a follower's stream as values: what a replica and its primary say to each other (rules R4, R5, R10).

One stream carries all logs of the set. A log is named once, by a number; from then on only what changed travels.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore.protocol._messages import End, Fatal, Kind

__all__ = [
    "FOLLOW_KIND_OF",
    "CommittedOffsets",
    "Credit",
    "Diverged",
    "Follow",
    "FollowKind",
    "FollowMessage",
    "Followed",
    "Heartbeat",
    "LogBegins",
    "LogCommitted",
    "LogData",
    "LogNamed",
    "LogPositions",
    "PositionRefused",
    "Positions",
]


class FollowKind(enum.IntEnum):
    """Number of a message kind in the frame header; those of client streams are not used again."""

    END = Kind.END
    FATAL = Kind.FATAL
    FOLLOW = 32
    FOLLOWED = 33
    LOG_NAMED = 34
    LOG_DATA = 35
    COMMITTED_OFFSETS = 36
    POSITIONS = 37
    DIVERGED = 38
    POSITION_REFUSED = 39
    CREDIT = 40
    HEARTBEAT = 41
    LOG_BEGINS = 42


class Follow(NamedTuple):
    """First frame of a replica: who it is, which reign it follows, and how much it takes in before it grants more.

    ``name`` is the configured one, by which operators know the node. ``session`` is 16 fresh random bytes: a new one
    replaces the node's old stream. ``append_level`` is what an append reaches there, ``NONE`` if the node vouches for
    flushed positions only (R2 b); what a flush reaches may change and stands in each position report.
    """

    version_min: int
    version_max: int
    set_id: bytes
    node_id: bytes
    incarnation: int
    session: bytes
    epoch: int
    append_level: Level
    credit_bytes: int
    frame_bytes_max: int
    name: str


class Followed(NamedTuple):
    """The primary's answer: it reigns in the epoch that was asked for, under this ``reign_id`` (16 bytes).

    Both, because two reigns may have one number where people promote by hand.
    """

    version: int
    set_id: bytes
    node_id: bytes
    incarnation: int
    epoch: int
    reign_id: bytes
    heartbeat_ms: int
    frame_bytes_max: int


class LogNamed(NamedTuple):
    """Names a log by the next ``number`` (0, 1, ...). A ``topic_id`` of zeros is the metadata log."""

    number: int
    topic_id: bytes
    partition: int


class LogData(NamedTuple):
    """Whole batches at ``position`` of a log, as the primary stamped them, and how far the log is committed."""

    number: int
    position: int
    committed_offset: int
    batches: Sequence[Buffer]


class LogCommitted(NamedTuple):
    """The committed offset of one log."""

    number: int
    offset: int


class CommittedOffsets(NamedTuple):
    """The committed offsets that moved and that no data carried."""

    logs: tuple[LogCommitted, ...]


class LogPositions(NamedTuple):
    """How far one log is held: the reign of its last batch (``epoch`` and ``reign_id``) and its ``position`` (zeros if
    there is none), the ``end``, and the end that is ``flushed``, to ``level``.
    """

    number: int
    epoch: int
    reign_id: bytes
    position: int
    end: int
    flushed: int
    level: Level


class Positions(NamedTuple):
    """Position reports of the logs that changed, in the order of their numbers."""

    logs: tuple[LogPositions, ...]


class Diverged(NamedTuple):
    """A reported last batch is not in the primary's history, and counts for nothing.

    Of epochs up to the reported one the primary has ``epoch`` last, up to ``position``: the replica cuts there (or at
    its own end of that epoch, if that is lower) and reports again, until the histories meet. ``start`` is where the
    primary's log begins: a replica that ends below it begins anew.
    """

    number: int
    epoch: int
    position: int
    start: int


class LogBegins(NamedTuple):
    """Where the primary's metadata log begins, said before its replica is told to begin anew there: no log says so.

    ``offset`` and ``position`` of its first batch; the reign that wrote that, ``epoch`` and ``reign_id`` (16 bytes),
    and where that begins.
    """

    number: int
    offset: int
    position: int
    epoch: int
    reign_id: bytes
    reign_position: int
    reign_offset: int


class PositionRefused(NamedTuple):
    """A position report that cannot be: beyond the primary's end, or behind an earlier one. It counts for nothing."""

    number: int
    text: str


class Credit(NamedTuple):
    """The replica takes ``size`` more bytes of data frames."""

    size: int


class Heartbeat(NamedTuple):
    """The replica asks under a ``number`` whether the primary is there and still reigns; the answer repeats it."""

    number: int


FollowMessage: TypeAlias = (
    Follow
    | Followed
    | LogNamed
    | LogData
    | CommittedOffsets
    | Positions
    | Diverged
    | LogBegins
    | PositionRefused
    | Credit
    | Heartbeat
    | End
    | Fatal
)
"""What ``FollowStream`` takes and gives: one frame each."""

FOLLOW_KIND_OF: dict[type, FollowKind] = {
    Follow: FollowKind.FOLLOW,
    Followed: FollowKind.FOLLOWED,
    LogNamed: FollowKind.LOG_NAMED,
    LogData: FollowKind.LOG_DATA,
    CommittedOffsets: FollowKind.COMMITTED_OFFSETS,
    Positions: FollowKind.POSITIONS,
    Diverged: FollowKind.DIVERGED,
    PositionRefused: FollowKind.POSITION_REFUSED,
    Credit: FollowKind.CREDIT,
    Heartbeat: FollowKind.HEARTBEAT,
    LogBegins: FollowKind.LOG_BEGINS,
    End: FollowKind.END,
    Fatal: FollowKind.FATAL,
}
"""The kind of each type of message."""
