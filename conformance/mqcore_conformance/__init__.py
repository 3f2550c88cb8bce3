"""The conformance suite: clause by clause, which promises hold under which faults (``mqcore conformance``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Command

if TYPE_CHECKING:
    import click

__all__ = ["ConformanceCommand"]


class ConformanceCommand(Command):
    """The verb ``conformance``."""

    summary = "Test parts and builds clause by clause, under faults."

    def build(self) -> click.Command:
        """Return the group ``conformance``."""
        from mqcore_conformance.cli import conformance

        return conformance
