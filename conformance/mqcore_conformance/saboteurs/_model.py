"""What a saboteur is: one bug, the clause that it breaks, the cell that shows it, the cells that must not.

Knows plans and cells, no saboteur and nothing of the core.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import attrs

from mqcore_conformance.cells import Cell
from mqcore_conformance.plans import FLUSH_POLICIES, RunPlan, draw_plan, draw_simulated_set_plan
from mqcore_conformance.worlds.model import Sabotage

MMAP = "mmap://{dir}"
SEEDS_DRAWN_MAX = 6_000
"""Plans that are drawn, and not run, in search of those that suit a saboteur."""


def bug_of(make: Callable[[], Sabotage]) -> str:
    """Return what is planted, in words: the docstring of what plants it."""
    text = (make.__doc__ or "").strip().rstrip(".")
    return text[:1].lower() + text[1:]


@attrs.frozen(kw_only=True)
class Saboteur:
    """One bug. ``clause`` must turn red in the cell of ``flush`` and ``family``; the cells ``green`` stay green.

    ``bug``: what ``make`` plants, by its docstring. ``green``: cells as ``flush/family``, on the same storage.
    ``nodes``: of the set, under ``replication``, whose cells these are; 1: a broker alone. ``suits``: which plans of
    the cell can show the bug at all; ``shape``: what is made of them so that it does soon.
    ``seed``: one that showed it, tried first so that the selftest is quick; when plans are drawn in another way the
    seeds from 0 on are tried, ``seeds_max`` that suit.
    """

    name: str
    make: Callable[[], Sabotage]
    bug: str = attrs.field(default=attrs.Factory(lambda one: bug_of(one.make), takes_self=True))
    clause: str
    flush: str
    family: str
    green: tuple[str, ...] = ()
    transport: str = "inproc"
    nodes: int = 1
    replication: str = "sync"
    suits: Callable[[RunPlan], bool] = lambda _: True
    shape: Callable[[RunPlan], RunPlan] = lambda plan: plan
    seed: int | None = None
    seeds_max: int = 60

    @property
    def cell(self) -> Cell:
        """Where it has to be caught."""
        return self._cell(self.transport, self.flush, self.family)

    @property
    def green_cells(self) -> tuple[Cell, ...]:
        """Where nothing must be seen of it."""
        pairs = (each.split("/") for each in self.green)
        return tuple(self._cell("inproc", flush, family) for flush, family in pairs)

    def _cell(self, transport: str, flush: str, family: str) -> Cell:
        return Cell(
            tier="T0",
            storage=MMAP,
            transport=transport,
            flush=flush,
            family=family,
            nodes=self.nodes,
            replication=self.replication if self.nodes > 1 else "none",
        )


def plans_of(saboteur: Saboteur) -> Iterator[tuple[int, RunPlan]]:
    """Give seeds with their plans: the seed that is known first, then those from 0 on whose plan suits."""
    known = () if saboteur.seed is None else (saboteur.seed,)
    seeds = itertools.chain(known, range(SEEDS_DRAWN_MAX))
    drawn = ((seed, plan_of(saboteur.cell, seed)) for seed in seeds)
    suitable = ((seed, saboteur.shape(plan)) for seed, plan in drawn if saboteur.suits(plan))
    yield from itertools.islice(suitable, saboteur.seeds_max)


def plan_of(cell: Cell, seed: int) -> RunPlan:
    """Return the plan that ``seed`` has in ``cell``."""
    flush = FLUSH_POLICIES[cell.flush]
    if cell.nodes == 1:
        return draw_plan(seed, storage=cell.storage, transport=cell.transport, flush=flush, family=cell.family)
    return draw_simulated_set_plan(
        seed,
        storage=cell.storage,
        transport=cell.transport,
        flush=flush,
        family=cell.family,
        nodes=cell.nodes,
        replication=cell.replication,
    )
