"""One run of a plan in the world of its tier, and what it leaves behind. Must not know what a run consists of.

And a few runs of the same: until one shows what it was to show, or to learn at which calls of the file system a crash
makes a difference. Two calls with no change of the disk, no event of the history and no operation on a socket between
them are one crash point: a death at either leaves the same disk, the same replies and the same clients behind.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from mqcore.abc import Notice
from mqcore.nurseries import root_cause
from mqcore.testing import DiskCall, run_simulation
from mqcore_conformance.checkers import check_history
from mqcore_conformance.children.tracebacks import remember_tasks
from mqcore_conformance.histories import Event, history_digest
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.play._script import play
from mqcore_conformance.verdicts import Violation
from mqcore_conformance.world import World
from mqcore_conformance.worlds.model import ModelSetWorld, ModelWorld, Sabotage, StepCounter
from mqcore_conformance.worlds.processes import ProcessWorld, SetWorld

SECONDS_MAX = 3_600.0
TRIES_IN_REAL_TIME = 3
"""How often a plan of T1 is run until it shows what is wrong: time is real there."""
READING = frozenset(
    {"stat", "list", "free_bytes", "pread", "map", "view", "size", "link_count", "drop_cache", "close", "release"}
)
"""Calls that leave the disk as it was."""


@attrs.frozen(kw_only=True)
class RunResult:
    """What a run left behind. ``error``: why the engine could not finish it; then the history proves nothing."""

    plan: RunPlan
    history: list[Event] = attrs.field(factory=list)
    notices: list[Notice] = attrs.field(factory=list)
    witnesses: Counter[str] = attrs.field(factory=Counter)
    exits: list[str] = attrs.field(factory=list)
    events: int = 0
    real_seconds: float = 0.0
    error: str = ""

    @property
    def digest(self) -> str:
        """Checksum of the history."""
        return history_digest(self.history)


def run_plan(
    plan: RunPlan,
    sabotage: Sabotage | None = None,
    *,
    watch: Callable[[ModelWorld, DiskCall], None] | None = None,
    eat_my_data: bool = False,
) -> RunResult:
    """Run a plan. In a simulation the same plan gives the same history, in any process; in real time it does not.

    ``watch`` (T0) is called with each call of the file system before healing, in a plan whose faults do not come with
    calls. ``eat_my_data`` (T1): the brokers' flushes do nothing (see ``why_no_eatmydata``).
    """
    worlds: list[World] = []
    began = time.perf_counter()
    error = ""
    try:
        with _silenced("mqcore.client"):
            if plan.tier == "T1":
                _run_in_processes(plan, eat_my_data, worlds)
            else:
                _run_simulated(plan, sabotage or Sabotage(), watch, worlds)
    except trio.TooSlowError as late:
        error = f"the run was not over after {SECONDS_MAX:.0f} virtual seconds: {late or 'something waits for ever'}"
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
        cause = root_cause(failure)
        if cause is not failure:
            error += f" ({type(cause).__name__}: {cause})"
    if not worlds:
        return RunResult(plan=plan, error=error)
    world = worlds[0]
    return RunResult(
        plan=plan,
        history=world.history,
        notices=world.notices,
        witnesses=world.witnesses,
        exits=world.exits,
        events=world.event_count,
        real_seconds=time.perf_counter() - began,
        error=error,
    )


def _run_simulated(
    plan: RunPlan, sabotage: Sabotage, watch: Callable[[ModelWorld, DiskCall], None] | None, worlds: list[World]
) -> None:
    steps = StepCounter()

    async def run() -> None:
        remember_tasks()
        world = (ModelSetWorld if plan.nodes > 1 else ModelWorld)(plan, sabotage, steps)
        worlds.append(world)
        if watch is not None and isinstance(world, ModelWorld):
            world.disk.on_call = partial(watch, world)
        with world.network.installed():
            await play(world)

    with sabotage.installed():
        run_simulation(run, seed=plan.seed, seconds_max=SECONDS_MAX, instruments=[steps])


def _run_in_processes(plan: RunPlan, eat_my_data: bool, worlds: list[World]) -> None:
    with tempfile.TemporaryDirectory(prefix="mqcore-t1-") as folder:

        async def run() -> None:
            kind = SetWorld if plan.nodes > 1 else ProcessWorld
            world = kind(plan, Path(folder), eat_my_data=eat_my_data)
            worlds.append(world)
            await play(world)

        trio.run(run)


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep what a logger says from standard error, where it goes if nothing was set up."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def run_until_shown(
    plan: RunPlan,
    clauses: Iterable[str] = (),
    *,
    tries: int = TRIES_IN_REAL_TIME,
    sabotage: Callable[[], Sabotage] = Sabotage,
    until: float = float("inf"),
) -> tuple[RunResult, Sequence[Violation], int]:
    """Run a plan until it breaks one of ``clauses``, at most ``tries`` times; the last run, and how many there were.

    No run begins after the time ``until`` (of ``time.perf_counter``), the first one apart.
    """
    wanted = tuple(clauses)
    runs = 0
    while True:
        runs += 1
        result = run_plan(plan, sabotage())
        violations = check_history(result.history, wanted) if not result.error else []
        if violations or result.error or runs >= tries or time.perf_counter() > until:
            return result, violations, runs


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
