"""Saboteurs of the injector: faults that do not strike. Their cells must end INCONCLUSIVE, never PASS.

Each leaves the injector believe that it struck; what tells the truth is what the fault found to bite.
"""

from __future__ import annotations

from typing import Any

from mqcore.testing import ModelDisk
from mqcore_conformance.saboteurs._replacing import in_place_of
from mqcore_conformance.worlds.model import Sabotage

FAULTS = "mqcore.testing._faults"


def _nothing(*positional: Any, **named: Any) -> None:
    """Do nothing."""


class CutThatFlushes(Sabotage):
    """A power cut that flushes everything first."""

    def before_power_cut(self, disk: ModelDisk) -> None:
        """See ``Sabotage``."""
        for node in disk.machine.tree.files():
            node.flush()
        disk.machine.tree.make_durable(list(disk.machine.tree.pending))


class KillThatKillsNothing(Sabotage):
    """A kill that kills nothing."""

    def stays_alive(self) -> bool:
        """See ``Sabotage``."""
        return True


@in_place_of(("mqcore.testing._network", "ModelNetwork", "is_cut"))
def network_cuts_nothing(_: Any) -> Any:
    """A network cut that drops nothing."""
    return lambda *_: False


@in_place_of((FAULTS, "Faults", "add_flush"))
def flush_errors_not_raised(_: Any) -> Any:
    """A flush error that is not raised."""
    return _nothing


@in_place_of((FAULTS, "Faults", "add_error"))
def errors_not_raised(_: Any) -> Any:
    """An error of the disk that is not raised."""
    return _nothing


@in_place_of((FAULTS, "Faults", "add_stall"))
def stalls_take_no_time(_: Any) -> Any:
    """A stall that takes no time."""
    return _nothing


@in_place_of(("mqcore.testing._sectors", "SectorFile", "rot"))
def rot_flips_nothing(_: Any) -> Any:
    """Bit rot that flips nothing."""
    return _nothing


@in_place_of(("mqcore.testing._disk", "ModelDisk", "bytes_max"))
def disk_never_fills(original: property) -> property:
    """A full disk that never fills."""
    return property(original.fget, lambda disk, value: None)


@in_place_of(("mqcore.testing._clock", "ModelClock", "jump_wall"))
def clock_never_jumps(_: Any) -> Any:
    """A clock that never jumps."""
    return _nothing
