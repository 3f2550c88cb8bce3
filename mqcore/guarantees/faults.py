"""Faults that a build may be asked to survive, and which of them a copy survives (guarantees, section 1)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from mqcore.guarantees.levels import Level

__all__ = ["SURVIVED", "Fault", "survives"]


class Fault(enum.Enum):
    """One kind of fault; each is survived or not alone, one fault of its kind at a time."""

    PROCESS_KILL = "process-kill"
    NODE_POWER_CUT = "node-power-cut"
    POWER_CUT = "power-cut"
    DISK_LOSS = "disk-loss"
    HOST_LOSS = "host-loss"

    @property
    def label(self) -> str:
        """The name that users see and write, such as ``power-cut``."""
        return self.value

    @property
    def help(self) -> str:
        """What happens, in a few words."""
        return _HELP[self]

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Return the fault called ``text``; ``ValueError`` lists the names."""
        for fault in cls:
            if fault.value == text:
                return fault
        raise ValueError(f"unknown fault {text!r}; one of {', '.join(fault.value for fault in cls)}")


_HELP = {
    Fault.PROCESS_KILL: "the broker's process dies (SIGKILL, a bug), the machine goes on",
    Fault.NODE_POWER_CUT: "one node loses power, or its operating system crashes",
    Fault.POWER_CUT: "every node of the set loses power at once",
    Fault.DISK_LOSS: "one member disk is lost for ever",
    Fault.HOST_LOSS: "one node is lost for ever, with all its disks",
}

SURVIVED: Mapping[Level, frozenset[Fault]] = MappingProxyType(
    {
        Level.NONE: frozenset(),
        Level.MEMORY: frozenset({Fault.DISK_LOSS}),
        Level.PAGE_CACHE: frozenset({Fault.PROCESS_KILL}),
        Level.DISK: frozenset({Fault.PROCESS_KILL, Fault.NODE_POWER_CUT, Fault.POWER_CUT}),
        Level.MIRROR: frozenset({Fault.PROCESS_KILL, Fault.NODE_POWER_CUT, Fault.POWER_CUT, Fault.DISK_LOSS}),
    }
)
"""Which faults, befalling a node, its copy survives at each level. "Lost if it was there" counts as lost."""


def survives(level: Level, fault: Fault) -> bool:
    """Whether one node's copy at ``level`` is still there after ``fault`` befell that node."""
    return fault in SURVIVED[level]
