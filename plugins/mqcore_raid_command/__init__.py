"""The verb ``raid``: looks after the array of a running broker, or of one that is stopped (``mqcore raid``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Command

if TYPE_CHECKING:
    import click

__all__ = ["RaidCommand"]


class RaidCommand(Command):
    """The verb ``raid``."""

    summary = "Look after an array of directories: status, eject, replace, rebuild, scrub."

    def build(self) -> click.Command:
        """Return the group ``raid`` with its verbs."""
        from mqcore_raid_command._command import raid

        return raid
