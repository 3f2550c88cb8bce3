"""Files of the machine: the ``FileSystem`` port on Linux system calls.

It knows nothing of logs, segments or promises. Every call may block and raises ``OSError`` as the system does. What
the platform lacks is an ``OSError`` (``ENOTSUP``) that says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mqcore.ports._abc import Buffer, Directory, File, FileBirth, FileFacts, FileSystem, Lock, Mapping
from mqcore.ports._birth import load_birth
from mqcore.ports._residency import pages_resident, populate

if sys.platform != "win32":
    import fcntl
    import resource

__all__ = ["SystemFileSystem"]

MADV_POPULATE_READ = 22
"""Linux 5.14: read the pages in now, and report as an error what would be a SIGBUS later."""

BUFFERS_PER_CALL = 1024
"""IOV_MAX on Linux: most buffers of one ``pwritev``."""

SYNCFS_FILES_MIN = 4
"""From this many files on, one ``syncfs`` is cheaper than an ``fdatasync`` on each."""

_POPULATE_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def _missing(what: str) -> OSError:
    return OSError(errno.ENOTSUP, f"{what} is not available on {sys.platform}: the file storages need Linux")


class _SystemMapping(Mapping):
    """A private, read-only mapping; where pages cannot be populated safely, reads are copies."""

    def __init__(self, file: _SystemFile, size: int) -> None:
        self._file = file
        self._map: mmap.mmap | None = mmap.mmap(file.descriptor, size, access=mmap.ACCESS_READ)
        self._size = size
        self._populates = sys.platform == "linux"

    def load(self, position: int, size: int) -> None:
        mapped = self._check(position, size)
        if self._populates and size:
            try:
                view = memoryview(mapped)
            except ValueError as error:
                raise OSError(errno.EBADF, "mapping is closed", self._file.path) from error
            with view, view[position : position + size] as wanted:
                try:
                    populate(wanted, MADV_POPULATE_READ)
                except OSError as error:
                    self._note(error)
        if not self._populates:
            self._copy(position, size)

    def _check(self, position: int, size: int) -> mmap.mmap:
        if self._map is None:
            raise OSError(errno.EBADF, "mapping is closed", self._file.path)
        if position < 0 or size < 0 or position + size > self._size:
            raise ValueError(f"bytes {position} to {position + size} are outside the mapping of {self._size} bytes")
        return self._map

    def view(self, position: int, size: int) -> memoryview:
        mapped = self._map
        if mapped is None or position < 0 or size < 0 or position + size > self._size:
            mapped = self._check(position, size)
        if self._populates:
            first = position - position % mmap.PAGESIZE
            try:
                mapped.madvise(MADV_POPULATE_READ, first, position + size - first)
            except OSError as error:
                self._note(error)
        if not self._populates:
            return self._copy(position, size)
        return memoryview(mapped)[position : position + size]

    def _note(self, error: OSError) -> None:
        """Note that the system cannot populate; raise what is an error of the page."""
        if error.errno not in _POPULATE_UNKNOWN:
            raise OSError(errno.EIO, f"cannot read the page: {error.strerror}", self._file.path) from error
        self._populates = False

    def is_resident(self, position: int, size: int) -> bool:
        # A copy in place of a view is made by pread, which fills the page cache itself: nothing to ask.
        return self._map is not None and self._populates and pages_resident(self._map, position, size)

    def _copy(self, position: int, size: int) -> memoryview:
        data = self._file.pread(size, position)
        if len(data) < size:
            raise OSError(errno.EIO, "the file is shorter than its mapping", self._file.path)
        return memoryview(data)

    def held(self) -> bool:
        if self._map is not None:
            return True
        return self._unclosed is not None and not self._try_close(self._unclosed)

    _unclosed: mmap.mmap | None = None

    def _try_close(self, mapped: mmap.mmap) -> bool:
        try:
            mapped.close()
        except BufferError:
            return False
        self._unclosed = None
        return True

    def close(self) -> None:
        mapped, self._map = self._map, None
        if mapped is not None:
            self._unclosed = mapped
            self._try_close(mapped)


class _SystemFile(File):
    """A descriptor and its path."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        total = sum(memoryview(buffer).nbytes for buffer in buffers) if len(buffers) != 1 else len(buffers[0])
        if len(buffers) <= BUFFERS_PER_CALL:
            written = os.pwritev(self.descriptor, buffers, position)
            if written == total:
                return total
        else:
            written = 0
        self._write_rest(buffers, position, written)
        return total

    def _write_rest(self, buffers: Sequence[Buffer], position: int, written: int) -> None:
        """Write what a short call left; ``written`` bytes of ``buffers`` are there already."""
        rest = [memoryview(buffer).cast("B") for buffer in buffers]
        while True:
            skip = written
            while rest and skip >= rest[0].nbytes:
                skip -= rest.pop(0).nbytes
            if not rest:
                return
            rest[0] = rest[0][skip:]
            position += written
            written = os.pwritev(self.descriptor, rest[:BUFFERS_PER_CALL], position)
            if written == 0:
                raise OSError(errno.EIO, "the device took no byte", self.path)

    def pread(self, size: int, position: int) -> bytes:
        data = os.pread(self.descriptor, size, position)
        if len(data) in (size, 0):
            return data
        pieces = [data]
        done = len(data)
        while done < size:
            data = os.pread(self.descriptor, size - done, position + done)
            if not data:
                break
            pieces.append(data)
            done += len(data)
        return b"".join(pieces)

    def map(self, size: int) -> Mapping:
        try:
            return _SystemMapping(self, size)
        except ValueError as error:
            raise OSError(errno.EIO, f"cannot map {size} bytes: {error}", self.path) from error

    def flush(self) -> None:
        if sys.platform == "darwin":
            raise _missing("fdatasync")
        os.fdatasync(self.descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self.descriptor, size)

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def link_count(self) -> int:
        return os.fstat(self.descriptor).st_nlink

    def drop_cache(self, position: int, size: int) -> None:
        if not hasattr(os, "posix_fadvise"):
            raise _missing("posix_fadvise")
        os.posix_fadvise(self.descriptor, position, size, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _SystemDirectory(Directory):
    """A descriptor of a directory."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))

    def flush(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _SystemLock(Lock):
    """An open file description lock: held by this object, not by the process."""

    def __init__(self, descriptor: int, forget: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._forget = forget

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._forget()
            os.close(descriptor)


def _load_syncfs() -> Callable[[int], None] | None:
    """Return ``syncfs`` where its result can be trusted (Linux 5.8 reports write-back errors), else None."""
    if sys.platform != "linux":
        return None
    release = os.uname().release.split(".")
    try:
        if (int(release[0]), int("".join(c for c in release[1] if c.isdigit()))) < (5, 8):
            return None
        function: Any = ctypes.CDLL(None, use_errno=True).syncfs
    except (ValueError, IndexError, OSError, AttributeError):
        return None

    def syncfs(descriptor: int) -> None:
        if function(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


class SystemFileSystem(FileSystem):
    """The machine's file systems."""

    def __init__(self) -> None:
        self._syncfs = _load_syncfs()
        self._birth = load_birth()
        self._locked: dict[int, list[int]] = {}

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        flags = os.O_RDWR if write else os.O_RDONLY
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        return _SystemFile(path, os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o640))

    def stat(self, path: str) -> FileFacts:
        facts = os.stat(path)
        return FileFacts(facts.st_size, facts.st_dev, facts.st_ino, facts.st_mode, stat.S_ISDIR(facts.st_mode))

    def birth(self, path: str) -> FileBirth:
        return FileBirth() if self._birth is None else self._birth(path)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        try:
            os.mkdir(path, 0o750)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def remove_directory(self, path: str) -> None:
        os.rmdir(path)

    def flush_directory(self, path: str) -> None:
        directory = _SystemDirectory(path)
        try:
            directory.flush()
        finally:
            directory.close()

    def open_directory(self, path: str) -> Directory:
        return _SystemDirectory(path)

    def flush_many(self, files: Sequence[File]) -> None:
        """``syncfs`` once where it proves as much as an ``fdatasync`` on each file, else those.

        It proves as much through a descriptor that was open before the bytes were appended: the descriptor of a
        lock held on the same file system.
        """
        descriptor = self._sync_descriptor(files) if len(files) >= SYNCFS_FILES_MIN else None
        if descriptor is not None and self._syncfs is not None:
            self._syncfs(descriptor)
            return
        for file in files:
            file.flush()

    def _sync_descriptor(self, files: Sequence[File]) -> int | None:
        devices = {os.fstat(file.descriptor).st_dev for file in files if isinstance(file, _SystemFile)}
        held = self._locked.get(devices.pop()) if len(devices) == 1 else None
        return held[0] if held else None

    def lock(self, path: str, *, create: bool = True) -> Lock:
        if sys.platform == "win32":
            raise _missing("flock")
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            device = os.fstat(descriptor).st_dev
        except BaseException:
            os.close(descriptor)
            raise
        self._locked.setdefault(device, []).append(descriptor)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._locked[device].remove(descriptor)

        return _SystemLock(descriptor, forget)

    def free_bytes(self, path: str) -> int:
        if not hasattr(os, "statvfs"):
            raise _missing("statvfs")
        facts = os.statvfs(path)
        return facts.f_bavail * facts.f_frsize

    def open_files_max(self) -> int:
        if sys.platform == "win32":
            raise _missing("getrlimit")
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def boot_id(self) -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError as error:
            raise _missing("the kernel's boot id") from error
