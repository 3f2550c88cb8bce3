"""Benchmarks of mqcore beside their limits: a toy broker and a probe of the disk (``mqcore bench``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore.abc import Command

if TYPE_CHECKING:
    import click

__all__ = ["BenchCommand"]


class BenchCommand(Command):
    """The verb ``bench``."""

    summary = "Measure rates and costs beside their limits."

    def build(self) -> click.Command:
        """Return the group ``bench`` with ``run`` and ``list``."""
        from mqcore_bench._command import bench

        return bench
