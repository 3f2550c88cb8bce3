"""What every event of a history has: its time, and the life of the node that it is about."""

from __future__ import annotations

from typing import NamedTuple

import attrs

__all__ = ["FIRST_NODE", "NodeLife", "Recorded"]

FIRST_NODE = "n1"
"""Name of the only node, or of the first one of a set."""


class NodeLife(NamedTuple):
    """One life of one node: the name of the node in its set, and which of its processes, counted from 1."""

    node: str
    life: int

    def __str__(self) -> str:
        return f"life {self.life}" + ("" if self.node == FIRST_NODE else f" of {self.node}")


@attrs.frozen(kw_only=True)
class Recorded:
    """What every event has: its time, and the life of the node that it is about (0: about none)."""

    time_us: int
    node: str = FIRST_NODE
    life: int = 0

    @property
    def by(self) -> NodeLife:
        """Node and life in one."""
        return NodeLife(self.node, self.life)
