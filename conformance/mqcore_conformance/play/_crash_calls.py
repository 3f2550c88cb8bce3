"""At which calls of the file system a crash makes a difference: every call of a run, less those that change nothing.

Two calls with no change of the disk, no event of the history and no operation on a socket between them are one crash
point: a death at either leaves the same disk, the same replies and the same clients behind.
"""

from __future__ import annotations

import attrs

from mqcore.testing import DiskCall
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.play._run import run_plan
from mqcore_conformance.worlds.model import ModelWorld

__all__ = ["CrashCalls", "crash_calls"]

READING = frozenset(
    {"stat", "list", "free_bytes", "pread", "map", "view", "size", "link_count", "drop_cache", "close", "release"}
)
"""Calls that leave the disk as it was."""


@attrs.frozen
class CrashCalls:
    """``count`` calls were made before healing; a crash at each of ``distinct`` stands for those just before it."""

    count: int
    distinct: tuple[int, ...]


def crash_calls(plan: RunPlan) -> CrashCalls:
    """Run ``plan`` once and return its crash points."""
    last_of: dict[tuple[int, int, int], int] = {}
    seen = changes = 0

    def watch(world: ModelWorld, call: DiskCall) -> None:
        nonlocal seen, changes
        seen += 1
        last_of[changes, len(world.history), sum(world.network.counts.values())] = call.number
        changes += call.operation not in READING

    result = run_plan(plan, watch=watch)
    if result.error:
        raise RuntimeError(f"the run without a crash failed: {result.error}")
    return CrashCalls(seen, tuple(sorted(last_of.values())))
