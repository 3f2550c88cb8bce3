"""A child process as its parent sees it, and ``run_apart``: one function in one child.

The child is forked, not started anew: it knows what this process registered. Knows nothing about checks and cells.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import attrs

from mqcore_conformance.children._child import (
    BEAT,
    DUMP_SIGNAL,
    HEADER,
    PATIENCE_S_MAX,
    RESULT,
    Child,
    Outcome,
    alive,
    hangs,
    outcome_type,
)
from mqcore_conformance.children._codec import HandoverError, from_json
from mqcore_conformance.children.queued import queued_s
from mqcore_conformance.children.tracebacks import Place, innermost_of_part, printable

T = TypeVar("T")

OUTPUT_CHARS_MAX = 2_000
RESULT_BYTES_MAX = 1 << 30
READ_BYTES = 1 << 20
GARBAGE: Outcome[Any] = Outcome(problem="its process wrote garbage where its result belongs")
_DUMPED = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>.+)')
_SUITE_CHILD = str(Path(__file__).with_name("_child.py"))


class ForkedChild(Generic[T]):
    """A child that runs ``function``, whose value has the type ``returns`` (``Any``: JSON data)."""

    def __init__(
        self, function: Callable[[], T], *, returns: Any, seconds_max: float, interruptible: bool = False
    ) -> None:
        self._returns, self._seconds_max = returns, seconds_max
        self._patience_s = min(seconds_max, PATIENCE_S_MAX)
        self._received = bytearray()
        self._found: Outcome[T] | None = None
        self._output, self._dump = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - until ``collect``
        self.is_done = False
        self.beat_at = time.monotonic()
        self.reader, writer = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # idle threads of Trio's cache do no harm
            # Until the child is settled a signal waits: in what Python does at a fork it would print a traceback.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
            self.process_id = os.fork()
        if self.process_id == 0:
            os.close(self.reader)
            Child(
                writer, self._output, self._dump, parent=parent, seconds_max=seconds_max, interruptible=interruptible
            ).run(function, returns, mask)
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._queued_s = queued_s(self.process_id)

    @property
    def late_at(self) -> float:
        """When it should have ended itself, in seconds of the monotonic clock, as far as it got a processor."""
        queued = max(0.0, queued_s(self.process_id) - self._queued_s)
        return self.beat_at + self._seconds_max + 2 * self._patience_s + queued

    def receive(self) -> int:
        """Read what is there; return how far its work is, as far as it says so (0: it does not)."""
        data = os.read(self.reader, READ_BYTES)
        self._received += data
        self.is_done = not data
        number = 0
        while len(self._received) >= HEADER.size and not self.is_done:
            kind, size = HEADER.unpack_from(self._received)
            if kind == BEAT:
                del self._received[: HEADER.size]
                self.beat_at, number = time.monotonic(), size or number
                self._queued_s = queued_s(self.process_id)
            elif kind != RESULT or size > RESULT_BYTES_MAX:
                self._found, self.is_done = GARBAGE, True
            elif len(self._received) >= HEADER.size + size:
                self._found, self.is_done = self._outcome_of(self._received[HEADER.size :]), True
            else:
                break
        return number

    def _outcome_of(self, data: bytearray) -> Outcome[T]:
        try:
            found: Outcome[T] = from_json(data, outcome_type(self._returns))
        except HandoverError:
            return GARBAGE
        return found

    def end(self) -> Outcome[T]:
        """End it and all that it started, collect it, and return what came of it."""
        late = not self.is_done
        if late:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process_id, DUMP_SIGNAL)
            select.select([self.reader], [], [], self._patience_s)
        status, printed, where = self.collect()
        if self._found is not None:
            return attrs.evolve(self._found, output=printed)
        if late:
            return Outcome(problem=hangs(self._seconds_max, where), hung=True, output=printed)
        return Outcome(problem=_died(status, where), output=printed)

    def collect(self) -> tuple[int, str, Place | None]:
        """Kill it and all that it started; return its exit status, the end of its output, and where it was."""
        os.close(self.reader)
        for kill in (os.killpg, os.kill):  # it may not have made its own group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.process_id, signal.SIGKILL)
        status = os.waitpid(self.process_id, 0)[1]
        with self._output, self._dump:
            return status, _tail(self._output), _dumped(self._dump)


def run_apart(function: Callable[[], T], *, seconds_max: float, returns: Any = Any) -> Outcome[T]:
    """Return what came of ``function()`` in a child process, at the latest ``seconds_max`` after the last ``alive()``.

    ``returns``: type of its value. What the child started ends with it.
    """
    child = ForkedChild(function, returns=returns, seconds_max=seconds_max)
    try:
        while not child.is_done:
            left_s = child.late_at - time.monotonic()
            if not select.select([child.reader], [], [], max(0.0, left_s))[0]:
                if left_s <= 0:
                    break
                continue  # it may have waited for a processor meanwhile
            if number := child.receive():
                alive(number)
    except BaseException:
        child.collect()
        raise
    return child.end()


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
    inside = list(itertools.takewhile(lambda place: place.file != _SUITE_CHILD, places))
    return innermost_of_part(inside[::-1])


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - OUTPUT_CHARS_MAX))
    return printable(output.read().decode(errors="backslashreplace"), lines=True)[-OUTPUT_CHARS_MAX:]
