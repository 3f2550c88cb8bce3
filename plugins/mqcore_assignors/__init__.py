"""Assignors: share the partitions of a topic out among the members of a group, by range, in turn, or with few moves."""

from mqcore_assignors._range import RangeAssignor
from mqcore_assignors._round_robin import RoundRobinAssignor
from mqcore_assignors._sticky import StickyAssignor

__all__ = ["RangeAssignor", "RoundRobinAssignor", "StickyAssignor"]
