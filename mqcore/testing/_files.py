"""Handles of a model disk: an open file, a mapping, a lock. Each belongs to one process and dies with it."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from mqcore.ports import Buffer, File, Lock, Mapping
from mqcore.testing._machine import DiskMachine
from mqcore.testing._sectors import Window
from mqcore.testing._tree import FileNode, os_error

__all__ = ["ModelFile", "ModelLock", "ModelMapping"]

WINDOWS_KEPT = 64
"""Views that a mapping remembers before it looks which of them are held."""


class DiskOfHandle(Protocol):
    """What a handle uses of its disk; see ``ModelDisk``, which is one."""

    @property
    def alive(self) -> bool: ...

    @property
    def machine(self) -> DiskMachine: ...

    def begin(
        self,
        operation: str,
        paths: Sequence[str],
        position: int = 0,
        size: int = 0,
        write: Callable[[int], None] | None = None,
    ) -> None: ...

    def closed(self, node: FileNode) -> None: ...

    def holds(self, node: FileNode) -> bool: ...

    def unlocked(self, node: FileNode) -> None: ...


class ModelFile(File):
    """An open file of a model disk. After ``close``, or the death of its process, everything raises ``EBADF``."""

    def __init__(self, disk: DiskOfHandle, path: str, node: FileNode, write: bool) -> None:
        self.path = path
        self.node = node
        self.error_sequence = node.error_sequence
        self._disk = disk
        self._write = write
        self._open = True

    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        """See ``File``."""
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        if isinstance(data, memoryview) and (data.itemsize != 1 or data.ndim != 1):
            data = data.cast("B")
        self._begin("pwritev", position, size, data)
        if not self._write:
            raise os_error(errno.EBADF, self.path)
        faults = self._disk.machine.faults
        if faults.bad_ranges and not faults.takes_write(self.node.number, position, size):
            raise os_error(errno.EIO, self.path)
        self._disk.machine.write(self.node, position, data)
        return size

    def pread(self, size: int, position: int) -> bytes:
        """See ``File``."""
        self._begin("pread", position, size)
        self._check_readable(position, size)
        return self.node.read(position, size)

    def map(self, size: int) -> ModelMapping:
        """See ``File``. Takes no descriptor of its own."""
        self._begin("map", 0, size)
        if size < 1:
            raise os_error(errno.EINVAL, self.path)
        return ModelMapping(self._disk, self.path, self.node, size)

    def flush(self) -> None:
        """See ``File``."""
        self._begin("flush")
        self._disk.machine.flush((self,), (self.path,))

    def truncate(self, size: int) -> None:
        """See ``File``."""
        self._begin("truncate", 0, size)
        if not self._write or size < 0:
            raise os_error(errno.EINVAL, self.path)
        self._disk.machine.truncate(self.node, size)

    def size(self) -> int:
        """See ``File``."""
        self._begin("size")
        return len(self.node.cached)

    def link_count(self) -> int:
        """See ``File``."""
        self._begin("link_count")
        return self.node.links

    def drop_cache(self, position: int, size: int) -> None:
        """See ``File``. Pages that the range covers in part stay, and so do pages with unflushed bytes."""
        self._begin("drop_cache", position, size)
        self.node.drop_cache(position, size)

    def close(self) -> None:
        """See ``File``."""
        if self._open:
            self._open = False
            if self._disk.alive:
                try:
                    self._disk.begin("close", (self.path,))
                finally:
                    self._disk.closed(self.node)

    def check_open(self) -> None:
        """Raise ``EBADF`` if the handle is closed."""
        if not self._open:
            raise os_error(errno.EBADF, self.path)

    def _begin(self, operation: str, position: int = 0, size: int = 0, data: Buffer | None = None) -> None:
        self.check_open()
        if position < 0:
            raise os_error(errno.EINVAL, self.path)
        write = None if data is None else lambda count: self.node.write(position, data[:count])
        self._disk.begin(operation, (self.path,), position, size, write)

    def _check_readable(self, position: int, size: int) -> None:
        check_readable(self._disk, self.path, self.node, position, size)


def check_readable(disk: DiskOfHandle, path: str, node: FileNode, position: int, size: int) -> None:
    """Raise ``EIO`` if a read of the range touches one that was made bad."""
    machine = disk.machine
    if machine.faults.bad_ranges and machine.faults.unreadable(node.number, position, size):
        machine.witnesses["read-error"] += 1
        raise os_error(errno.EIO, path)


class ModelMapping(Mapping):
    """A mapping of a model file. A view that is held shows what is written to the file later, as shared pages do.

    What a real process would be killed for (the file was cut under a view) shows as zeros.
    """

    def __init__(self, disk: DiskOfHandle, path: str, node: FileNode, size: int) -> None:
        self.path = path
        self._disk = disk
        self._node = node
        self._size = size
        self._open = True
        self._windows: list[weakref.ref[Window]] = []

    def view(self, position: int, size: int) -> memoryview:
        """See ``Mapping``."""
        if not self._open or position < 0 or size < 0 or position + size > self._size:
            raise ValueError(
                f"no bytes {position} to {position + size} in a mapping of {self._size} bytes of {self.path}"
            )
        self._disk.begin("view", (self.path,), position, size)
        if position + size > len(self._node.cached):
            raise os_error(errno.EIO, self.path)
        check_readable(self._disk, self.path, self._node, position, size)
        window = self._node.window(position, size)
        if len(self._windows) > WINDOWS_KEPT:
            self._windows = [known for known in self._windows if known() is not None]
        self._windows.append(weakref.ref(window))
        return memoryview(window).toreadonly()

    def held(self) -> bool:
        """See ``Mapping``: whether the mapping is open or one of its views is held."""
        return self._open or any(known() is not None for known in self._windows)

    def close(self) -> None:
        """See ``Mapping``."""
        self._open = False


class ModelLock(Lock):
    """A lock on a model disk; the death of the process releases it too."""

    def __init__(self, disk: DiskOfHandle, path: str, node: FileNode) -> None:
        self.path = path
        self.node = node
        self._disk = disk

    def release(self) -> None:
        """See ``Lock``."""
        if self._disk.alive and self._disk.holds(self.node):
            self._disk.begin("release", (self.path,))
            self._disk.unlocked(self.node)
