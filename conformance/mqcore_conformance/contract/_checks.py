"""What a contract check is, and how one is run: bounded in time, its failure in one sentence.

A part under test may hang, raise anything, print, or lie; none of that may look like a fault of the suite.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from mqcore_conformance.verdicts import Status

__all__ = ["CHECKS", "Check", "CheckFailed", "CheckResult", "NotApplicable", "check", "expect", "run_check"]

SECONDS_MAX = 30.0
DESCRIPTORS = "/proc/self/fd"


class CheckFailed(Exception):
    """A contract does not hold; the message says what was promised and what was seen."""


class NotApplicable(Exception):
    """The part does not claim what the check is about; the message says what."""


@attrs.frozen
class Check:
    """One check. ``kind``: ``storage`` or ``transport``. ``function`` gets the harness of that kind."""

    name: str
    kind: str
    clause: str
    function: Callable[[Any], Awaitable[None] | None]

    @property
    def summary(self) -> str:
        """What is promised, in a sentence."""
        return (self.function.__doc__ or self.name).strip().splitlines()[0]


@attrs.frozen(kw_only=True)
class CheckResult:
    """What came of a check; ``text`` says why it is not PASS, ``output`` what the part printed meanwhile."""

    check: Check
    status: Status
    text: str = ""
    seconds: float = 0.0
    output: str = ""


CHECKS: dict[str, Check] = {}
"""Every check, by name."""

F = TypeVar("F", bound=Callable[[Any], Any])


def check(kind: str, clause: str) -> Callable[[F], F]:
    """Decorator: make a function a check of ``clause``; its docstring is what is promised."""

    def register(function: F) -> F:
        CHECKS[function.__name__] = Check(function.__name__, kind, clause, function)
        return function

    return register


def expect(holds: bool, text: str) -> None:
    """Raise ``CheckFailed`` with ``text`` unless ``holds``."""
    if not holds:
        raise CheckFailed(text)


def run_check(one: Check, make_harness: Callable[[Path], Any], folder: Path) -> CheckResult:
    """Run a check on a fresh harness in ``folder`` and judge it; never raises for what the part does."""
    began = time.perf_counter()
    printed = io.StringIO()
    status, text = Status.PASS, ""
    before = _descriptors()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            _run(one, make_harness(folder))
        leaked = _descriptors() - before
        if leaked > 0:
            raise CheckFailed(f"{leaked} more descriptors are open after it than before")
    except Exception as error:
        status, text = _judge(error)
    return CheckResult(
        check=one, status=status, text=text, seconds=time.perf_counter() - began, output=printed.getvalue()[-2_000:]
    )


def _run(one: Check, harness: Any) -> None:
    if not _is_async(one.function):
        one.function(harness)
        return

    async def bounded() -> None:
        with trio.move_on_after(SECONDS_MAX) as scope:
            result = one.function(harness)
            assert result is not None
            await result
        if scope.cancelled_caught:
            raise CheckFailed(f"it hangs: nothing came of it in {SECONDS_MAX:.0f} s")

    trio.run(bounded)


def _judge(error: BaseException) -> tuple[Status, str]:
    found = next((one for one in _leaves(error) if isinstance(one, NotApplicable)), None)
    if found is not None:
        return Status.NOT_CLAIMED, str(found)
    failed = next((one for one in _leaves(error) if isinstance(one, CheckFailed)), None)
    if failed is not None:
        return Status.FAIL, str(failed)
    cause = next(iter(_leaves(error)))
    return Status.FAIL, f"it raised {type(cause).__name__}: {str(cause)[:500]}"


def _leaves(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return (leaf for each in error.exceptions for leaf in _leaves(each))
    return (error,)


def _is_async(function: Callable[..., Any]) -> bool:
    import inspect

    return inspect.iscoroutinefunction(function)


def _descriptors() -> int:
    try:
        return len(os.listdir(DESCRIPTORS))
    except OSError:
        return 0


def checks_of(kind: str) -> Iterator[Check]:
    """Every check of ``kind``, in the order in which they were defined."""
    return (one for one in CHECKS.values() if one.kind == kind)
