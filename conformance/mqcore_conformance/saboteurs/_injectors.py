"""Saboteurs of the injector: faults that do not strike. Their cells must end INCONCLUSIVE, never PASS.

Each leaves the injector believe that it struck; what tells the truth is what the fault found to bite.
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.testing import ModelDisk
from mqcore_conformance.saboteurs._replacing import Replacement, replacing
from mqcore_conformance.worlds.model import Sabotage

FAULTS = "mqcore.testing._faults"


def _nothing(_: object) -> Callable[..., None]:
    return lambda *positional, **named: None


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


@replacing
def network_cuts_nothing() -> tuple[Replacement, ...]:
    """A network cut that drops nothing."""
    return (("mqcore.testing._network", "ModelNetwork", "is_cut", lambda _: lambda *_: False),)


@replacing
def flush_errors_not_raised() -> tuple[Replacement, ...]:
    """A flush error that is not raised."""
    return ((FAULTS, "Faults", "add_flush", _nothing),)


@replacing
def errors_not_raised() -> tuple[Replacement, ...]:
    """An error of the disk that is not raised."""
    return ((FAULTS, "Faults", "add_error", _nothing),)


@replacing
def stalls_take_no_time() -> tuple[Replacement, ...]:
    """A stall that takes no time."""
    return ((FAULTS, "Faults", "add_stall", _nothing),)


@replacing
def rot_flips_nothing() -> tuple[Replacement, ...]:
    """Bit rot that flips nothing."""
    return (("mqcore.testing._sectors", "SectorFile", "rot", _nothing),)


@replacing
def disk_never_fills() -> tuple[Replacement, ...]:
    """A full disk that never fills."""

    def make(original: property) -> property:
        return property(original.fget, lambda disk, value: None)

    return (("mqcore.testing._disk", "ModelDisk", "bytes_max", make),)


@replacing
def clock_never_jumps() -> tuple[Replacement, ...]:
    """A clock that never jumps."""
    return (("mqcore.testing._clock", "ModelClock", "jump_wall", _nothing),)
