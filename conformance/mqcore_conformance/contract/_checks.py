"""What a contract check is, and how one is run: in a process of its own, bounded in time, judged in one sentence.

A part under test may hang, raise anything, print, leak, end its process, or lie; none of that may look like a fault
of the suite or keep the next check from running.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from mqcore.errors import ConfigurationError
from mqcore_conformance.children import Outcome, alive, run_apart
from mqcore_conformance.children.queued import queued_s
from mqcore_conformance.children.tracebacks import (
    innermost_of_check,
    innermost_of_part,
    is_raised_by_suite,
    leaves,
    places_of_tasks,
    printable,
    remember_tasks,
    tell_exception,
)
from mqcore_conformance.claims import Claims
from mqcore_conformance.contract._leftovers import Leftovers, stray_tasks
from mqcore_conformance.disk_space import why_no_room
from mqcore_conformance.verdicts import Status

SECONDS_MAX = 10.0
"""Time limit of a check that states none."""

SHORT_S = 1.5
"""Time limit of each attempt to find fewer steps that hang."""

LOOK_S = 0.5
"""Time between two looks whether a check that has used its time waits for something else."""

TEXT_CHARS_MAX = 700

Step = Mapping[str, Any]


class CheckFailed(Exception):
    """A contract does not hold; the message says what was promised and what was seen.

    ``steps``: the operations that show it, as data to do them again.
    """

    def __init__(self, text: str, steps: Sequence[Step] = ()) -> None:
        super().__init__(text)
        self.steps = tuple(steps)


class NotApplicable(Exception):
    """The part does not claim what the check is about; the message says what, and what was seen all the same.

    Only the suite says so: raised by the part itself it is any exception.
    """


class CheckNotRun(Exception):
    """The check cannot be run here, or another one is in its place; the message says why. Only the suite says so."""


@attrs.frozen
class Check:
    """One check. ``kind``: ``storage``, ``transport``, ``coordinator``, ``offset_store`` or ``authenticator``.

    ``function`` gets the harness of that kind.

    ``tell``: puts one of its steps into words, for a check that has steps. ``leaves_nothing``: whether it fails when
    something is left behind after it. A function that searches returns in words how much it tried.
    """

    name: str
    kind: str
    clause: str
    function: Callable[[Any], Awaitable[None] | str | None]
    seconds_max: float | None = None
    tell: Callable[[Step], str] = str
    leaves_nothing: bool = False

    @property
    def summary(self) -> str:
        """What is promised, in a sentence."""
        return (self.function.__doc__ or self.name).strip().splitlines()[0]


@attrs.frozen(kw_only=True)
class CheckResult:
    """What came of a check; ``text`` says why it is not PASS, ``output`` what the part printed meanwhile.

    ``seed`` and ``steps`` are what it takes to see the same again. ``tried``: how much a search tried, in words.
    """

    check: Check
    status: Status
    text: str = ""
    seconds: float = 0.0
    output: str = ""
    seed: int = 0
    steps: tuple[Step, ...] = ()
    tried: str = ""

    @property
    def how(self) -> str:
        """How a PASS was come by: a check that has steps searches among many sequences of them."""
        return f"sampled: {self.tried}, drawn from seed {self.seed}" if self.tried else "observed"


CHECKS: dict[str, Check] = {}
"""Every check, by name."""

F = TypeVar("F", bound=Callable[[Any], Any])


def check(
    kind: str,
    clause: str,
    *,
    seconds_max: float | None = None,
    tell: Callable[[Step], str] = str,
    leaves_nothing: bool = False,
) -> Callable[[F], F]:
    """Decorator: make a function a check of ``clause``; its docstring is what is promised."""

    def register(function: F) -> F:
        name = function.__name__
        CHECKS[name] = Check(name, kind, clause, function, seconds_max, tell, leaves_nothing)
        return function

    return register


def checks_of(kind: str) -> Iterator[Check]:
    """Every check of ``kind``, in the order in which they were defined."""
    return (one for one in CHECKS.values() if one.kind == kind)


def expect(holds: bool, text: str) -> None:
    """Raise ``CheckFailed`` with ``text`` unless ``holds``."""
    if not holds:
        raise CheckFailed(text)


@contextlib.contextmanager
def refused(what: str, error: type[Exception], *, kind: str = "", names: str = "") -> Iterator[None]:
    """Raise ``CheckFailed`` unless the block raises ``error``, of ``kind`` and with ``names`` in its text if stated."""
    try:
        yield
    except error as refusal:
        seen = getattr(refusal, "kind", "")
        expect(seen == kind or not kind, f"{what} is refused as {seen}, not {kind}")
        expect(names in str(refusal), f"the refusal of {what} does not name {names}: {refusal}")
    else:
        raise CheckFailed(f"{what} is not refused")


def expect_unknown_option_refused(url: str, seed: int, create: Callable[[str], object]) -> None:
    """Give the part at ``url`` an option that no part has: another one each time, so that no part can know it."""
    option = f"option_{random.Random(f'{seed}/option').getrandbits(40):010x}"
    with refused(f"the option {option}", ConfigurationError, names=option):
        create(f"{url}{'&' if '?' in url else '?'}{option}=1")


def expect_silence() -> None:
    """Raise unless nothing was printed in this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(1).st_size
    expect(size == 0, f"it printed {size} bytes; what an operator should know goes to the report of its context")


class Harness:
    """What every harness has: set by ``run_check``, read by checks."""

    seed: int = 0
    steps: Sequence[Step] = ()
    limit_s: float = 15.0
    claims: Claims | None = None
    elsewhere_s: float = 0.0
    waits_elsewhere: int = 0

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """For a block that waits for what is not the part's (a server that starts): its time is not the part's."""
        began = trio.current_time()
        self.waits_elsewhere += 1
        try:
            yield
        finally:
            self.waits_elsewhere -= 1
            if not self.waits_elsewhere:
                self.elsewhere_s += trio.current_time() - began
                alive()


def run_check(
    one: Check,
    make_harness: Callable[[Path], Any],
    folder: Path,
    *,
    seed: int | None = None,
    steps: Sequence[Step] = (),
    seconds_max: float | None = None,
    claims: Claims | None = None,
) -> CheckResult:
    """Run a check on a fresh harness in ``folder`` and judge it; never raises for what the part does.

    ``seed`` and ``steps``, of an earlier result, make it the same again. ``seconds_max`` overrides the check's own.
    ``claims``: what the author claims; known failures are judged by the caller.
    """
    began = time.perf_counter()
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    limit_s = seconds_max or one.seconds_max or SECONDS_MAX

    def make(place: Path) -> Any:
        harness = make_harness(place)
        harness.seed, harness.limit_s, harness.claims = seed, limit_s, claims
        return harness

    attempt = partial(_attempt, one, make, folder)
    outcome = attempt(tuple(steps), limit_s)
    status, text, found = _judged(outcome)
    if outcome.hung and found:
        found, text = _fewer_that_hang(attempt, found, text)
    passes = status is Status.PASS
    return CheckResult(
        check=one,
        status=status,
        text="" if passes else text,
        tried=text if passes else "",
        seconds=time.perf_counter() - began,
        output=outcome.output,
        seed=seed,
        steps=found,
    )


_Judged = tuple[Status, str, tuple[Step, ...]]


def _attempt(
    one: Check,
    make_harness: Callable[[Path], Any],
    folder: Path,
    steps: tuple[Step, ...],
    limit_s: float,
) -> Outcome[_Judged]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="check-", ignore_cleanup_errors=True) as place:
        run = partial(_run, one, make_harness, Path(place), steps, limit_s)
        return run_apart(run, seconds_max=limit_s, returns=_Judged)


def _run(
    one: Check,
    make_harness: Callable[[Path], Any],
    folder: Path,
    steps: tuple[Step, ...],
    limit_s: float,
) -> _Judged:
    tried = ""
    try:
        harness = make_harness(folder)
        harness.steps = steps
        leftovers = Leftovers()
        if inspect.iscoroutinefunction(one.function):
            trio.run(_bounded, one, harness, limit_s)
        else:
            tried = str(one.function(harness) or "")
        if one.leaves_nothing and (left := leftovers.left()):
            raise CheckFailed(f"it leaves behind {left}")
    except BaseException as error:
        status, text, found = _judge(error)
        problem = why_no_room(folder) if status is Status.FAIL else ""
        return (Status.ERROR, f"{problem}; {text}", ()) if problem else (status, text, found)
    return Status.PASS, tried, ()


async def _bounded(one: Check, harness: Harness, limit_s: float) -> None:
    remember_tasks()
    before = stray_tasks(())

    async def watch() -> None:
        began = trio.current_time() - queued_s()
        while (
            left_s := began + queued_s() + limit_s + harness.elsewhere_s - trio.current_time()
        ) > 0 or harness.waits_elsewhere:
            if harness.waits_elsewhere:
                alive()
            await trio.sleep(min(max(left_s, LOOK_S), limit_s / 4))
        places = places_of_tasks()
        where, check = innermost_of_part(places), innermost_of_check(places)
        place = f"; it waits in {where}" if where is not None else ""
        place += f"; the check waits in {check}" if check is not None else ""
        raise CheckFailed(f"it hangs: nothing came of it in {limit_s:g} s{place}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        waiting = one.function(harness)
        assert isinstance(waiting, Awaitable)
        await waiting
        nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint()
    left = sorted(map(_name_of, stray_tasks(before)))
    if one.leaves_nothing and left:
        raise CheckFailed(f"it leaves behind {len(left)} task(s) that go on: {', '.join(left[:3])}")


def _name_of(task: trio.lowlevel.Task) -> str:
    return printable(task.name)[:100]


def _judged(outcome: Outcome[_Judged]) -> _Judged:
    if outcome.value is not None:
        return outcome.value
    status = Status.ERROR if outcome.tampered else Status.FAIL
    return status, outcome.problem, tuple(outcome.doing or ())


def _judge(error: BaseException) -> _Judged:
    found = tuple(leaves(error))
    if found and all(isinstance(one, NotApplicable) and is_raised_by_suite(one) for one in found):
        return Status.NOT_CLAIMED, str(found[0]), ()
    if found and all(isinstance(one, CheckNotRun) and is_raised_by_suite(one) for one in found):
        return Status.NOT_RUN, str(found[0]), ()
    failed = next((one for one in found if isinstance(one, CheckFailed)), None)
    if failed is not None:
        return Status.FAIL, printable(str(failed))[:TEXT_CHARS_MAX], failed.steps
    return Status.FAIL, tell_exception(error), ()


def _fewer_that_hang(
    attempt: Callable[[tuple[Step, ...], float], Outcome[_Judged]], steps: tuple[Step, ...], text: str
) -> tuple[tuple[Step, ...], str]:
    """Return fewer steps that hang too, after a handful of attempts: what hangs mostly does so by itself."""
    for fewer in (steps[-1:], steps[-2:], steps[-3:], steps[len(steps) // 2 :]):
        if len(fewer) < len(steps):
            outcome = attempt(fewer, SHORT_S)
            if outcome.hung:
                return fewer, text
    return steps, text
