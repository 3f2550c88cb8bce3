"""Contract of a command: a part brings its own verbs to the command line, loaded when typed or listed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

__all__ = ["Command"]


class Command(ABC):
    """One verb of ``mqcore`` (entry-point group ``mqcore.commands``; the entry point's name is the verb)."""

    summary: str
    """One line for the list of verbs."""

    @abstractmethod
    def build(self) -> click.Command:
        """Return the click command. Called only when the verb is typed; may import what it needs."""
