"""What the kernel says of a file's pages: which are dirty, which ranges never reached the disk. Linux only.

``cachestat`` (Linux 6.5) counts dirty pages by range; the extent map shows ranges that were written to the page cache
and to nothing else yet. Both ask no privilege. Must not know of brokers or logs.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

__all__ = ["PAGE_BYTES", "dirty_pages", "never_written", "why_no_dirty_pages"]

PAGE_BYTES = 4096
CACHESTAT = 451
"""Number of the system call, the same on every architecture but Alpha."""
EXTENTS_PER_CALL = 128

_FIEMAP = 0xC020660B
_HEAD = struct.Struct("<QQIIII")
_EXTENT = struct.Struct("<QQQ2QI3I")
_LAST = 0x1
_NOT_ON_DISK = 0x4 | 0x800  # delayed allocation; allocated and not written


class _Range(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("len", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recent"))


@cache
def _system_call() -> Any:
    return ctypes.CDLL(None, use_errno=True).syscall


def dirty_pages(descriptor: int, position: int = 0, size: int = 0) -> int:
    """Pages of a range (``size`` 0: to the end) that are dirty or under write-back. Raises ``OSError``.

    The kernel counts whole folios: beside a dirty page clean ones may be counted too.
    """
    counts = _Counts()
    asked = _Range(position, size)
    if _system_call()(CACHESTAT, descriptor, ctypes.byref(asked), ctypes.byref(counts), 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(counts.dirty) + int(counts.writeback)


def never_written(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Ranges (first byte, byte after) of a file of ``size`` bytes that the disk has never been given.

    Holes, delayed allocations, allocated and unwritten extents: after a power cut they read zeros. Empty where the
    file system keeps no such map.
    """
    ranges: list[tuple[int, int]] = []
    end = 0
    try:
        for first, until, flags in _extents(descriptor, size):
            if first > end:
                ranges.append((end, first))
            if flags & _NOT_ON_DISK:
                ranges.append((first, until))
            end = until
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            return []
        raise
    if end < size:
        ranges.append((end, size))
    return [(first, min(until, size)) for first, until in ranges if first < size]


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int, int]]:
    position = 0
    while position < size:
        buffer = array.array("B", bytes(_HEAD.size + EXTENTS_PER_CALL * _EXTENT.size))
        _HEAD.pack_into(buffer, 0, position, size - position, 0, 0, EXTENTS_PER_CALL, 0)
        fcntl.ioctl(descriptor, _FIEMAP, buffer, True)
        count = _HEAD.unpack_from(buffer)[3]
        for index in range(count):
            fields = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
            first, length, flags = fields[0], fields[2], fields[5]
            yield first, first + length, flags
            position = first + length
            if flags & _LAST:
                return
        if count == 0:
            return


@cache
def why_no_dirty_pages(folder: str) -> str:
    """Why a power cut cannot be shown on the file system of ``folder``; empty when it can. Tried, not guessed."""
    if sys.platform != "linux":
        return f"a power cut needs Linux, this is {sys.platform}; T0 simulates one"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4 * PAGE_BYTES))
            file.flush()
            before = dirty_pages(file.fileno())
            os.fdatasync(file.fileno())
            after = dirty_pages(file.fileno())
    except OSError as error:
        return f"the kernel does not report dirty pages ({error.strerror}; cachestat needs Linux 6.5); T0 simulates one"
    if not before:
        return f"the file system of {folder} has no dirty pages (a tmpfs?); set TMPDIR to a folder on a disk"
    return f"a flush leaves dirty pages in {folder}: is this run under eatmydata?" if after else ""
