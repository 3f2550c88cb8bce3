"""One seed, one run: Trio on virtual time with a scheduler whose every decision comes from the seed.

The order in which Trio runs tasks that are ready at the same moment is random on purpose. Trio makes it reproducible
when Hypothesis is there (tasks sorted by age, shuffled by a generator that Hypothesis seeds); the same switch is used
here, with a generator seeded by us. This is the only module that touches Trio's private names.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import trio
import trio.testing

from mqcore.ports import Ports
from mqcore.testing._clock import ModelClock
from mqcore.testing._disk import ModelDisk
from mqcore.testing._threads import ModelThreads

__all__ = ["SECONDS_MAX", "model_ports", "run_simulation", "seeded"]

T = TypeVar("T")

SECONDS_MAX = 10_000_000.0
"""Virtual seconds after which a simulation is stopped: nothing that is meant to end takes months."""


def seeded(seed: int | str, purpose: str) -> random.Random:
    """Return a generator for one purpose of a seed: what one purpose draws does not move the others."""
    return random.Random(f"{seed}/{purpose}")


def model_ports(seed: int = 0, disk: ModelDisk | None = None, *, clock: ModelClock | None = None) -> Ports:
    """Return ports on a model disk and model clocks.

    ``disk`` is by default a new one from ``seed``; give the one that ``restart`` returned to go on after a crash.
    ``clock`` likewise.
    """
    files = disk if disk is not None else ModelDisk(seeded(seed, "disk"))
    return Ports(
        files=files,
        threads=ModelThreads(files),
        clock=clock if clock is not None else ModelClock(),
        random=seeded(seed, "ports"),
    )


def run_simulation(
    async_function: Callable[..., Awaitable[T]],
    *args: object,
    seed: int = 0,
    seconds_max: float = SECONDS_MAX,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """Run ``async_function(*args)`` in Trio on virtual time and return its result.

    The same seed gives the same run, in another process and under another ``PYTHONHASHSEED`` too, as long as the code
    decides nothing by the order of sets, by ``id`` or by real time. Python's global ``random`` is seeded as well.
    Raises ``trio.TooSlowError`` when the run is not over after ``seconds_max`` virtual seconds, a deadlock included.
    """

    async def bounded() -> T:
        with trio.fail_after(seconds_max):
            return await async_function(*args)

    with _deterministic(seed):
        return trio.run(
            bounded, clock=trio.testing.MockClock(autojump_threshold=0), instruments=list(instruments)
        )


@contextlib.contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    scheduler: Any = trio._core._run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(f"{seed}/scheduler")
    random.seed(f"{seed}/global")
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING, state, global_state = before
        scheduler._r.setstate(state)
        random.setstate(global_state)
