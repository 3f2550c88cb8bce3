"""The ports of a broker under test: the machine's own, with faults injected and writes noted for a power cut.

Runs in the child. Counts the calls of files, kills the process at one of them, fills the disk, fails flushes. Must not
know of logs, nor of who decides when.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from mqcore.ports import Buffer, File, FileSystem, Ports, system_ports
from mqcore.testing import PassThroughFile, PassThroughFileSystem
from mqcore_conformance.broker_process.undo import UndoLog

__all__ = ["FaultyFiles", "Injection", "faulty_ports"]

_PARTITION = re.compile(r"([0-9a-f]{32})-(\d+)(?=[@/.]|\Z)")


@attrs.frozen(kw_only=True)
class Injection:
    """What a life of the broker is to meet.

    ``kill_at``: the call of the files at which it kills itself (0: none), ``kill_how``: ``before``, ``after`` or
    ``torn`` (half of a write is done). ``undo``: path of the undo log (empty: none). ``boot_id``: the kernel as the
    broker sees it (empty: as it is). ``flush_us``: what every flush takes longer.
    """

    kill_at: int = 0
    kill_how: str = "before"
    undo: str = ""
    boot_id: str = ""
    flush_us: int = 0


class FaultyFiles(PassThroughFileSystem):
    """See the module. ``report`` is called with a fact for the suite; it may be called in any thread."""

    def __init__(self, inner: FileSystem, injection: Injection, report: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(inner)
        self.injection = injection
        self.report = report
        self.undo = UndoLog(injection.undo) if injection.undo else None
        self.room_bytes: int | None = None
        self._flush_errors = 0
        self._flushes_to_pass = 0
        self._calls = 0
        self._lock = threading.Lock()

    # ---- what the suite asks for -----------------------------------------------------------------------------

    def fill(self, room_bytes: int | None) -> None:
        """Let files grow by ``room_bytes`` more, then be full; None frees the disk."""
        self.room_bytes = room_bytes

    def fail_flush(self, after: int) -> None:
        """Let ``after`` flushes pass and one fail; those behind it "succeed" again."""
        with self._lock:
            self._flushes_to_pass, self._flush_errors = after, 1

    # ---- what files ask --------------------------------------------------------------------------------------

    def call(self, operation: str, torn: Callable[[], object] | None = None) -> bool:
        """Count a call; end the process at the one that was chosen. True when it is to end after the call."""
        with self._lock:
            self._calls += 1
            due = self._calls == self.injection.kill_at
        if not due:
            return False
        if self.injection.kill_how == "after":
            return True
        if self.injection.kill_how == "torn" and torn is not None:
            torn()
        self.die(operation)
        return False

    def die(self, operation: str) -> None:
        """Kill this process, as the operating system would."""
        self.report({"dying": operation, "call": self.injection.kill_at})
        os.kill(os.getpid(), signal.SIGKILL)

    def grow(self, path: str, by_bytes: int) -> None:
        """Take room for a file that grows (or give it back). Raises ``OSError`` when the disk is full."""
        with self._lock:
            if self.room_bytes is None:
                return
            if by_bytes > 0 and by_bytes > self.room_bytes:
                full = True
            else:
                full = False
                self.room_bytes -= by_bytes
        if full:
            self.report({"witness": "disk-full"})
            raise OSError(errno.ENOSPC, "no space left on the device (injected)", path)

    def flush(self, files: Sequence[FaultyFile], really: Callable[[], None]) -> None:
        """Flush ``files``, or fail and lose what was to be written. Raises ``OSError``."""
        undo = self.undo
        begun = []
        if undo is not None:
            with undo.lock:
                begun = [(file.descriptor, undo.flush_begins(file.descriptor)) for file in files]
        try:
            self._fail_if_due(files)
            time.sleep(self.injection.flush_us / 1e6)
            really()
        except OSError:
            if undo is not None:
                with undo.lock:
                    for _, flushing in begun:
                        undo.flush_failed(flushing)
            raise
        if undo is not None:
            with undo.lock:
                for descriptor, flushing in begun:
                    undo.flush_ended(descriptor, flushing)

    def _fail_if_due(self, files: Sequence[FaultyFile]) -> None:
        with self._lock:
            if not self._flush_errors:
                return
            self._flushes_to_pass -= 1
            if self._flushes_to_pass >= 0:
                return
            self._flush_errors -= 1
        partitions = sorted({f"{match[1]}/{match[2]}" for file in files for match in _PARTITION.finditer(file.path)})
        self.report({"witness": "disk-flush-error", "partitions": partitions})
        raise OSError(errno.EIO, "input/output error (injected)", files[0].path)

    # ---- the port --------------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        """As the machine does."""
        last = self.call("open")
        file = FaultyFile(self, self.inner.open(path, create=create, exclusive=exclusive, write=write))
        if self.undo is not None and create and file.size() == 0:
            self.undo.forget(os.fstat(file.descriptor).st_ino)
        if last:
            self.die("open")
        return file

    def do(self, operation: str, function: Callable[..., Any], *arguments: object) -> None:
        """Call ``function`` as one counted call."""
        last = self.call(operation)
        function(*arguments)
        if last:
            self.die(operation)

    def make_directory(self, path: str) -> None:
        """As the machine does."""
        self.do("make-directory", self.inner.make_directory, path)

    def rename(self, old: str, new: str) -> None:
        """As the machine does."""
        self.do("rename", self.inner.rename, old, new)

    def unlink(self, path: str) -> None:
        """As the machine does; gives its room back."""
        size = self.inner.stat(path).size_bytes if self.room_bytes is not None else 0
        self.do("unlink", self.inner.unlink, path)
        self.grow(path, -size)

    def remove_directory(self, path: str) -> None:
        """As the machine does."""
        self.do("remove-directory", self.inner.remove_directory, path)

    def flush_directory(self, path: str) -> None:
        """As the machine does."""
        self.do("flush-directory", self.inner.flush_directory, path)

    def flush_many(self, files: Sequence[File]) -> None:
        """As the machine does, or fails."""
        ours = [file for file in files if isinstance(file, FaultyFile)]
        inner = [file.inner for file in ours]
        self.do("flush-many", self.flush, ours, lambda: self.inner.flush_many(inner))

    def free_bytes(self, path: str) -> int:
        """As the machine says, or what the injected limit leaves."""
        room, free = self.room_bytes, self.inner.free_bytes(path)
        return free if room is None else min(max(room, 0), free)

    def boot_id(self) -> str:
        """The kernel's, or the one of the machine that was powered on again."""
        return self.injection.boot_id or self.inner.boot_id()


class FaultyFile(PassThroughFile):
    """An open file of the machine, with the faults of its file system."""

    def __init__(self, files: FaultyFiles, inner: File) -> None:
        super().__init__(inner)
        self._files = files

    @property
    def descriptor(self) -> int:
        """The descriptor inside."""
        descriptor: int = self.inner.descriptor  # type: ignore[attr-defined]
        return descriptor

    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        """Write, unless the disk is full; noted in the undo log first."""
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        files = self._files
        last = files.call("pwritev", lambda: self._write([b"".join(buffers)[: size // 2]], position, size // 2))
        if files.room_bytes is not None:
            files.grow(self.path, max(0, position + size - self.size()))
        written = self._write(buffers, position, size)
        if last:
            files.die("pwritev")
        return written

    def _write(self, buffers: Sequence[Buffer], position: int, size: int) -> int:
        undo = self._files.undo
        if undo is None:
            return self.inner.pwritev(buffers, position)
        with undo.lock:
            undo.writing(self.descriptor, position, size)
            return self.inner.pwritev(buffers, position)

    def flush(self) -> None:
        """Flush, or fail."""
        self._files.do("flush", self._files.flush, [self], self.inner.flush)

    def truncate(self, size: int) -> None:
        """As the machine does; noted in the undo log first."""
        files, undo = self._files, self._files.undo
        if files.room_bytes is not None:
            files.grow(self.path, size - self.size())
        if undo is None:
            files.do("truncate", self.inner.truncate, size)
            return
        with undo.lock:
            undo.truncating(self.descriptor, size)
            files.do("truncate", self.inner.truncate, size)


def faulty_ports(injection: Injection, report: Callable[[dict[str, Any]], None]) -> tuple[Ports, FaultyFiles]:
    """Return the machine's ports with faulty files, and these files."""
    ports = system_ports()
    files = FaultyFiles(ports.files, injection, report)
    return attrs.evolve(ports, files=files), files
