"""Standard output and error of the command line. Rule: what is written is written whole, or the status is not 0.

Python's own streams do not keep it: with ``PYTHONUNBUFFERED`` one may take a part and drop the rest, with a descriptor
in non-blocking mode it raises half-way, and when the descriptor was closed at start there is none. Must not know verbs.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from mqcore.errors import MqcoreError

__all__ = ["LineQueue", "OutputFailedError", "whole_output"]

_LINES_MAX = 1000
_CLOSE_TIMEOUT_S = 1.0


class OutputFailedError(MqcoreError):
    """Something could not be written to standard output, so that what was printed is not all."""


class _WholeWriter(io.RawIOBase):
    """Writes all of what it is given to a descriptor, however often that takes, or raises ``OSError``."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object) -> int:
        """Return the size of ``data``, all of which was written."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = len(view)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # Non-blocking mode belongs to the open file, which a parent may share with us: it is not ours to reset.
                wait = select.poll()
                wait.register(self._descriptor, select.POLLOUT)
                wait.poll()
        return size


class _Output(_WholeWriter):
    """Standard output: a failure ends the command; that the reader went away stays a ``BrokenPipeError``."""

    def __init__(self, *, is_closed: bool) -> None:
        super().__init__(1)
        self._is_closed = is_closed

    def fileno(self) -> int:
        """The descriptor. Raises ``io.UnsupportedOperation`` when there is none."""
        if self._is_closed:
            raise io.UnsupportedOperation("standard output is closed")
        return super().fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self._is_closed and super().isatty()

    def write(self, data: object) -> int:
        """As above. Raises ``OutputFailedError``, ``BrokenPipeError``."""
        # Not tried when it was closed at start: the descriptor's number may belong to another file by now.
        if self._is_closed:
            raise OutputFailedError("standard output is closed: nothing can be printed")
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailedError(f"standard output: {error.strerror}: what was printed is not all") from None


class _Complaints(_WholeWriter):
    """Standard error: a failure is passed over, since there is nowhere left to report it; the status says the rest."""

    def __init__(self, *, is_closed: bool) -> None:
        super().__init__(2)
        self._is_closed = is_closed

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return not self._is_closed and super().isatty()

    def write(self, data: object) -> int:
        """As above, never raising."""
        if not self._is_closed:
            with suppress(OSError):
                return super().write(data)
        return len(memoryview(data))  # type: ignore[arg-type]


@contextmanager
def whole_output() -> Iterator[None]:
    """Put streams that keep the rule in place of ``sys.stdout`` and ``sys.stderr`` while the block lasts.

    A stream that somebody has replaced already, as test tools do, is left alone.
    """
    out, err = sys.stdout, sys.stderr
    if out is sys.__stdout__:
        if out is not None:
            with suppress(OSError):  # what a program wrote before it called the command line
                out.flush()
        sys.stdout = _text(_Output(is_closed=out is None), out)
    if err is sys.__stderr__:
        sys.stderr = _text(_Complaints(is_closed=err is None), err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def _text(raw: _WholeWriter, like: TextIO | None) -> io.TextIOWrapper:
    # Nothing is buffered: a failure is raised by the write that met it, and none is left for the interpreter's exit.
    # Surrogates stand for bytes of names that are no UTF-8, and come out as those very bytes.
    encoding = (like.encoding if like is not None else None) or "utf-8"
    return io.TextIOWrapper(raw, encoding, "surrogateescape", write_through=True)  # type: ignore[arg-type]


class LineQueue:
    """Lines for a stream that may stop taking any: ``put`` never waits; what finds no room is dropped and counted.

    ``stream`` returns the stream to write to, and is asked at each write. ``render_dropped`` makes the line that says
    how many were dropped; it is written when lines can be written again.
    """

    def __init__(self, stream: Callable[[], io.TextIOBase], render_dropped: Callable[[int], str]) -> None:
        self.dropped = 0
        self._stream = stream
        self._render_dropped = render_dropped
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Queue ``line``."""
        with self._changed:
            if len(self._lines) >= _LINES_MAX:
                self.dropped += 1
                return
            self._lines.append(line)
            if self._thread is None:
                # A daemon: a write that never ends must not keep the process.
                self._thread = threading.Thread(target=self._write_all, name="mqcore-lines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write what is queued, as far as it is taken within a second."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    if self._is_closed:
                        return
                    self._changed.wait()
                lines = list(self._lines)
                self._lines.clear()
                dropped = self.dropped
            if dropped:
                lines.append(self._render_dropped(dropped))
            try:
                stream = self._stream()
                stream.write("".join(f"{line}\n" for line in lines))
                stream.flush()
            except (OSError, ValueError, OutputFailedError):
                with self._changed:
                    self.dropped += len(lines) - bool(dropped)
            else:
                with self._changed:
                    self.dropped -= dropped
