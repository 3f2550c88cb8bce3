"""Consumer groups: list, describe, reset and delete them.

Each set answers for the partitions that it owns: a caller that wants a group of a cluster asks every set.
"""

from __future__ import annotations

import attrs
from attrs import validators

from mqcore.operations.offsets import is_moment

__all__ = [
    "DeleteGroup",
    "DeletedGroup",
    "DescribeGroup",
    "GroupDescription",
    "GroupMemberState",
    "GroupPartitionState",
    "GroupSummary",
    "GroupTopicState",
    "ListGroups",
    "ResetGroup",
    "ResetPartition",
]


@attrs.frozen(kw_only=True)
class ListGroups:
    """List groups by name: those ``after`` a name, at most ``limit``, as many as fit one reply."""

    after: str = ""
    limit: int = attrs.field(default=10_000, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class GroupSummary:
    """A group: its name, the topics of which it has cursors or members, how many members it has here."""

    name: str
    topics: tuple[str, ...]
    members: int


@attrs.frozen(kw_only=True)
class DescribeGroup:
    """Describe one topic of a group: partitions ``after`` a number, at most ``limit``, as many as fit one reply.

    ``topic`` empty: the first topic by name; the reply says which others there are.
    """

    name: str
    topic: str = ""
    after: int = -1
    limit: int = attrs.field(default=1_000, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class GroupMemberState:
    """A member: its name, what the client calls itself, how long it was silent, its session, what it owns."""

    name: str
    client: str
    silent_ms: int
    session_ms: int
    partitions: int


@attrs.frozen(kw_only=True)
class GroupPartitionState:
    """Where a group stands in a partition: offset and epoch of its cursor (None: no cursor), messages that it lacks.

    ``member``: who owns the partition, empty where nobody does. ``status``: ``ok``; ``below-start``, where retention
    has taken what is next; ``diverged``, where the log has lost what was read.
    """

    partition: int
    offset: int | None
    epoch: int | None
    end_offset: int
    lag: int
    member: str
    status: str


@attrs.frozen(kw_only=True)
class GroupTopicState:
    """A topic of a group: who reads it, and how it is shared out (empty while it has no members)."""

    topic: str
    assignor: str
    generation: int
    settled: bool
    members: tuple[GroupMemberState, ...]
    partitions: tuple[GroupPartitionState, ...]


@attrs.frozen(kw_only=True)
class GroupDescription:
    """A group with one of its topics; ``topics`` names them all."""

    name: str
    topics: tuple[str, ...]
    state: GroupTopicState


@attrs.frozen(kw_only=True)
class ResetGroup:
    """Move the cursors of a group that has no members, of one topic, to ``"start"``, ``"end"``, an offset or a time.

    ``to``: as ``at`` of ``LookUpOffset``, or empty where ``offset`` says it. ``partitions``: those only; none: all that
    this set owns.
    """

    name: str
    topic: str
    to: str | int = ""
    offset: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(0)))
    partitions: tuple[int, ...] = ()

    def __attrs_post_init__(self) -> None:
        if (self.to == "") == (self.offset is None):
            raise ValueError("'to' or 'offset': one of them says where the cursors go")
        if self.offset is None:
            is_moment(None, None, self.to)


@attrs.frozen(kw_only=True)
class ResetPartition:
    """A cursor that was moved: to where, and where it was (None: nowhere)."""

    partition: int
    offset: int
    epoch: int
    before: int | None


@attrs.frozen(kw_only=True)
class DeleteGroup:
    """Delete a group that has no members, with all of its cursors, or those of one ``topic``."""

    name: str
    topic: str = ""


@attrs.frozen(kw_only=True)
class DeletedGroup:
    """The group that was deleted, and the topics of which it had cursors."""

    name: str
    topics: tuple[str, ...]
