"""``sticky``: equal shares with as few moves as that takes; the assignor of a group that names none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqcore.abc import Assignor

__all__ = ["StickyAssignor"]


class StickyAssignor(Assignor):
    """A member keeps what it has up to its share; only what is above a share, or without an owner, moves."""

    name = "sticky"

    def assign(self, members: Sequence[str], partitions: Sequence[int], owners: Mapping[int, str]) -> Mapping[int, str]:
        """As of ``Assignor``."""
        held: dict[str, list[int]] = {member: [] for member in members}
        free: list[int] = []
        for partition in partitions:
            held.get(owners.get(partition, ""), free).append(partition)
        share, more = divmod(len(partitions), len(members))
        assigned: dict[int, str] = {}
        wants: list[tuple[str, int]] = []
        # The larger shares go to those that have most: each partition that stays is one that need not move.
        for number, member in enumerate(sorted(members, key=lambda each: -len(held[each]))):
            quota = share + (number < more)
            assigned.update(dict.fromkeys(held[member][:quota], member))
            free += held[member][quota:]
            wants.append((member, quota - len(held[member])))
        free.sort()
        for member, lacking in wants:
            for _ in range(lacking):
                assigned[free.pop()] = member
        return assigned
