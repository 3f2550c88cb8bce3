"""Child processes for pieces of work: one piece each, several at once, none able to harm the run by dying or hanging.

A child is forked, so that it knows what this process registered; it leads a process group of its own, has no input,
and its output goes to a pipe of which the end is kept. Knows nothing about checks, cells and reports.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar

import attrs

from mqcore_conformance.children._interrupts import Interrupt
from mqcore_conformance.children.tracebacks import printable, tell_exception

__all__ = ["Ended", "Ran", "Tick", "run_in_children"]

T = TypeVar("T")
Tell: TypeAlias = Callable[[int], None]
Work: TypeAlias = Callable[[T, Tell], dict[str, Any]]

SILENCE_S_MAX = 300.0
"""A child of which nothing is heard for so long is taken for dead."""
PATIENCE_S = 5.0
"""How long an interrupted child may take to clean up."""
TICK_S = 0.25
OUTPUT_BYTES_MAX = 2_000
MESSAGE_BYTES_MAX = 256 * 1024 * 1024
READ_BYTES = 1 << 20


@attrs.frozen
class Ran(Generic[T]):
    """A child says how many runs of its piece are done."""

    piece: T
    runs: int


@attrs.frozen
class Ended(Generic[T]):
    """A child is done: ``value``, or a ``problem`` in a line. ``output``: the end of what it printed."""

    piece: T
    value: dict[str, Any] | None
    problem: str = ""
    output: str = ""


@attrs.frozen
class Tick:
    """Time went by."""


@attrs.define(eq=False)
class _Child(Generic[T]):
    piece: T
    process_id: int
    results: int
    prints: int
    folder: Path
    heard_at: float
    received: bytearray = attrs.field(factory=bytearray)
    printed: bytearray = attrs.field(factory=bytearray)
    value: dict[str, Any] | None = None
    problem: str = ""


def run_in_children(
    pieces: Iterable[T],
    work: Work[T],
    *,
    jobs: int,
    interrupt: Interrupt,
    folder: Path | None = None,
    deadline: float | None = None,
    kept_from_children: Iterable[int] = (),
) -> Generator[Ended[T] | Ran[T] | Tick, None, None]:
    """Do ``work(piece, tell)`` for every piece, ``jobs`` at once, each in a child; give what becomes of them.

    Ends early when ``interrupt`` happens (unfinished pieces are dropped) or ``deadline`` of ``time.perf_counter`` has
    passed (no piece begins after it; those under way may end). ``folder``: where temporary files of children go.
    ``kept_from_children``: descriptors that they must not hold. The value of ``work`` has to be JSON.
    """
    pool = _Pool(work, tuple(kept_from_children), folder)
    waiting = iter(pieces)
    exhausted = False
    try:
        while True:
            while not exhausted and len(pool.children) < jobs and not interrupt.happened:
                piece = next(waiting, None) if deadline is None or time.perf_counter() < deadline else None
                if piece is None:
                    exhausted = True
                else:
                    pool.start(piece)
            if interrupt.happened or not pool.children:
                return
            yield from pool.hear(interrupt.reader)
            yield Tick()
    finally:
        pool.close()


class _Pool(Generic[T]):
    def __init__(self, work: Work[T], kept: tuple[int, ...], folder: Path | None) -> None:
        self.children: list[_Child[T]] = []
        self._work = work
        self._kept = kept
        self._folder = Path(tempfile.mkdtemp(prefix="mqcore-", dir=folder))
        self._count = 0

    def start(self, piece: T) -> None:
        """Fork a child for a piece."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        results_reader, results_writer = os.pipe()
        prints_reader, prints_writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # idle threads of Trio's cache do no harm
            process_id = os.fork()
        if process_id == 0:
            for descriptor in (results_reader, prints_reader, *self._kept):
                os.close(descriptor)
            _live(self._work, piece, results_writer, prints_writer, folder)
        os.close(results_writer)
        os.close(prints_writer)
        with contextlib.suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(process_id, process_id)
        self.children.append(_Child(piece, process_id, results_reader, prints_reader, folder, time.monotonic()))

    def hear(self, interrupted: int) -> Iterator[Ended[T] | Ran[T]]:
        """Wait a little for news of any child."""
        descriptors = [number for child in self.children for number in (child.results, child.prints) if number >= 0]
        ready, _, _ = select.select([*descriptors, *([interrupted] if interrupted >= 0 else [])], [], [], TICK_S)
        for child in list(self.children):
            if child.prints in ready:
                self._hear_print(child)
            if child.results in ready:
                yield from self._hear_result(child)
            elif time.monotonic() - child.heard_at > SILENCE_S_MAX:
                child.problem = f"nothing was heard of its process for {SILENCE_S_MAX:.0f} s: it hangs, and was ended"
                yield self._end(child)

    def _hear_print(self, child: _Child[T]) -> None:
        data = os.read(child.prints, READ_BYTES)
        if not data:
            os.close(child.prints)
            child.prints = -1
        child.printed += data
        del child.printed[:-OUTPUT_BYTES_MAX]

    def _hear_result(self, child: _Child[T]) -> Iterator[Ended[T] | Ran[T]]:
        data = os.read(child.results, READ_BYTES)
        child.heard_at = time.monotonic()
        child.received += data
        *lines, child.received = child.received.split(b"\n") if b"\n" in data else [child.received]
        for line in lines:
            try:
                message = json.loads(line)
                if "ran" in message:
                    yield Ran(child.piece, int(message["ran"]))
                else:
                    child.value, child.problem = message["value"], message["problem"]
            except (ValueError, TypeError, KeyError):
                child.problem = "its process wrote garbage where its result belongs"
        if not data or child.value is not None or child.problem or len(child.received) > MESSAGE_BYTES_MAX:
            yield self._end(child)

    def _end(self, child: _Child[T]) -> Ended[T]:
        """Collect a child, and end whatever it started."""
        self.children.remove(child)
        status = self._collect(child)
        if child.value is None and not child.problem:
            child.problem = _died(status)
        output = printable(bytes(child.printed).decode(errors="backslashreplace"), lines=True)
        return Ended(child.piece, child.value, child.problem, output)

    def _collect(self, child: _Child[T]) -> int:
        """End a child and all that it started; return its exit status (its own, when it ended before)."""
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(child.process_id, signal.SIGKILL)
        _, status = os.waitpid(child.process_id, 0)
        while child.prints >= 0 and select.select([child.prints], [], [], 0)[0]:
            self._hear_print(child)
        for descriptor in (child.results, child.prints):
            if descriptor >= 0:
                os.close(descriptor)
        shutil.rmtree(child.folder, ignore_errors=True)
        return status

    def close(self) -> None:
        """End every child that is left: ask it to clean up, then kill it."""
        for child in self.children:
            os.kill(child.process_id, signal.SIGINT)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and not all(map(_has_ended, self.children)):
            open_ends = {child.prints: child for child in self.children if child.prints >= 0}
            for ready in select.select(list(open_ends), [], [], 0.02)[0]:
                self._hear_print(open_ends[ready])  # a child that prints must not wait for a reader
        for child in self.children:
            self._collect(child)
        self.children.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _has_ended(child: _Child[Any]) -> bool:
    return os.waitid(os.P_PID, child.process_id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _died(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit status {os.waitstatus_to_exitcode(status)}"


# ---- inside the child --------------------------------------------------------------------------------------------


def _live(work: Work[T], piece: T, results: int, prints: int, folder: Path) -> NoReturn:
    """Work, tell, end; whatever happens, nothing of the parent's goes on here."""
    status = 1
    try:
        _settle(prints, folder)
        answer: dict[str, Any] = {"value": None, "problem": ""}
        try:
            answer["value"] = work(piece, lambda runs: _write(results, {"ran": runs}))
        except Exception as error:
            answer["problem"] = tell_exception(error)
        _write(results, answer)
        status = 0
    finally:
        os._exit(status)


def _settle(prints: int, folder: Path) -> None:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (prints, 1), (prints, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(prints)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
        for number in (1, 2)
    )
    tempfile.tempdir = str(folder)


def _write(descriptor: int, message: dict[str, Any]) -> None:
    view = memoryview(json.dumps(message).encode() + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]
