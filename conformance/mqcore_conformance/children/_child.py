"""Inside a child process: it runs one function, reports that it is alive, keeps its time limit and returns a value.

The child has a session of its own, no input, and its output in a file. A thread keeps the time limit, and the parent
does where that thread is held up too: then the interpreter's fault handler says where. Time in which the child waited
for a processor does not count. Knows nothing about checks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Generic, NoReturn, TypeVar

import attrs

from mqcore_conformance.children._codec import to_json
from mqcore_conformance.children.queued import queued_s
from mqcore_conformance.children.tracebacks import (
    Place,
    innermost_of_part,
    places_of_frame,
    places_of_tasks,
    tell_exception,
)
from mqcore_conformance.unchanged import Survey

T = TypeVar("T")

PATIENCE_S_MAX = 1.0
"""How much later, at most, the next keeper of the time limit looks than the one before."""
DUMP_SIGNAL = signal.SIGUSR2
"""Makes the child's fault handler say where it is, whatever holds the interpreter."""
HEADER = struct.Struct("!cQ")
"""Kind of a message, and its number: how far the work is, or the size of the result that follows."""
BEAT, RESULT = b"b", b"r"


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


def outcome_type(returns: Any) -> Any:
    """Return the type of an outcome whose value has the type ``returns``, which is known at run time only."""
    generic: Any = Outcome
    return generic[returns]


class Child:
    """The child's side. ``interruptible``: it ends in order when it is interrupted, and runs only code of the suite."""

    current: Child | None = None
    survey: Survey | None = None

    def __init__(
        self, writer: int, output: IO[bytes], dump: IO[bytes], *, parent: int, seconds_max: float, interruptible: bool
    ) -> None:
        self.writer, self._output, self._dump, self._parent = writer, output, dump, parent
        self.limit_s = seconds_max
        self._patience_s = min(seconds_max, PATIENCE_S_MAX)
        self._interruptible = interruptible
        self._is_surveyed = interruptible or (Child.current is not None and not Child.current._interruptible)
        self.beat_at = time.monotonic()
        self.deadline = self.beat_at + seconds_max
        self._queued_s = queued_s()
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self.doing: object = None
        self._returns: Any = None

    def run(self, function: Callable[[], object], returns: Any, mask: Iterable[int]) -> NoReturn:
        """Run ``function``, send its value as one of the type ``returns``, and end; only ``mask`` is blocked then."""
        try:
            self._returns = returns
            surveys = [] if self._is_surveyed else [Survey.take(), *filter(None, (Child.survey,))]
            try:
                self._settle()
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                outcome: Outcome[object] = Outcome(value=function())
            except BaseException as error:
                outcome = Outcome(problem=tell_exception(error))
            changed = next(filter(None, (survey.first_change() for survey in surveys)), "")
            if changed:
                outcome = Outcome(problem=f"the part changed {changed} of the suite", tampered=True)
            self._end(outcome)
        finally:
            os._exit(1)

    def _settle(self) -> None:
        os.setsid()
        gc.freeze()  # what was loaded before is no garbage: no collection has to go through it, nor copy its pages
        signal.set_wakeup_fd(-1)
        # what a part raises must not look like a key press: only a child of the suite's own code is interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler if self._interruptible else signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
        Child.current = self
        self.beat()
        threading.Thread(target=self._watch, name="mqcore-conformance watch", daemon=True).start()

    def beat(self, number: int = 0) -> None:
        """Begin the time limit anew, for the child and its parent."""
        self.beat_at, self._queued_s = time.monotonic(), queued_s()
        self.deadline = self.beat_at + self.limit_s
        with self._lock:
            os.write(self.writer, HEADER.pack(BEAT, number))

    def _watch(self) -> None:
        while (left := self.deadline + queued_s() - self._queued_s + self._patience_s - time.monotonic()) > 0:
            time.sleep(min(left, PATIENCE_S_MAX))
            if os.getppid() != self._parent:  # no parent is left that could end it
                os.killpg(0, signal.SIGKILL)
        frame = sys._current_frames().get(self._main)
        places = places_of_frame(frame, __file__) if frame is not None else []
        where = innermost_of_part(places) or innermost_of_part(places_of_tasks())
        self._end(Outcome(problem=hangs(self.limit_s, where), hung=True, doing=self.doing))

    def _end(self, outcome: Outcome[Any]) -> None:
        if not self._lock.acquire(timeout=self._patience_s):
            os._exit(1)
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        try:
            data = to_json(outcome, outcome_type(self._returns))
        except BaseException as error:
            problem = f"its result cannot be handed over: {tell_exception(error)}"
            data = to_json(Outcome[Any](problem=problem), outcome_type(Any))
        with contextlib.suppress(OSError):  # no parent reads it any more
            view = memoryview(HEADER.pack(RESULT, len(data)) + data)
            while view:
                view = view[os.write(self.writer, view) :]
        os._exit(0)


def hangs(seconds_max: float, where: Place | None) -> str:
    """Return in words that nothing came in ``seconds_max``."""
    place = f"; it is in {where}" if where is not None else ""
    return f"it hangs, and observes no cancellation: nothing came of it in {seconds_max:g} s{place}"


@contextlib.contextmanager
def surveyed() -> Iterator[None]:
    """For a block: what a part changes of the suite in this process, when it is imported, counts too."""
    before, Child.survey = Child.survey, Survey.take()
    try:
        yield
    finally:
        Child.survey = before


def alive(doing: object = None) -> None:
    """Say that a long piece of work goes on: the time limit begins anew, here and in each process above.

    ``doing``: what is being done; a number of runs reaches the process above, too. No effect outside a child.
    """
    if Child.current is not None:
        Child.current.doing = doing
        Child.current.beat(doing if isinstance(doing, int) else 0)


def doing(what: object) -> None:
    """Say what is being done, for the case that it hangs; the time limit goes on."""
    if Child.current is not None:
        Child.current.doing = what


@contextlib.contextmanager
def at_most(seconds_max: float) -> Iterator[None]:
    """Lower the time limit for a block that has to be quick; ``alive`` begins it anew. Then the one before goes on."""
    child = Child.current
    if child is None:
        yield
        return
    limit_s, deadline = child.limit_s, child.deadline
    child.limit_s = min(seconds_max, child.limit_s)
    child.deadline = min(child.deadline, time.monotonic() + seconds_max)
    try:
        yield
    finally:
        child.limit_s = limit_s
        child.deadline = max(deadline, child.beat_at + limit_s)
