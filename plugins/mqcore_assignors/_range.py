"""``range``: each member gets neighbouring partitions, the first members one more where it does not divide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqcore.abc import Assignor

__all__ = ["RangeAssignor"]


class RangeAssignor(Assignor):
    """Two topics with as many partitions are shared out alike: partition 7 of both goes to one member."""

    name = "range"

    def assign(self, members: Sequence[str], partitions: Sequence[int], owners: Mapping[int, str]) -> Mapping[int, str]:
        """As of ``Assignor``; who had what makes no difference."""
        share, more = divmod(len(partitions), len(members))
        assigned: dict[int, str] = {}
        begin = 0
        for number, member in enumerate(members):
            end = begin + share + (number < more)
            assigned.update(dict.fromkeys(partitions[begin:end], member))
            begin = end
        return assigned
