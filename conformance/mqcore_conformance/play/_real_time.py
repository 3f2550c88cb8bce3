"""Shrinking in real time: a simpler plan counts when it still fails in one of a few tries. Bounded in time."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

from mqcore_conformance.checkers import check_history
from mqcore_conformance.plans import RunPlan, simpler_plans
from mqcore_conformance.play._run import RunResult, run_plan
from mqcore_conformance.verdicts import Violation

__all__ = ["TRIES", "run_until_shown", "shrink_in_real_time"]

TRIES = 3
SHRINK_S_MAX = 90.0

Shown = tuple[RunPlan, RunResult, Sequence[Violation]]


def run_until_shown(
    plan: RunPlan, clauses: Iterable[str] = (), *, tries: int = TRIES, until: float = float("inf")
) -> tuple[Shown, int]:
    """Run a plan until it breaks one of ``clauses``, at most ``tries`` times; the last run, and how many there were.

    No run begins after the time ``until`` (of ``time.perf_counter``), the first one apart.
    """
    wanted = tuple(clauses)
    runs = 0
    while True:
        runs += 1
        result = run_plan(plan)
        violations = check_history(result.history, wanted) if not result.error else []
        if violations or result.error or runs >= tries or time.perf_counter() > until:
            return (plan, result, violations), runs


def shrink_in_real_time(plan: RunPlan, clauses: Collection[str], *, seconds_max: float = SHRINK_S_MAX) -> Shown | None:
    """Return the simplest plan found in ``seconds_max`` that still breaks one of ``clauses``; None when none did."""
    until = time.perf_counter() + seconds_max
    best: Shown | None = None
    simplified = bool(clauses)
    while simplified:
        simplified = False
        for simpler in simpler_plans(plan):
            if time.perf_counter() > until:
                return best
            shown, _ = run_until_shown(simpler, clauses, until=until)
            if shown[2]:
                best, plan, simplified = shown, simpler, True
                break
    return best
