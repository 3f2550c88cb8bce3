"""Runs a function in a child process, so that a part that hangs, dies, prints or leaks harms nobody but itself.

The child is forked, not started anew: it knows what this process registered. It has a session of its own, no input,
its output in a file, and a time limit that a thread of the child keeps, and the parent where that thread is held up
too: then the interpreter's fault handler says where. Knows nothing about checks and cells.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import os
import re
import select
import signal
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any, Generic, TypeVar

import attrs

from mqcore_conformance.children._codec import HandoverError, from_json, to_json
from mqcore_conformance.children.tracebacks import (
    Place,
    innermost_of_part,
    places_of_frame,
    places_of_tasks,
    printable,
    tell_exception,
)
from mqcore_conformance.unchanged import Survey

__all__ = ["Outcome", "alive", "at_most", "doing", "run_apart", "surveyed"]

T = TypeVar("T")

OUTPUT_CHARS_MAX = 2_000
RESULT_BYTES_MAX = 1 << 30
PATIENCE_S_MAX = 1.0
"""How much later, at most, whoever keeps the time limit looks than the one before."""
DUMP_SIGNAL = signal.SIGUSR2
"""Makes the child's fault handler say where it is, whatever holds the interpreter."""

_HEADER = struct.Struct("!cQ")
_BEAT, _RESULT = b"b", b"r"
_DUMPED = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)')


@attrs.frozen(kw_only=True)
class Outcome(Generic[T]):
    """What came of it: ``value``, or a ``problem`` in one line. ``output``: the end of what was printed meanwhile.

    ``doing``: what ``alive`` was told last, where the child could still say so. ``tampered``: what ran there changed
    the suite or the core, so that its value would mean nothing; the problem names what.
    """

    value: T | None = None
    problem: str = ""
    hung: bool = False
    tampered: bool = False
    output: str = ""
    doing: Any = None


_GARBAGE: Outcome[Any] = Outcome(problem="its process wrote garbage where its result belongs")


def run_apart(function: Callable[[], T], *, seconds_max: float) -> Outcome[T]:
    """Return what came of ``function()`` in a child process, at the latest ``seconds_max`` after the last ``alive()``.

    The value has to be one that ``codec`` takes. Whatever the child started ends with it.
    """
    parent, patience_s = os.getpid(), min(seconds_max, PATIENCE_S_MAX)
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as dump:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # idle threads of Trio's cache do no harm
            child = os.fork()
        if child == 0:
            os.close(reader)
            _Child(parent, writer, output, dump, seconds_max).run(function)
        os.close(writer)
        try:
            found = _wait(reader, seconds_max + 2 * patience_s)
            if found == "late":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, DUMP_SIGNAL)
                select.select([reader], [], [], patience_s)
        finally:
            os.close(reader)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):  # it may not have made its own group yet
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        printed = _tail(output)
        if isinstance(found, Outcome):
            return attrs.evolve(found, output=printed)
        if found == "late":
            return Outcome(problem=_hangs(seconds_max, _dumped(dump)), hung=True, output=printed)
        return Outcome(problem=_died(status, _dumped(dump)), output=printed)


@contextlib.contextmanager
def surveyed() -> Iterator[None]:
    """For a block: what a part changes of the suite in this process, when it is imported, counts too."""
    before, _Child.survey = _Child.survey, Survey.take()
    try:
        yield
    finally:
        _Child.survey = before


def alive(doing: object = None) -> None:
    """Say that a long piece of work goes on: the time limit begins anew. Nothing happens outside ``run_apart``."""
    if _Child.current is not None:
        _Child.current.doing = doing
        _Child.current.beat()


def doing(what: object) -> None:
    """Say what is being done, for the case that it hangs; the time limit goes on."""
    if _Child.current is not None:
        _Child.current.doing = what


@contextlib.contextmanager
def at_most(seconds_max: float) -> Iterator[None]:
    """Lower the time limit for a block that has to be quick; the one before goes on after it."""
    child = _Child.current
    if child is None:
        yield
        return
    before = child.limit_s, child.deadline
    child.limit_s = min(seconds_max, child.limit_s)
    child.deadline = min(child.deadline, time.monotonic() + seconds_max)
    try:
        yield
    finally:
        child.limit_s, child.deadline = before


class _Child:
    """The child's side; ``run`` does not return."""

    current: _Child | None = None
    survey: Survey | None = None

    def __init__(self, parent: int, writer: int, output: IO[bytes], dump: IO[bytes], seconds_max: float) -> None:
        self._writer, self._output, self._dump = writer, output, dump
        self._seconds_max = self.limit_s = seconds_max
        self._patience_s = min(seconds_max, PATIENCE_S_MAX)
        self.deadline = time.monotonic() + seconds_max
        self._parent = parent
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self.doing: object = None

    def run(self, function: Callable[[], object]) -> None:
        """Run, tell, end."""
        is_nested = _Child.current is not None
        surveys = [] if is_nested else [Survey.take(), *filter(None, (_Child.survey,))]
        try:
            self._settle()
            outcome: Outcome[object] = Outcome(value=function())
        except BaseException as error:
            outcome = Outcome(problem=tell_exception(error))
        changed = next(filter(None, (survey.first_change() for survey in surveys)), "")
        if changed:
            outcome = Outcome(problem=f"the part changed {changed} of the suite", tampered=True)
        self._end(outcome)

    def _settle(self) -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business; what is raised here, the part raised
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(self._output.fileno(), number)
            text = io.TextIOWrapper(
                io.FileIO(number, "w", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
            )
            setattr(sys, name, text)
        faulthandler.enable(file=self._dump, all_threads=False)
        faulthandler.register(DUMP_SIGNAL, file=self._dump, all_threads=False)
        _Child.current = self
        self.beat()
        threading.Thread(target=self._watch, name="mqcore-conformance watch", daemon=True).start()

    def beat(self) -> None:
        """Begin the time limit anew, for the child and its parent."""
        self.deadline = time.monotonic() + self._seconds_max
        with self._lock:
            os.write(self._writer, _HEADER.pack(_BEAT, 0))

    def _watch(self) -> None:
        while (left := self.deadline + self._patience_s - time.monotonic()) > 0:
            time.sleep(min(left, PATIENCE_S_MAX))
            if os.getppid() != self._parent:  # nobody waits for it any more
                os.killpg(0, signal.SIGKILL)
        frame = sys._current_frames().get(self._main)
        places = places_of_frame(frame, __file__) if frame is not None else []
        where = innermost_of_part(places) or innermost_of_part(places_of_tasks())
        self._end(Outcome(problem=_hangs(self.limit_s, where), hung=True, doing=self.doing))

    def _end(self, outcome: Outcome[Any]) -> None:
        if not self._lock.acquire(timeout=self._patience_s):
            os._exit(1)
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        try:
            data = to_json(outcome)
        except BaseException as error:
            data = to_json(Outcome[Any](problem=f"its result cannot be handed over: {tell_exception(error)}"))
        with contextlib.suppress(OSError):  # nobody waits for it any more
            _write_all(self._writer, _HEADER.pack(_RESULT, len(data)) + data)
        os._exit(0)


def _write_all(writer: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writer, view) :]


def _wait(reader: int, seconds_max: float) -> Outcome[Any] | str:
    """Return what the child tells, or ``late`` or ``gone``."""
    received = bytearray()
    deadline = time.monotonic() + seconds_max
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return "late"
        data = os.read(reader, 1 << 20)
        if not data:
            return "gone"
        received += data
        while len(received) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(received)
            if kind == _BEAT:
                del received[: _HEADER.size]
                deadline = time.monotonic() + seconds_max
            elif kind != _RESULT or size > RESULT_BYTES_MAX:
                return _GARBAGE
            elif len(received) >= _HEADER.size + size:
                return _outcome_of(received[_HEADER.size :])
            else:
                break


def _outcome_of(data: bytearray) -> Outcome[Any]:
    with contextlib.suppress(HandoverError):
        found = from_json(data)
        if isinstance(found, Outcome) and isinstance(found.problem, str):
            return found
    return _GARBAGE


def _hangs(seconds_max: float, where: Place | None) -> str:
    place = f"; it is in {where}" if where is not None else ""
    return f"it hangs, and observes no cancellation: nothing came of it in {seconds_max:g} s{place}"


def _died(status: int, where: Place | None) -> str:
    place = f" in {where}" if where is not None else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"it ended its process by signal {number} ({signal.Signals(number).name}){place}"
    return f"it ended its process with exit status {os.waitstatus_to_exitcode(status)}{place}"


def _dumped(dump: IO[bytes]) -> Place | None:
    """Return the place of the main thread, the last one in the fault handler's dump, whose innermost frame is first."""
    dump.seek(0)
    text = dump.read().decode(errors="replace").rpartition("most recent call first")[2]
    places = [Place(one["file"], int(one["line"]), one["name"]) for one in _DUMPED.finditer(text)]
    inside = list(itertools.takewhile(lambda place: place.file != __file__, places))
    return innermost_of_part(inside[::-1])


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - OUTPUT_CHARS_MAX))
    return printable(output.read().decode(errors="backslashreplace"), lines=True)[-OUTPUT_CHARS_MAX:]
