"""One run of a cell again, in a process of its own: a history that differs comes from what a part kept between runs.

All lives of a broker and all seeds of a T0 cell are played in one process, where a module's or a class's state outlives
kills and power cuts that no real process outlives. Knows nothing of reports.
"""

from __future__ import annotations

from functools import partial

from mqcore_conformance.cells import LastRun
from mqcore_conformance.children import run_apart
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.play import run_plan
from mqcore_conformance.verdicts import Status


def why_not_repeatable(last: LastRun | None, *, seconds_max: float) -> str:
    """Return why the last of several runs does not count, in a line; nothing when it is the same again, or alone."""
    if last is None:
        return ""
    outcome = run_apart(partial(_digest, last.plan), seconds_max=seconds_max)
    if outcome.value == last.digest:
        return ""
    seen = f"; there {outcome.problem}" if outcome.problem else ""
    return (
        f"not repeatable: seed {last.seed} gave another history in a process of its own: the part keeps state outside "
        f"its disk (module or class){seen}"
    )


def without_proof(status: Status) -> Status:
    """Return what a verdict is worth that runs gave which do not repeat: a violation stays one."""
    return Status.ERROR if status in (Status.PASS, Status.INCONCLUSIVE) else status


def _digest(plan: RunPlan) -> str:
    run = run_plan(plan)
    return run.error or run.digest
