"""What the nodes of the in-sync set hold of one log, as they reported it (rules R2, R4, R7).

Counts nodes, never connections. Must not know of policies, replies or flushes: the primary's own copy is the commit
rule's subject.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NamedTuple

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Copy, Level
from mqcore.protocol import Code

__all__ = ["UNBOUNDED", "InSyncSet", "Member"]

UNBOUNDED = sys.maxsize
"""Offset that stands for "no other node holds this up"."""

_NOTHING = (0,) * len(Level)
_BELOW = {level: Level(level - 1) for level in Level if level > Level.NONE}


class Member(NamedTuple):
    """A node as the in-sync set names it: its 16-byte id and its incarnation."""

    node_id: bytes
    incarnation: int


class _Reported:
    """What one node reported under its newest incarnation: the end of its copy at each level or better."""

    __slots__ = ("incarnation", "offsets", "positions")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.offsets = [0] * len(Level)
        self.positions = [0] * len(Level)


class InSyncSet:
    """The members that count, and what they hold. Begins with the primary alone.

    While a change of the set is pending the members of the old and of the new set count, both (R7).
    """

    __slots__ = ("_others", "_reported", "nodes", "own")

    def __init__(self, own: Member) -> None:
        self.own = own
        self.nodes = 1
        """Distinct nodes of the set; while a change is pending, of the smaller one."""
        self._others: tuple[Member, ...] = ()
        # One entry a node: a node that reports over two connections, or under a new incarnation, still counts once.
        self._reported: dict[bytes, _Reported] = {}

    def change(self, members: Iterable[Member], pending: Iterable[Member] | None) -> None:
        """Take over the set, and the one that is asked for while the answer has not come (None: no change pending).

        Raises ``ValueError`` when the primary is missing in one of them: it would acknowledge without its own copy.
        """
        sets = [frozenset(members)] if pending is None else [frozenset(members), frozenset(pending)]
        if not all(self.own in each for each in sets):
            raise ValueError(f"the primary {self.own} is not in its in-sync set: {sets}")
        self.nodes = min(len({member.node_id for member in each}) for each in sets)
        self._others = tuple(sorted(frozenset().union(*sets) - {self.own}))

    def report(self, member: Member, offset: int, position: int, level: Level) -> None:
        """Take in that ``member`` holds everything below ``offset`` and ``position`` at ``level`` or better.

        Nodes outside the set are remembered too: it is how they come to join. Raises ``RemoteProtocolError`` for a
        report that cannot be true: of the primary itself, of an incarnation that is over, or of less than before.
        """
        if member.node_id == self.own.node_id:
            raise RemoteProtocolError("a report in the primary's own name", code=Code.UNEXPECTED_FRAME)
        known = self._reported.get(member.node_id)
        if known is None or member.incarnation > known.incarnation:
            # What the node held under an older incarnation may be lost, which is what its being raised says (R2).
            known = self._reported[member.node_id] = _Reported(member.incarnation)
        elif member.incarnation < known.incarnation:
            text = f"a report of incarnation {member.incarnation}, after one of {known.incarnation}"
            raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
        if offset < known.offsets[level] or position < known.positions[level]:
            text = f"a report of less than before: offset {offset}, position {position}, level {level.label}"
            raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
        for each in range(level + 1):
            known.offsets[each] = max(known.offsets[each], offset)
            known.positions[each] = max(known.positions[each], position)

    def level_fell(self, member: Member, level: Level) -> None:
        """Take in that nothing ``member`` holds is at more than ``level`` any more, old batches included."""
        known = self._reported.get(member.node_id)
        if known is not None and known.incarnation == member.incarnation:
            for each in range(level + 1, len(Level)):
                known.offsets[each] = known.positions[each] = 0

    def held_by_others(self, level: Level) -> int:
        """Return the offset below which every member but the primary holds everything at ``level`` or better."""
        return min((self._offset_of(member, level) for member in self._others), default=UNBOUNDED)

    def copies(self, end_offset: int, own: Copy) -> tuple[tuple[Copy, ...], int, int]:
        """Return the copies of the batch that ends at ``end_offset``, the primary's ``own`` first, one a member.

        And where else a batch may end to have the same ones: above the first of two offsets, up to the second.
        """
        copies, beyond, up_to = [own], -1, UNBOUNDED
        for member in self._others:
            known = self._reported.get(member.node_id)
            offsets = known.offsets if known is not None and known.incarnation == member.incarnation else _NOTHING
            level = Level.MIRROR
            while level > Level.NONE and offsets[level] < end_offset:  # a higher level holds less, or as much
                beyond = max(beyond, offsets[level])
                level = _BELOW[level]
            if level > Level.NONE:
                up_to = min(up_to, offsets[level])
            copies.append(Copy(*member, level))
        return tuple(copies), beyond, up_to

    def _offset_of(self, member: Member, level: Level) -> int:
        known = self._reported.get(member.node_id)
        return known.offsets[level] if known is not None and known.incarnation == member.incarnation else 0
