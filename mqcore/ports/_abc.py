"""The ports: everything by which the broker and the built-in storages touch the outside.

They use nothing else for files, device threads, clocks and randomness, so that the whole broker runs on a model disk,
on virtual time, from one seed. Calls of ``FileSystem``, ``File`` and ``Mapping`` may block: they are made in a device
thread, or inline where they are known to be short. They raise ``OSError`` as the operating system does.
"""

from __future__ import annotations

import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import attrs

from mqcore.ports._ground import DirectoryGround

__all__ = [
    "Buffer",
    "Clock",
    "DeviceThread",
    "Directory",
    "File",
    "FileBirth",
    "FileFacts",
    "FileSystem",
    "Lock",
    "Mapping",
    "Ports",
    "Threads",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that are read and not kept; a memoryview has items of one byte."""
T = TypeVar("T")


@attrs.frozen
class FileFacts:
    """What ``stat`` says about a path: ``size_bytes``, ``device`` and ``inode`` numbers, ``mode`` bits, its kind."""

    size_bytes: int
    device: int
    inode: int
    mode: int
    is_directory: bool


@attrs.frozen
class FileBirth:
    """When a file was made (``born_ns``: ns since 1970 UTC) and the number of its ``subvolume``; 0: not known.

    Its metadata, its place and a new mount change neither; a snapshot has the time, and another number.
    """

    born_ns: int = 0
    subvolume: int = 0


class Mapping(ABC):
    """A read-only mapping of a file."""

    @abstractmethod
    def view(self, position: int, size: int) -> memoryview:
        """Return bytes ``position`` to ``position + size``, made resident first.

        Raises ``OSError`` when they cannot be read (device error, file truncated under the mapping): a bad page is
        an error here and never a signal that kills the process. The view stays valid after ``close``. A file that an
        outsider cuts off later is met by who looks at the view (a signal) or hands it to a system call (``EFAULT``):
        look at it in the step in which it was made, and hand it on.
        """

    def load(self, position: int, size: int) -> None:
        """Make bytes ``position`` to ``position + size`` resident, for a device thread: other threads go on meanwhile.

        Raises what ``view`` does; ``close`` may be called meanwhile.
        """
        self.view(position, size)

    def is_resident(self, position: int, size: int) -> bool:
        """Whether these bytes are in memory now, so that ``view`` will hardly wait. False if that is not known."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Give the mapping up; its memory goes when the last view does. Idempotent."""

    def held(self) -> bool:
        """Whether a view may still be held, so that the file must not be used for other bytes. True if not known."""
        return True


class File(ABC):
    """An open file. One descriptor serves appends, reads and flushes."""

    path: str

    @abstractmethod
    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        """Write ``buffers`` one after the other at ``position``, all of them; return the number of bytes.

        Raises ``OSError``; then any part of the range may have been written.
        """

    @abstractmethod
    def pread(self, size: int, position: int) -> bytes:
        """Read up to ``size`` bytes at ``position``; fewer only at the end of the file."""

    @abstractmethod
    def map(self, size: int) -> Mapping:
        """Map the first ``size`` bytes for reading."""

    @abstractmethod
    def flush(self) -> None:
        """Make the data durable (``fdatasync``). After an error nothing is known, and a second call proves nothing."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Set the file's size; bytes beyond it are gone, a longer file reads zeros. Not durable by itself."""

    @abstractmethod
    def size(self) -> int:
        """Size in bytes."""

    @abstractmethod
    def link_count(self) -> int:
        """Number of directory entries that lead here: 0 once the file was unlinked."""

    @abstractmethod
    def drop_cache(self, position: int, size: int) -> None:
        """Drop clean cached pages of the range (``POSIX_FADV_DONTNEED``), so that the next read asks the device.

        ``size`` 0 means to the end of the file. Pages around ``position`` may stay: where the kernel caches large
        folios (Linux 6: XFS, ext4, btrfs), one that begins before the range is left alone.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the descriptor. Does not flush. Idempotent."""


class Directory(ABC):
    """An open directory, held so that its entries can be made durable when the process has no descriptor left."""

    @abstractmethod
    def flush(self) -> None:
        """Make the entries durable."""

    @abstractmethod
    def close(self) -> None:
        """Close the descriptor. Idempotent."""


class _NamedDirectory(Directory):
    """A directory by its path, where a file system has nothing better."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self._files = files
        self._path = path

    def flush(self) -> None:
        self._files.flush_directory(self._path)

    def close(self) -> None:
        pass


class Lock(ABC):
    """An exclusive lock on a path, held until ``release`` or the end of the process."""

    @abstractmethod
    def release(self) -> None:
        """Release it. Idempotent."""


class FileSystem(ABC):
    """Names and directories. Paths are absolute strings."""

    @abstractmethod
    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        """Open ``path``. ``create`` makes it when missing, ``exclusive`` fails when it exists (``FileExistsError``)."""

    @abstractmethod
    def stat(self, path: str) -> FileFacts:
        """Return what is known of ``path``; ``FileNotFoundError`` when there is nothing."""

    @abstractmethod
    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted."""

    @abstractmethod
    def make_directory(self, path: str) -> None:
        """Make one directory; no error when it is there. Its parent is not flushed by this."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Rename atomically, replacing ``new``. Durable once the directory is flushed."""

    @abstractmethod
    def unlink(self, path: str) -> None:
        """Remove a file's name. Durable once the directory is flushed."""

    @abstractmethod
    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""

    @abstractmethod
    def flush_directory(self, path: str) -> None:
        """Make the entries of a directory durable."""

    def open_directory(self, path: str) -> Directory:
        """Open a directory, to be flushed again and again."""
        return _NamedDirectory(self, path)

    @abstractmethod
    def flush_many(self, files: Sequence[File]) -> None:
        """Make the data of all ``files`` durable; an error says nothing of any of them."""

    @abstractmethod
    def lock(self, path: str, *, create: bool = True) -> Lock:
        """Take an exclusive lock on the file at ``path``; ``BlockingIOError`` when somebody holds it.

        A missing file is made, or, without ``create``, a ``FileNotFoundError``. The lock is the file's, not the path's:
        who removes or replaces the file lets another process lock what stands there then.
        """

    def birth(self, path: str) -> FileBirth:
        """What tells what is at ``path`` from its copy, and from what has its inode number later. Raises ``OSError``.

        Not from one in a copy of the whole device.
        """
        return FileBirth()

    @abstractmethod
    def free_bytes(self, path: str) -> int:
        """Bytes that an unprivileged writer may still use on the file system of ``path``."""

    @abstractmethod
    def open_files_max(self) -> int:
        """Most descriptors this process may have (the soft limit)."""

    @abstractmethod
    def boot_id(self) -> str:
        """Identity of the running kernel: changes with every boot."""


class DeviceThread(ABC):
    """One thread that does the blocking work of one device, in the order in which it was asked."""

    @abstractmethod
    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` in the thread and return its result or raise its error.

        A checkpoint. If cancelled before the call began it has no effect; a call that began goes on, its result is
        dropped, and ``aclose`` waits for it.
        """

    def submit(self, function: Callable[..., object], *args: object) -> None:
        """Ask for ``function(*args)`` and do not wait: its result and its error are dropped.

        It runs before what is asked later. A port without a thread may run it at once.
        """
        with contextlib.suppress(Exception):
            function(*args)

    @abstractmethod
    async def aclose(self) -> None:
        """Wait for what was asked, then end the thread. Shielded from cancellation. Idempotent."""


class Threads(ABC):
    """Makes device threads."""

    @abstractmethod
    def start(self, name: str) -> DeviceThread:
        """Return a new device thread called ``name``; it is started by its first call."""


class Clock(ABC):
    """Clocks that the broker reads. Scheduling uses Trio's own clock (``trio.current_time``)."""

    @abstractmethod
    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; may jump. For timestamps only, never for a decision about a promise."""

    @abstractmethod
    def monotonic_us(self) -> int:
        """Microseconds of a clock that never goes back and does not count suspension."""

    @abstractmethod
    def boottime_us(self) -> int:
        """Microseconds of a clock that never goes back and counts suspension."""


@attrs.frozen(kw_only=True)
class Ports:
    """The ports, handed to every storage backend and to the broker when they are composed.

    ``ground`` says what a directory stands on; None where that is no question, as on a model disk. It may read text
    files of ``/proc`` and ``/sys``, and raises ``OSError`` where there are none.
    """

    files: FileSystem
    threads: Threads
    clock: Clock
    random: random.Random
    ground: Callable[[str], DirectoryGround] | None = None
