"""The selftest: every saboteur has to be caught in its cell, and seen nowhere else. Prints the kill matrix."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import attrs

from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.checkers import check_history
from mqcore_conformance.plans import FLUSH_POLICIES, draw_plan
from mqcore_conformance.saboteurs import INJECTORS, MMAP, RECORDERS, SABOTEURS, Saboteur
from mqcore_conformance.simulation import run_plan
from mqcore_conformance.verdicts import Status

__all__ = ["Kill", "run_selftest", "saboteur_names"]

GREEN_SEEDS = 3
INJECTOR_SEEDS = 4
SEEDS_DRAWN_MAX = 5_000


@attrs.frozen(kw_only=True)
class Kill:
    """One line of the matrix. ``caught``: the clauses that turned red; ``stray``: those that turned red elsewhere."""

    name: str
    bug: str
    cell: str
    expected: tuple[str, ...]
    caught: tuple[str, ...]
    stray: tuple[str, ...] = ()
    seed: int | None = None
    example: str = ""
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        """Whether the suite missed it, or saw it where it is not."""
        return not set(self.expected) & set(self.caught) or bool(self.stray)


def saboteur_names() -> list[str]:
    """Return what can be asked for."""
    return [*(one.name for one in (*SABOTEURS, *INJECTORS)), *RECORDERS]


def run_selftest(names: Iterable[str] = ()) -> Iterator[Kill]:
    """Run the saboteurs called ``names`` (all when empty), one line each."""
    wanted = set(names)

    def asked(name: str) -> bool:
        return not wanted or name in wanted

    for saboteur in SABOTEURS:
        if asked(saboteur.name):
            yield _timed(partial(_run_saboteur, saboteur))
    for saboteur in INJECTORS:
        if asked(saboteur.name):
            yield _timed(partial(_run_injector, saboteur))
    for name in RECORDERS:
        if asked(name):
            yield _timed(partial(_run_recorder, name))


def _timed(run: Callable[[], Kill]) -> Kill:
    began = time.perf_counter()
    kill = run()
    return attrs.evolve(kill, seconds=time.perf_counter() - began)


def _run_saboteur(saboteur: Saboteur) -> Kill:
    caught: set[str] = set()
    seed, example = None, ""
    cell = saboteur.cell
    misfit = ""
    for seed in itertools.islice(_suitable_seeds(saboteur, cell), saboteur.seeds_max):
        result = run_cell(cell, [seed], sabotage=saboteur.make, extra_seeds_max=0)
        exits = [text for failure in result.failures for text in failure.result.exits]
        misfit = next((text for text in exits if ".installed.<locals>" in text), "")
        if misfit:
            break  # what died is the saboteur, not what it sabotaged
        violations = [violation for failure in result.failures for violation in failure.violations]
        caught |= {violation.clause for violation in violations}
        if caught & set(saboteur.clauses):
            example = str(next(one for one in violations if one.clause in saboteur.clauses))
            break
    stray: set[str] = set()
    if saboteur.green:
        green = run_cell(saboteur.green_cell, range(GREEN_SEEDS), sabotage=saboteur.make)
        stray = {violation.clause for failure in green.failures for violation in failure.violations}
    return Kill(
        name=saboteur.name,
        bug=saboteur.bug,
        cell=saboteur.cell.name,
        expected=saboteur.clauses,
        caught=tuple(sorted(caught)),
        stray=tuple(sorted(stray)),
        seed=seed,
        example=f"the saboteur does not fit the core any more: {misfit}" if misfit else example,
    )


def _suitable_seeds(saboteur: Saboteur, cell: Cell) -> Iterator[int]:
    for seed in range(SEEDS_DRAWN_MAX):
        plan = draw_plan(
            seed,
            storage=cell.storage,
            transport=cell.transport,
            flush=FLUSH_POLICIES[cell.flush],
            family=cell.family,
        )
        if saboteur.suits(plan):
            yield seed


def _run_injector(saboteur: Saboteur) -> Kill:
    result = run_cell(saboteur.cell, range(INJECTOR_SEEDS), sabotage=saboteur.make, extra_seeds_max=0)
    return Kill(
        name=saboteur.name,
        bug=saboteur.bug,
        cell=saboteur.cell.name,
        expected=(Status.INCONCLUSIVE.value,),
        caught=(result.status.value,),
    )


def _run_recorder(name: str) -> Kill:
    """Change what was recorded of sound runs; at least one clause has to notice."""
    change, clauses = RECORDERS[name]
    cell = Cell(tier="T0", storage=MMAP, transport="tcp", flush="sync", family="kill")
    caught: set[str] = set()
    seed, example = None, ""
    for seed in range(40):
        plan = draw_plan(
            seed,
            storage=cell.storage,
            transport=cell.transport,
            flush=FLUSH_POLICIES[cell.flush],
            family=cell.family,
        )
        violations = check_history(change(run_plan(plan).history))
        caught |= {violation.clause for violation in violations}
        if caught & set(clauses):
            example = str(next(one for one in violations if one.clause in clauses))
            break
    return Kill(
        name=name,
        bug=(change.__doc__ or "").strip(),
        cell=cell.name,
        expected=clauses,
        caught=tuple(sorted(caught)),
        seed=seed,
        example=example,
    )
