"""One seed, one run: Trio on virtual time with a scheduler whose every decision comes from the seed.

The order in which Trio runs tasks that are ready at the same moment is random on purpose. Trio makes it reproducible
when Hypothesis is there (tasks sorted by age, shuffled by a generator that Hypothesis seeds); the same switch is used
here, with a generator seeded by us. A simulation spends most of its time in Trio's loop, so what the loop asks at every
turn (the time, instruments, the operating system's events) is answered here without detours, and with the same answers.
This module and ``_stuck`` are the only ones that touch Trio's private names.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import trio
import trio.testing

from mqcore.ports import Ports
from mqcore.testing._clock import ModelClock
from mqcore.testing._disk import ModelDisk
from mqcore.testing._stuck import Stuck
from mqcore.testing._threads import ModelThreads

__all__ = ["SECONDS_MAX", "model_ports", "run_simulation", "seeded"]

T = TypeVar("T")

SECONDS_MAX = 10_000_000.0
"""Virtual seconds after which a simulation is stopped: nothing that is meant to end takes months."""

TURNS_PER_POLL = 64
"""Turns of the loop between two looks at the operating system, which has nothing to tell but Ctrl-C."""


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
    Raises ``trio.TooSlowError`` when the run is not over after ``seconds_max`` virtual seconds, a deadlock included (of
    one that shields itself it says which task waits where), and what an instrument raises, which ends the run.
    """
    stuck = Stuck()

    async def bounded() -> T:
        scope = trio.CancelScope()
        quick = _quicken_loop(scope)
        with scope, trio.fail_after(seconds_max):
            result = await async_function(*args)
            if quick.error is None:
                return result
        assert quick.error is not None, "only the loop cancels the scope"
        raise quick.error

    with _deterministic(seed):
        try:
            result = trio.run(bounded, clock=_virtual_clock(stuck), instruments=list(instruments))
        except BaseException:
            if stuck.error is not None:
                raise stuck.error from None
            raise
    if stuck.error is not None:
        raise stuck.error
    return result


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


def _virtual_clock(stuck: Stuck) -> trio.testing.MockClock:
    """Return a clock that jumps to the next deadline when nothing can run, and never asks the real time.

    Without a next deadline it asks ``stuck``.
    """
    scheduler: Any = trio._core._run
    clock: Any = trio.testing.MockClock(autojump_threshold=0)

    def deadline_to_sleep_time(deadline: float) -> float:
        return 0 if deadline <= clock._virtual_base else math.inf

    def autojump() -> None:
        runner = scheduler.GLOBAL_RUN_CONTEXT.runner
        jump = runner.deadlines.next_deadline() - clock._virtual_base
        if 0 < jump < math.inf:
            clock._virtual_base += jump
        elif jump == math.inf and isinstance(runner.io_manager, _Events):
            stuck.look(runner, runner.io_manager.turns)

    clock.current_time = lambda: clock._virtual_base
    clock.deadline_to_sleep_time = deadline_to_sleep_time
    clock._autojump = autojump
    return clock  # type: ignore[no-any-return]


class _Instruments(dict[str, tuple[Callable[..., object], ...]]):
    """What Trio's loop asks at every turn and step, as a plain table. An instrument that raises ends the run."""

    def __init__(self, instruments: Mapping[str, Iterable[trio.abc.Instrument]], scope: trio.CancelScope) -> None:
        super().__init__(
            (hook, tuple(getattr(instrument, hook) for instrument in having))
            for hook, having in instruments.items()
            if hook != "_all"
        )
        self.error: Exception | None = None
        self._scope = scope

    def call(self, hook: str, *args: object) -> None:
        """Call ``hook`` of each instrument that has it."""
        try:
            for function in self[hook]:
                function(*args)
        except Exception as error:
            # raised here it would leave Trio's loop with its tasks half done
            self.error = self.error or error
            self._scope.cancel()


class _Events:
    """The operating system's events, looked for now and then only."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.turns = 0

    def get_events(self, timeout: float) -> Any:
        """Return events; none without asking when the loop would not wait for them anyway."""
        self.turns += 1
        return self._inner.get_events(timeout) if timeout or self.turns % TURNS_PER_POLL == 0 else ()

    def process_events(self, events: Any) -> None:
        """Wake whom the events wake."""
        if events:
            self._inner.process_events(events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _quicken_loop(scope: trio.CancelScope) -> _Instruments:
    """Take detours out of the loop of this Trio run. ``scope`` is cancelled when an instrument raises."""
    scheduler: Any = trio._core._run
    runner = scheduler.GLOBAL_RUN_CONTEXT.runner
    runner.io_manager = _Events(runner.io_manager)
    runner.instruments = quick = _Instruments(runner.instruments.data, scope)
    return quick
