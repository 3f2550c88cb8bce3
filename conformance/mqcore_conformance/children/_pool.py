"""Several children at once, one for each piece of work; none can harm the run by dying or hanging.

Knows nothing about checks, cells and reports.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from mqcore_conformance.children._child import Outcome
from mqcore_conformance.children._forked import ForkedChild
from mqcore_conformance.children._interrupts import Interrupt

T = TypeVar("T")
R = TypeVar("R")

SILENCE_S_MAX = 600.0
"""Time limit of a child, longer than any that it sets for a child of its own."""
CLEAN_UP_S_MAX = 5.0
"""How long an interrupted child may take to clean up."""
TICK_S = 0.25


@attrs.frozen
class Ran(Generic[T]):
    """A child says how many runs of its piece are done."""

    piece: T
    runs: int


@attrs.frozen
class PieceEnded(Generic[T, R]):
    """A child is done."""

    piece: T
    outcome: Outcome[R]


@attrs.frozen
class Tick:
    """Time went by."""


PoolEvent: TypeAlias = PieceEnded[T, R] | Ran[T] | Tick


def run_in_children(
    pieces: Iterable[T],
    work: Callable[[T], R],
    *,
    jobs: int,
    interrupt: Interrupt,
    returns: Any = Any,
    folder: Path | None = None,
    deadline: float | None = None,
    kept_from_children: Iterable[int] = (),
) -> Generator[PoolEvent[T, R], None, None]:
    """Do ``work(piece)`` for every piece, ``jobs`` at once, each in a child; give what becomes of them.

    Ends early when ``interrupt`` happens (unfinished pieces are dropped) or ``deadline`` of ``time.perf_counter`` has
    passed (no piece begins after it; those under way may end). ``folder``: where temporary files of children go.
    ``kept_from_children``: descriptors that they must not hold. ``returns``: type of what ``work`` returns.
    """
    place = Path(tempfile.mkdtemp(prefix="mqcore-", dir=folder))
    children: dict[ForkedChild[R], tuple[T, Path]] = {}
    waiting, count, exhausted = iter(pieces), 0, False
    try:
        while True:
            while not exhausted and len(children) < jobs and not interrupt.happened:
                piece = next(waiting, None) if deadline is None or time.perf_counter() < deadline else None
                if piece is None:
                    exhausted = True
                    break
                count += 1
                own = place / str(count)
                own.mkdir()
                task = partial(_work_in, own, tuple(kept_from_children), work, piece)
                child = ForkedChild(task, returns=returns, seconds_max=SILENCE_S_MAX, interruptible=True)
                children[child] = piece, own
            if interrupt.happened or not children:
                return
            yield from _events(children, interrupt.reader)
            yield Tick()
    finally:
        _end_all(children)
        shutil.rmtree(place, ignore_errors=True)


def _work_in(folder: Path, kept: tuple[int, ...], work: Callable[[T], R], piece: T) -> R:
    for descriptor in kept:
        os.close(descriptor)
    tempfile.tempdir = str(folder)
    return work(piece)


def _events(children: dict[ForkedChild[R], tuple[T, Path]], interrupted: int) -> Iterator[PoolEvent[T, R]]:
    """Wait a little for news of any child."""
    readers = [child.reader for child in children] + [interrupted] * (interrupted >= 0)
    ready = select.select(readers, [], [], TICK_S)[0]
    for child, (piece, folder) in list(children.items()):
        if child.reader in ready and (runs := child.receive()):
            yield Ran(piece, runs)
        if child.is_done or time.monotonic() > child.late_at:
            del children[child]
            outcome = child.end()
            shutil.rmtree(folder, ignore_errors=True)
            yield PieceEnded(piece, outcome)


def _end_all(children: Iterable[ForkedChild[Any]]) -> None:
    """Ask every child to clean up, then kill it."""
    for child in children:
        os.kill(child.process_id, signal.SIGINT)
    until = time.monotonic() + CLEAN_UP_S_MAX
    while time.monotonic() < until and not all(map(_has_ended, children)):
        time.sleep(0.02)
    for child in children:
        child.collect()


def _has_ended(child: ForkedChild[Any]) -> bool:
    return os.waitid(os.P_PID, child.process_id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
