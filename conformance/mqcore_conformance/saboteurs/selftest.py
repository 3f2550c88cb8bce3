"""The selftest: every saboteur has to be caught by its clause in its cell, and seen nowhere else.

Gives one ``Kill`` per saboteur; ``_kill_matrix`` makes a page of them. Knows how each kind of saboteur is run.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs

from mqcore.registry import register, unregister
from mqcore_conformance.cells import Cell, label_of, run_cell
from mqcore_conformance.checkers import check_history
from mqcore_conformance.children import Outcome, PieceEnded, alive, at_most, interrupt_watched, run_in_children
from mqcore_conformance.contract import CHECKS, CheckResult, check_part
from mqcore_conformance.histories import Event
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.play import run_on_lying_disk, run_plan, why_no_lying_disk
from mqcore_conformance.saboteurs import (
    CONTRACT_SABOTEURS,
    INJECTORS,
    MMAP,
    PART_SABOTEURS,
    RECORDERS,
    SABOTEURS,
    ContractSaboteur,
    PartSaboteur,
    Saboteur,
    plan_of,
    plans_of,
)
from mqcore_conformance.verdicts import Status
from mqcore_conformance.worlds.model import Sabotage
from mqcore_conformance.worlds.processes import why_not_in_processes

__all__ = ["GROUPS", "Kill", "run_selftest", "saboteur_names"]

GREEN_SEEDS = 2
SEEDS_DEFAULT = (0, 1)
"""What a run has where no number is given."""
INJECTOR_SEEDS = 3
RECORDER_SEEDS = 40
RUN_S_MAX = {"T0": 120.0, "T1": 300.0}
"""By tier: a run, or a check, of which nothing comes for so long is ended. It is no kill: no clause was judged."""
MISFITS = (": TypeError: ", ": AttributeError: ", ": LookupError: ")

GROUPS = {
    "core": "parts with a real bug: their clause turns red in their cell",
    "contract": "bugs that no run shows: a contract check of a part alone fails",
    "part": "storages and transports with I/O of their own that lie: a check or a cell of real processes turns red",
    "injector": "faults that do not strike: their cell ends INCONCLUSIVE",
    "machine": "real brokers on a disk whose flushes do nothing: every power cut is red, every kill green",
    "recorder": "a record of a sound run that says what did not happen: a clause turns red",
}
"""What kinds of saboteurs there are, in the order in which they are told of."""


@attrs.frozen(kw_only=True)
class Kill:
    """One line of the matrix.

    ``expected``: what has to turn red (for an injector, how the cell has to end); ``caught``: what did; ``green``:
    cells in which nothing may be seen of it, and ``stray`` what was. ``runs``: simulated runs it took.
    """

    name: str
    bug: str
    cell: str
    expected: str
    caught: tuple[str, ...]
    group: str = ""
    green: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    seed: int | None = None
    runs: int = 0
    example: str = ""
    seconds: float = 0.0
    hung: bool = False
    """Whether a run was ended because nothing came of it in time: ``cell`` and ``seed`` are those of that run."""
    not_run: str = ""
    """Why this machine cannot show it, with the remedy; empty when it was run."""

    @property
    def survived(self) -> bool:
        """Whether the suite missed it, or saw it where it is not."""
        return not self.not_run and (self.expected not in self.caught or bool(self.stray))

    @property
    def verdict(self) -> str:
        """The same in a word."""
        if self.hung:
            return "HUNG"
        return "NOT RUN" if self.not_run else "SURVIVED" if self.survived else "killed"


def _tasks() -> dict[str, tuple[str, Callable[[], Kill]]]:
    """The group of each saboteur and what runs it, by its name."""
    return {
        **{one.name: ("core", partial(_run_saboteur, one)) for one in SABOTEURS},
        **{one.name: ("contract", partial(_run_contract, one)) for one in CONTRACT_SABOTEURS},
        **{one.name: ("part", partial(_run_part, one)) for one in PART_SABOTEURS},
        **{one.name: ("injector", partial(_run_injector, one)) for one in INJECTORS},
        "eatmydata": ("machine", _run_eatmydata),
        **{name: ("recorder", partial(_run_recorder, name)) for name in RECORDERS},
    }


def saboteur_names() -> list[str]:
    """Return what can be asked for."""
    return list(_tasks())


def run_selftest(names: Iterable[str] = (), *, jobs: int = 1) -> Iterator[Kill]:
    """Run the saboteurs called ``names`` (all when empty) in ``jobs`` processes; give each line as it is done."""
    wanted = set(names)
    todo = [name for name in saboteur_names() if not wanted or name in wanted]
    with interrupt_watched() as interrupt:
        events = run_in_children(todo, _run_named, jobs=jobs, interrupt=interrupt, returns=Kill)
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, PieceEnded):
                    yield event.outcome.value or _not_finished(event.piece, event.outcome)
        if interrupt.happened:
            raise KeyboardInterrupt


def _run_named(name: str) -> Kill:
    began = time.perf_counter()
    group, run = _tasks()[name]
    with at_most(RUN_S_MAX["T1" if group in ("part", "machine") else "T0"]):
        kill = run()
    return attrs.evolve(kill, group=group, seconds=round(time.perf_counter() - began, 3))


def _begins(cell: str, seed: int | None = None) -> None:
    """Say which run begins: its time does, and it is named if it passes that."""
    alive([cell, seed])


def _not_finished(name: str, outcome: Outcome[Kill]) -> Kill:
    cell, seed = outcome.doing or ("", None)
    return Kill(
        name=name,
        group=_tasks()[name][0],
        bug="",
        cell=cell,
        expected="a verdict",
        caught=(),
        seed=seed,
        example=outcome.problem,
        hung=outcome.hung,
    )


# ---- parts with a bug --------------------------------------------------------------------------------------------


def _run_saboteur(saboteur: Saboteur) -> Kill:
    kill = Kill(
        name=saboteur.name,
        bug=saboteur.bug,
        cell=saboteur.cell.name,
        expected=saboteur.clause,
        caught=(),
        green=saboteur.green,
    )
    kill = _searched(kill, plans_of(saboteur), saboteur.make)
    runs = kill.runs
    stray: list[str] = []
    for cell in saboteur.green_cells:
        begins = partial(_begins, cell.name)
        green = run_cell(cell, range(GREEN_SEEDS), sabotage=saboteur.make, extra_seeds_max=0, begins=begins)
        runs += green.runs
        red = {violation.clause for failure in green.failures for violation in failure.violations}
        stray += [f"{cell.flush}/{cell.family} {clause}" for clause in sorted(red)]
        if any(failure.result.error for failure in green.failures):
            stray.append(f"{cell.flush}/{cell.family} {green.reason}")
    return attrs.evolve(kill, stray=tuple(stray), runs=runs)


def _searched(
    kill: Kill,
    plans: Iterable[tuple[int, RunPlan]],
    make: Callable[[], Sabotage] = Sabotage,
    change: Callable[[Sequence[Event]], Sequence[Event]] = list,
) -> Kill:
    """Run ``plans`` until what ``kill`` expects turns red in the history, or in what ``change`` makes of it."""
    caught: set[str] = set()
    for seed, plan in plans:
        _begins(kill.cell, seed)
        run = run_plan(plan, make())
        kill = attrs.evolve(kill, runs=kill.runs + 1)
        misfit = next((text for text in run.exits if any(mark in text for mark in MISFITS)), "")
        if misfit:  # what died is the saboteur, not what it sabotaged
            return attrs.evolve(kill, caught=(), example=f"the saboteur does not fit the core any more: {misfit}")
        if run.error:
            kill = attrs.evolve(kill, example=run.error)
            continue
        violations = check_history(change(run.history))
        caught |= {violation.clause for violation in violations}
        kill = attrs.evolve(kill, caught=tuple(sorted(caught)))
        shown = next((one for one in violations if one.clause == kill.expected), None)
        if shown is not None:
            return attrs.evolve(kill, seed=seed, example=str(shown))
    return kill


# ---- refusals that are left out ----------------------------------------------------------------------------------


def _run_contract(saboteur: ContractSaboteur) -> Kill:
    with saboteur.make().installed():
        planted, green = (_checked(name, saboteur.url) for name in (saboteur.check, saboteur.green))
    return Kill(
        name=saboteur.name,
        bug=saboteur.bug,
        cell=f"contract/{label_of(saboteur.url)}/{saboteur.check}",
        expected=saboteur.clause,
        caught=(planted.check.clause,) if planted.status is Status.FAIL else (),
        green=(saboteur.green,),
        stray=() if green.status is Status.PASS else (f"{saboteur.green}: {green.text}",),
        runs=2,
        example=f"{planted.check.clause}: {planted.text}" if planted.text else "",
    )


def _checked(name: str, url: str) -> CheckResult:
    _begins(f"contract/{label_of(url)}/{name}")
    return check_part(CHECKS[name], url)


# ---- parts that lie ----------------------------------------------------------------------------------------------


def _run_part(saboteur: PartSaboteur) -> Kill:
    """Judge the liar, and the honest part where that is quick; T1 judges the latter in the project's tests."""
    caught, example, not_run = _judge_part(saboteur, saboteur.part)
    stray = ""
    if saboteur.check and not not_run:
        red, text, _ = _judge_part(saboteur, saboteur.honest)
        stray = f"the honest {saboteur.scheme}: {text}" if red else ""
    return Kill(
        name=saboteur.name,
        bug=saboteur.bug,
        cell=saboteur.place,
        expected=saboteur.clause,
        caught=caught,
        green=(f"the honest {saboteur.scheme}",) if saboteur.check else (),
        stray=(stray,) if stray else (),
        runs=1,
        example=example,
        not_run=not_run,
    )


def _judge_part(saboteur: PartSaboteur, part: type[Any]) -> tuple[tuple[str, ...], str, str]:
    """Return what turns red of ``part``, the first violation, and why nothing could be run here."""
    register(saboteur.group, saboteur.scheme, part)
    try:
        if saboteur.check:
            result = _checked(saboteur.check, saboteur.url)
            red = (result.check.clause,) if result.status is Status.FAIL else ()
            return red, f"{result.check.clause}: {result.text}", result.text if result.status is Status.NOT_RUN else ""
        cell = saboteur.cell
        capabilities = part.capabilities
        if why := why_not_in_processes(cell.transport, cell.flush, cell.family, capabilities):
            return (), "", why
        of_cell = run_cell(cell, SEEDS_DEFAULT, stop_at_first=True, begins=partial(_begins, cell.name))
        found = [violation for failure in of_cell.failures for violation in failure.violations]
        caught = tuple(sorted({violation.clause for violation in found}))
        shown = next((one for one in found if one.clause == saboteur.clause), None)
        return caught, str(shown or of_cell.reason), ""
    finally:
        unregister(saboteur.group, saboteur.scheme)


# ---- faults that do not strike -----------------------------------------------------------------------------------


def _run_injector(saboteur: Saboteur) -> Kill:
    seeds = [seed for seed, _ in itertools.islice(plans_of(saboteur), INJECTOR_SEEDS)]
    begins = partial(_begins, saboteur.cell.name)
    result = run_cell(saboteur.cell, seeds, sabotage=saboteur.make, extra_seeds_max=0, begins=begins)
    return Kill(
        name=saboteur.name,
        bug=saboteur.bug,
        cell=saboteur.cell.name,
        expected=Status.INCONCLUSIVE.value,
        caught=(result.status.value,),
        runs=result.runs,
        example="; ".join(str(violation) for failure in result.failures for violation in failure.violations)
        or result.reason,
    )


# ---- a machine that lies -----------------------------------------------------------------------------------------


def _run_eatmydata() -> Kill:
    cell = Cell(tier="T1", storage=MMAP, transport="unix", flush="sync", family="power-cut")
    kill = Kill(
        name="eatmydata",
        bug="every flush answers success and does nothing (libeatmydata)",
        cell=cell.name,
        expected="G01",
        caught=(),
        green=("sync/kill",),
        not_run=why_no_lying_disk(),
    )
    if kill.not_run:
        return kill
    _begins(cell.name, 0)
    cut = run_on_lying_disk("power-cut")
    _begins(attrs.evolve(cell, family="kill").name, 0)
    killed = run_on_lying_disk("kill")
    return attrs.evolve(
        kill,
        caught=cut.clauses,
        stray=tuple(f"sync/kill {each}" for each in (*killed.clauses, killed.error) if each),
        seed=0,
        runs=2,
        example=cut.error or cut.example,
    )


# ---- records that are not true -----------------------------------------------------------------------------------


def _run_recorder(name: str) -> Kill:
    """Change what was recorded of sound runs; the clause has to notice."""
    change, clause = RECORDERS[name]
    cell = Cell(tier="T0", storage=MMAP, transport="tcp", flush="sync", family="kill")
    kill = Kill(name=name, bug=(change.__doc__ or "").strip().rstrip("."), cell=cell.name, expected=clause, caught=())
    return _searched(kill, ((seed, plan_of(cell, seed)) for seed in range(RECORDER_SEEDS)), change=change)
