"""What befalls the files below a folder: kills at a call, errors, a full disk, slow flushes; an undo log of writes.

Decides on the diverted calls of one process, in a thread of the suite. What ``broker_process.ports`` is for parts on
the ports, this is for parts with I/O of their own. Must not know who decides when.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import os
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from mqcore_conformance.broker_process.diverting import READS
from mqcore_conformance.broker_process.undo import Flushing, UndoLog
from mqcore_conformance.syscalls._diverted import CallListener, DivertedCall

__all__ = ["FAIL_FLUSHES", "FAIL_READS", "DivertedFiles"]

_FLUSHES = frozenset({"fsync", "fdatasync", "msync", "syncfs"})
_GATHERED = frozenset({"writev", "pwritev", "pwritev2"})
_WRITES = _GATHERED | {"write", "pwrite64"}
_ENTRIES = frozenset({"rename", "renameat", "renameat2", "unlink", "unlinkat"})
FAIL_FLUSHES, FAIL_READS = b"f", b"r"
"""What the process may ask for: that from now on each flush, or each read, of a file fails."""
FAILURES_MAX = 1_000_000
NO_POSITION = 0xFFFFFFFFFFFFFFFF
STOP_S = 0.05
"""How soon the thread sees that it is to end."""


@attrs.define(order=True)
class _Delayed:
    """A call that is decided on at ``due`` (seconds of the monotonic clock)."""

    due: float
    number: int
    call: DivertedCall = attrs.field(order=False)
    descriptor: int = attrs.field(order=False)
    flushing: Flushing | None = attrs.field(order=False)


class DivertedFiles:
    """See the module. ``folder``: what counts is below it. ``report`` is called in the thread of ``run``.

    ``kill_at``: the call before which the process ``process_id`` is killed (0: none). ``flush_us``: what each flush
    takes longer. ``undo``: path of the undo log (empty: none). The process itself may ask for what fails, by one byte
    over the socket that brought the listener, and gets the byte back once that holds.
    """

    def __init__(
        self,
        folder: str,
        report: Callable[[dict[str, Any]], None],
        *,
        process_id: int,
        kill_at: int = 0,
        flush_us: int = 0,
        undo: str = "",
    ) -> None:
        self._folder = os.path.realpath(folder)
        self._report = report
        self._kill_at, self.flush_us = kill_at, flush_us
        self._undo = UndoLog(undo) if undo else None
        self._room_bytes: int | None = None
        self._flushes_to_pass = self._flush_errors = 0
        self._fails_reads = False
        self._calls = 0
        self._lock = threading.Lock()
        self.failed_calls = 0
        self._delayed: list[_Delayed] = []
        self._numbers = itertools.count()
        self._stopped = False
        self._process_id = process_id

    # ---- what the suite asks for: any thread -----------------------------------------------------------------

    def fill(self, room_bytes: int | None) -> None:
        """Let files grow by ``room_bytes`` more, then be full; None frees the disk."""
        with self._lock:
            self._room_bytes = room_bytes

    def fail_flush(self, after: int, count: int = 1) -> None:
        """Let ``after`` flushes pass and ``count`` fail; those behind them "succeed" again."""
        with self._lock:
            self._flushes_to_pass, self._flush_errors = after, count

    def obey(self, asked: Mapping[str, Any]) -> None:
        """Do what the child of a broker on faulty ports would be asked for: ``fill`` or ``fail_flush``."""
        if "fill" in asked:
            self.fill(asked["fill"])
        if "fail_flush" in asked:
            self.fail_flush(asked["fail_flush"])

    def stop(self) -> None:
        """Let ``run`` end."""
        self._stopped = True

    # ---- the thread ------------------------------------------------------------------------------------------

    def run(self, sender: socket.socket) -> None:
        """Decide on the calls of the process at the other end of ``sender``, until it has ended or ``stop``."""
        listener = CallListener.received_from(sender)
        if listener is None:
            return
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(sender, select.POLLIN)
        try:
            while not self._stopped:
                for descriptor, events in poll.poll(self._wait_ms()):
                    if descriptor == sender.fileno():
                        if not self._asked_by(sender):
                            poll.unregister(sender)
                        continue
                    if not events & select.POLLIN:
                        return
                    call = listener.receive()
                    if call is not None:
                        self._decide(listener, call)
                while self._delayed and self._delayed[0].due <= time.monotonic():
                    self._flush(listener, heapq.heappop(self._delayed))
        finally:
            for left in self._delayed:
                os.close(left.descriptor)
            listener.close()

    def _asked_by(self, sender: socket.socket) -> bool:
        """Do what the process asks for; False when it will ask no more."""
        asked = sender.recv(1)
        if asked == FAIL_FLUSHES:
            self.fail_flush(0, count=FAILURES_MAX)
        elif asked == FAIL_READS:
            self._fails_reads = True
        sender.sendall(asked)
        return bool(asked)

    def _wait_ms(self) -> int:
        left_s = min(STOP_S, self._delayed[0].due - time.monotonic()) if self._delayed else STOP_S
        return max(0, round(left_s * 1000))

    def _decide(self, listener: CallListener, call: DivertedCall) -> None:
        try:
            self._decide_on(listener, call)
        except OSError:  # the file or its process is gone: there is nothing left to decide about
            listener.let(call)

    def _decide_on(self, listener: CallListener, call: DivertedCall) -> None:
        path = "" if call.name in _ENTRIES or call.name == "msync" else call.path
        if path and not f"{path}/".startswith(f"{self._folder}/"):
            listener.let(call)
            return
        if call.name in READS:
            if self._fails_reads:
                self.failed_calls += 1
                listener.refuse(call, errno.EIO)
            else:
                listener.let(call)
            return
        self._calls += 1
        if self._calls == self._kill_at:
            self._report({"dying": call.name, "call": self._calls})
            os.kill(self._process_id, signal.SIGKILL)
            return
        if call.name in _FLUSHES:
            self._begin_flush(listener, call, path)
        elif call.name in _ENTRIES or self._has_room(call):
            listener.let(call)
        else:
            self._report({"witness": "disk-full"})
            listener.refuse(call, errno.ENOSPC)

    # ---- writes ----------------------------------------------------------------------------------------------

    def _has_room(self, call: DivertedCall) -> bool:
        """Take note of a write or a change of size; False when the disk has no room for it."""
        descriptor = call.open()
        try:
            size = os.fstat(descriptor).st_size
            position, end = _range(call, size)
            with self._lock:
                if self._room_bytes is not None:
                    if end - size > max(0, self._room_bytes):
                        return False
                    self._room_bytes -= end - size if call.name == "ftruncate" else max(0, end - size)
            if self._undo is not None and call.name in _WRITES and end > position:
                self._undo.writing(descriptor, position, end - position)
            elif self._undo is not None and call.name == "ftruncate" and end < size:
                self._undo.truncating(descriptor, end)
        finally:
            os.close(descriptor)
        return True

    # ---- flushes ---------------------------------------------------------------------------------------------

    def _begin_flush(self, listener: CallListener, call: DivertedCall, path: str) -> None:
        descriptor = call.open() if path else os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        is_file = bool(path) and stat.S_ISREG(os.fstat(descriptor).st_mode)
        flushing = self._undo.flush_begins(descriptor) if self._undo is not None and is_file else None
        if self._is_to_fail(is_file):
            if self._undo is not None and flushing is not None:
                self._undo.flush_failed(flushing)
            os.close(descriptor)
            self.failed_calls += 1
            self._report({"witness": "disk-flush-error", "partitions": []})
            listener.refuse(call, errno.EIO)
            return
        due = time.monotonic() + self.flush_us / 1e6
        heapq.heappush(self._delayed, _Delayed(due, next(self._numbers), call, descriptor, flushing))

    def _is_to_fail(self, is_file: bool) -> bool:
        with self._lock:
            if not self._flush_errors or not is_file:
                return False
            self._flushes_to_pass -= 1
            if self._flushes_to_pass >= 0:
                return False
            self._flush_errors -= 1
            return True

    def _flush(self, listener: CallListener, delayed: _Delayed) -> None:
        """Flush in place of the process, so that it is known when the flush was over; or let it do that itself."""
        try:
            if delayed.flushing is None or self._undo is None:
                listener.let(delayed.call)
                return
            number = 0
            try:
                os.fdatasync(delayed.descriptor)
            except OSError as error:
                number = error.errno or errno.EIO
            if number:
                self._undo.flush_failed(delayed.flushing)
                listener.refuse(delayed.call, number)
            else:
                self._undo.flush_ended(delayed.descriptor, delayed.flushing)
                listener.answer(delayed.call)
        finally:
            with contextlib.suppress(OSError):
                os.close(delayed.descriptor)


def _range(call: DivertedCall, size: int) -> tuple[int, int]:
    """Return where a write begins and ends, or the old and the new size of a file; ``size``: what it has now."""
    name, arguments = call.name, call.arguments
    if name == "ftruncate":
        return size, arguments[1]
    if name == "fallocate":
        return size, max(size, arguments[2] + arguments[3])
    length = call.gathered_bytes() if name in _GATHERED else arguments[2]
    position = arguments[3] if name in ("pwrite64", "pwritev", "pwritev2") else NO_POSITION
    position = call.offset() if position == NO_POSITION else position
    return position, position + length
