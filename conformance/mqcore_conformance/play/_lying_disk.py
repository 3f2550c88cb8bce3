"""Short runs of real brokers on a disk that lies: libeatmydata takes every flush away. For the selftest.

A power cut has to turn G01 red then, and a kill must not: the page cache survives it.
"""

from __future__ import annotations

import tempfile

import attrs

from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.checkers import check_history
from mqcore_conformance.plans import LibraryPlan, RunPlan, draw_processes_plan
from mqcore_conformance.play._run import run_plan
from mqcore_conformance.worlds.processes import why_no_eatmydata

SENDS = 40
KINDS = {"power-cut": "power-cut", "kill": "process-kill"}


@attrs.frozen
class Seen:
    """What the checkers said: clauses, the first violation, and why the engine could not finish (empty: it did)."""

    clauses: tuple[str, ...]
    example: str
    error: str


def why_no_lying_disk() -> str:
    """Why it cannot be shown here, with the remedy; empty when it can."""
    return why_no_eatmydata() or why_no_dirty_pages(tempfile.gettempdir())


def run_on_lying_disk(family: str, seed: int = 0) -> Seen:
    """Run one producer against a ``sync`` broker under ``family`` (``power-cut`` or ``kill``)."""
    result = run_plan(_plan(family, seed), eat_my_data=True)
    violations = check_history(result.history) if not result.error else []
    return Seen(
        clauses=tuple(sorted({one.clause for one in violations})),
        example=str(violations[0]) if violations else "",
        error=result.error,
    )


def _plan(family: str, seed: int) -> RunPlan:
    plan = draw_processes_plan(seed, storage="mmap://{dir}", transport="unix", flush="sync", family=family)
    first = plan.producers[0]
    sends = tuple(attrs.evolve(send, policy="topic", one_way=False) for send in first.sends[:SENDS])
    return attrs.evolve(
        plan,
        partitions=1,
        producers=(attrs.evolve(first, partition=0, idempotent=True, library=LibraryPlan(), sends=sends),),
        consumers=(),
        faults=(),
        last_ending=KINDS[family],  # once all is acknowledged: no client waits for a ruined broker
        weakest_send=None,
        visible="committed",
    )
