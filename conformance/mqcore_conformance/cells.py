"""Cells: one storage, one transport, one flush policy, one family of faults; many seeds; one verdict per clause.

A cell whose fault found nothing to take is INCONCLUSIVE and never PASS; ``witnesses`` says which counts show it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs

from mqcore.guarantees import CLAUSES
from mqcore_conformance.checkers import CHECKERS, Facts
from mqcore_conformance.obligations import obligations
from mqcore_conformance.plans import (
    CRASH_POINTS,
    FLUSH_POLICIES,
    MEMBER_FAMILIES,
    RunPlan,
    crash_point_bases,
    crash_points,
    draw_plan,
    draw_processes_plan,
    draw_set_plan,
    draw_simulated_set_plan,
    shrink_steps,
    simpler_plans,
)
from mqcore_conformance.play import TRIES_IN_REAL_TIME, RunResult, crash_calls, run_plan, run_until_shown
from mqcore_conformance.verdicts import Status, Violation
from mqcore_conformance.witnesses import ASKED_OF, fault_took_effect, has_to_judge, tally
from mqcore_conformance.worlds.model import Sabotage

__all__ = ["Cell", "CellResult", "Failure", "LastRun", "cells_of", "label_of", "run_cell", "shrink"]

LIVENESS = "G13"
CRASH_PLANS_MAX = 3
CRASH_SEEDS_PER_PLAN = 20
"""Every crash point is run of the plans of so many seeds: of one for each twenty that are asked for."""

EXTRA_SEEDS_MAX = 12
"""Seeds tried beyond those asked for, until the fault has found something to take."""
T1_EXTRA_SEEDS_MAX = 2
"""The same in real time."""

DISK_FAMILIES = frozenset({"power-cut", "flush-error", "full", "io-error", "rot", "rot-identity", "slow", CRASH_POINTS,
                           "cursors", "names", *MEMBER_FAMILIES})  # fmt: skip
"""Families that need a storage with a disk."""


def label_of(url: str) -> str:
    """Return what a part is called in names: its scheme, and its options when it has any."""
    scheme, options = url.partition(":")[0], url.partition("?")[2]
    return f"{scheme}?{options}" if options else scheme


@attrs.frozen(kw_only=True)
class Cell:
    """One square of the matrix. ``storage`` is a URL with ``{dir}``; ``flush`` a name of ``FLUSH_POLICIES``.

    ``nodes`` of a set, and its ``replication``: ``none`` for a broker that is alone, else a name of
    ``SET_REPLICATIONS``; ``coordinator``: of T1, empty for a file.
    """

    tier: str
    storage: str
    transport: str
    flush: str
    family: str
    replication: str = "none"
    nodes: int = 1
    coordinator: str = ""

    @property
    def name(self) -> str:
        """Name for people and filters."""
        alone = f"{self.tier}/{label_of(self.storage)}/{self.transport}/{self.flush}/{self.family}"
        of_set = f"{self.replication}-{self.nodes}" + (f"-{self.coordinator}" if self.coordinator else "")
        return alone if self.nodes == 1 else f"{alone}/{of_set}"

    @property
    def replicated(self) -> str:
        """Its column in reports: the replication, by how many nodes, and the coordinator if it is no file."""
        of_set = f"{self.replication}, {self.nodes} nodes" + (f", {self.coordinator}" if self.coordinator else "")
        return self.replication if self.nodes == 1 else of_set


@attrs.frozen(kw_only=True)
class Failure:
    """What one seed broke: the violations, and the plan that shows it."""

    seed: int
    plan: RunPlan
    violations: tuple[Violation, ...]
    result: RunResult


@attrs.frozen(kw_only=True)
class LastRun:
    """The last of several runs of a simulated cell, from which its history can be made again."""

    seed: int
    plan: RunPlan
    digest: str


@attrs.define(kw_only=True)
class CellResult:
    """What a cell is worth. ``reason``: why it was not run, or what the engine stumbled over.

    ``last``: None where there is nothing to compare, as after one run only.
    """

    cell: Cell
    statuses: dict[str, Status] = attrs.field(factory=dict)
    reason: str = ""
    seeds: list[int] = attrs.field(factory=list)
    digests: dict[int, str] = attrs.field(factory=dict)
    witnesses: Counter[str] = attrs.field(factory=Counter)
    looked_at: Counter[str] = attrs.field(factory=Counter)
    failures: list[Failure] = attrs.field(factory=list)
    events: int = 0
    runs: int = 0
    real_seconds: float = 0.0
    last: LastRun | None = None
    how: str = ""
    """How a PASS was come by: *proved* within a stated bound, *sampled* over so many seeds."""

    @property
    def status(self) -> Status:
        """The worst status of all clauses."""
        order = (Status.FAIL, Status.ERROR, Status.LIVENESS, Status.INCONCLUSIVE, Status.PASS)
        found = set(self.statuses.values())
        return next((status for status in order if status in found), Status.NOT_RUN)


def cells_of(
    tier: str, storages: Iterable[str], transports: Iterable[str], flushes: Iterable[str], families: Iterable[str]
) -> Iterator[Cell]:
    """Every cell of ``tier`` of these rows and columns."""
    for storage, transport, flush, family in itertools.product(storages, transports, flushes, families):
        yield Cell(tier=tier, storage=storage, transport=transport, flush=flush, family=family)


def run_cell(
    cell: Cell,
    seeds: Sequence[int],
    *,
    clauses: Iterable[str] = (),
    sabotage: Callable[[], Sabotage] = Sabotage,
    not_run: str = "",
    deadline: float | None = None,
    stop_at_first: bool = False,
    extra_seeds_max: int = EXTRA_SEEDS_MAX,
    begins: Callable[[int], None] = lambda seed: None,
    ran: Callable[[int], None] = lambda runs: None,
) -> CellResult:
    """Run a cell over ``seeds`` and judge it. ``deadline``: of ``time.perf_counter``; seeds after it are left out.

    ``begins`` is called before each run with its seed, ``ran`` after each with their number.
    """
    result = CellResult(cell=cell)
    wanted = tuple(clauses) or tuple(CHECKERS)
    if not_run:
        result.reason = not_run
        result.statuses = dict.fromkeys(CLAUSES, Status.NOT_RUN)
        return result
    began = time.perf_counter()
    extent = _Extent()
    asked = _asked(cell, wanted)
    for seed, plan in _plans(result, seeds, extra_seeds_max, extent, asked):
        if deadline is not None and time.perf_counter() > deadline:
            break
        begins(seed)
        run = run_plan(plan, sabotage())
        result.runs += 1
        ran(result.runs)
        if seed not in result.seeds:
            result.seeds.append(seed)
        result.events += run.events
        if run.error:
            result.reason = f"seed {seed}: {run.error}"
            result.failures.append(Failure(seed=seed, plan=plan, violations=(), result=run))
            continue
        result.digests[seed] = run.digest
        if result.runs > 1 and cell.tier == "T0":
            result.last = LastRun(seed=seed, plan=plan, digest=run.digest)
        facts = Facts(run.history)
        result.witnesses.update(tally(facts))
        result.witnesses.update(run.witnesses)
        violations = [violation for clause in wanted for violation in CHECKERS[clause](facts)]
        result.looked_at.update(obligations(facts))
        if violations:
            result.failures.append(Failure(seed=seed, plan=plan, violations=tuple(violations), result=run))
            if stop_at_first:
                break
    result.failures.sort(key=_mildness)
    result.real_seconds = time.perf_counter() - began
    result.statuses = _statuses(result, wanted, asked)
    result.reason = result.reason or _why_inconclusive(result, asked)
    result.how = _how(result, extent)
    result.how += _not_judged(result, asked)
    return result


def _not_judged(result: CellResult, asked: str) -> str:
    """Say that the clause was not judged for whose sake a family of one node exists."""
    cell = result.cell
    clause = "" if asked or cell.nodes > 1 or not result.runs else ASKED_OF.get(cell.family, "")
    return f"; {clause} not judged" if clause and result.statuses.get(clause) is Status.NOT_RUN else ""


def _asked(cell: Cell, wanted: Iterable[str]) -> str:
    """Return the one of ``wanted`` without which ``cell`` proves nothing; a set goes on when a fault hit no one."""
    has = "" if cell.nodes > 1 else has_to_judge(cell.family, cell.flush, cell.tier)
    return has if has in wanted else ""


def _why_inconclusive(result: CellResult, asked: str) -> str:
    """Say what a cell lacked: something for its clause to look at, a fault that came, something that it could take."""
    after = _counted(len(result.seeds), "seed")
    if asked and result.statuses[asked] is Status.INCONCLUSIVE and not result.looked_at[asked]:
        return f"{asked} not judged: nothing for it to look at in {after}"
    if result.status is not Status.INCONCLUSIVE or not result.runs:
        return ""
    struck = result.witnesses["faults-injected"]
    if not struck:
        return f"no fault of this family came to pass in {after}"
    return f"{_counted(struck, 'fault')} struck in {after} and found nothing to take: what was acknowledged was read"


def _mildness(failure: Failure) -> int:
    """Order of failures: what was lost says more than an engine that stumbled, and that more than what took long."""
    clauses = {violation.clause for violation in failure.violations}
    return 0 if clauses - {LIVENESS} else 1 if failure.result.error else 2


def _how(result: CellResult, extent: _Extent) -> str:
    """Say how a PASS of this cell was come by."""
    if not result.runs:
        return ""
    if result.cell.family == CRASH_POINTS and extent.plans:
        plans = f"{extent.plans} plan" + "s" * (extent.plans > 1)
        return (
            f"proved: a crash at each of {extent.calls} calls of {plans} of three batches, "
            f"{result.runs} runs where it differs; what a power cut keeps is sampled"
        )
    if result.cell.family == CRASH_POINTS:
        return f"sampled: {result.runs} crash points, not all of one plan"
    return f"sampled: {_counted(len(result.seeds), 'seed')}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


@attrs.define
class _Extent:
    """How far an enumeration went: calls of which each was a crash point, of so many plans."""

    calls: int = 0
    plans: int = 0


def _plans(
    result: CellResult, seeds: Sequence[int], extra: int, extent: _Extent, asked: str
) -> Iterator[tuple[int, RunPlan]]:
    """Give the plans of a cell with their seeds: drawn, or every crash point of a short run."""
    cell = result.cell
    flush = FLUSH_POLICIES[cell.flush]
    drawn_for: dict[str, Any] = {
        "storage": cell.storage, "transport": cell.transport, "flush": flush, "family": cell.family
    }  # fmt: skip
    if cell.tier == "T1":
        for seed in _until_struck(result, seeds, min(extra, T1_EXTRA_SEEDS_MAX), asked):
            if cell.nodes > 1:
                yield (
                    seed,
                    draw_set_plan(
                        seed,
                        **drawn_for,
                        nodes=cell.nodes,
                        replication=cell.replication,
                        coordinator=cell.coordinator,
                    ),
                )
            else:
                yield seed, draw_processes_plan(seed, **drawn_for)
        return
    if cell.family == CRASH_POINTS:
        for seed in seeds[: max(1, min(CRASH_PLANS_MAX, len(seeds) // CRASH_SEEDS_PER_PLAN))]:
            for base in crash_point_bases(seed, storage=cell.storage, transport=cell.transport, flush=flush):
                calls = crash_calls(base)
                yield from ((seed, plan) for plan in crash_points(base, calls.distinct))
                extent.calls += calls.count
            extent.plans += 1
        return
    for seed in _until_struck(result, seeds, extra, asked):
        if cell.nodes > 1:
            yield seed, draw_simulated_set_plan(seed, **drawn_for, nodes=cell.nodes, replication=cell.replication)
        else:
            yield seed, draw_plan(seed, **drawn_for)


def _until_struck(result: CellResult, seeds: Sequence[int], extra_max: int, asked: str) -> Iterator[int]:
    """Give the seeds, then a few more while the fault bit nothing, or the clause ``asked`` had nothing to judge."""
    yield from seeds
    first = max(seeds, default=0) + 1
    for seed in range(first, first + extra_max):
        bit = fault_took_effect(result.cell.family, result.witnesses, result.cell.tier)
        if bit and (not asked or result.looked_at[asked]):
            return
        yield seed


def _statuses(result: CellResult, wanted: Sequence[str], asked: str) -> dict[str, Status]:
    failed = {violation.clause for failure in result.failures for violation in failure.violations}
    broken = any(failure.result.error for failure in result.failures)
    bit = fault_took_effect(result.cell.family, result.witnesses, result.cell.tier)
    statuses: dict[str, Status] = {}
    for clause in CLAUSES:
        if clause not in wanted:
            statuses[clause] = Status.NOT_RUN
        elif clause in failed:
            statuses[clause] = Status.LIVENESS if clause == LIVENESS else Status.FAIL
        elif broken:
            statuses[clause] = Status.ERROR
        elif not result.looked_at[clause]:
            statuses[clause] = Status.INCONCLUSIVE if clause == asked else Status.NOT_RUN
        elif not result.seeds or not bit:
            statuses[clause] = Status.INCONCLUSIVE
        else:
            statuses[clause] = Status.PASS
    return statuses


def shrink(
    failure: Failure, sabotage: Callable[[], Sabotage] = Sabotage, *, runs_max: int = 150, seconds_max: float = math.inf
) -> Failure:
    """Return a simpler plan that still breaks one of the same clauses, after at most ``runs_max`` runs.

    Where safety is broken, being late beside it does not count. No run begins after ``seconds_max``. In real time (T1)
    the steps are fewer, as each costs seconds, and a plan has a few tries to show it.
    """
    deadline = time.perf_counter() + seconds_max
    clauses = {violation.clause for violation in failure.violations}
    clauses = clauses - {LIVENESS} or clauses
    steps, tries = (simpler_plans, TRIES_IN_REAL_TIME) if failure.plan.tier == "T1" else (shrink_steps, 1)
    runs = 0
    simplified = bool(clauses)
    while simplified and runs < runs_max and time.perf_counter() <= deadline:
        simplified = False
        for plan in steps(failure.plan):
            run, violations, count = run_until_shown(plan, clauses, tries=tries, sabotage=sabotage, until=deadline)
            runs += count
            if violations:
                failure = Failure(seed=failure.seed, plan=plan, violations=tuple(violations), result=run)
                simplified = True
                break
            if runs >= runs_max or time.perf_counter() > deadline:
                return failure
    return failure
