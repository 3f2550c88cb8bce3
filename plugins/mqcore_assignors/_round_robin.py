"""``round-robin``: one partition to each member in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from mqcore.abc import Assignor

__all__ = ["RoundRobinAssignor"]


class RoundRobinAssignor(Assignor):
    """Neighbouring partitions go to different members: where load grows along the numbers, all get some of it."""

    name = "round-robin"

    def assign(self, members: Sequence[str], partitions: Sequence[int], owners: Mapping[int, str]) -> Mapping[int, str]:
        """As of ``Assignor``; who had what makes no difference."""
        return dict(zip(partitions, cycle(members), strict=False))
