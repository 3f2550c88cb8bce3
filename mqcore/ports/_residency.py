"""Whether pages of a mapping are in memory, and bringing them there: what Python's ``mmap`` lacks.

It has no ``mincore``, and its ``madvise`` keeps the interpreter's lock: a thread that waits for a disk in it stops all.

Linux answers for a file that the caller owns or may write to, which a storage's own files are; elsewhere, and where the
call is missing, the answer is no, and the caller takes the way that may wait.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable

__all__ = ["pages_resident", "populate"]

_VECTOR_PAGES = 4096


class _BufferView(ctypes.Structure):
    """The head of CPython's ``Py_buffer`` (fixed since 3.11, where it became part of the stable interface)."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 120))


@functools.cache
def _mincore() -> Callable[..., int] | None:
    """The libc function; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).mincore
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    function.restype = ctypes.c_int
    found: Callable[..., int] = function
    return found


@functools.cache
def _madvise() -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    found: Callable[..., int] = function
    return found


def populate(view: memoryview, advice: int) -> None:
    """Give ``advice`` on the pages that ``view`` of a mapping lies in, while other threads go on.

    ``view`` keeps the mapping from being closed meanwhile. Raises ``OSError``. Linux only.
    """
    address = _address_of(view)
    first = address - address % mmap.PAGESIZE
    if _madvise()(first, address + view.nbytes - first, advice):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _address_of(mapping: mmap.mmap | memoryview) -> int:
    """Where a mapping or a view begins. ``ctypes.from_buffer`` would do, but takes writable buffers only."""
    view = _BufferView()
    get, release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
    get(ctypes.py_object(mapping), ctypes.byref(view), 0)
    address: int = view.buf or 0
    release(ctypes.byref(view))
    return address


def pages_resident(mapping: mmap.mmap, position: int, size: int) -> bool:
    """Whether all pages of ``size`` bytes at ``position`` of ``mapping`` are in memory at this moment.

    False where it cannot be told, and for more than 16 MiB, which no caller wants to look at in one step. The kernel
    may drop them right after: the answer saves time, nothing may be unsafe without it.
    """
    function = _mincore()
    first = position - position % mmap.PAGESIZE
    pages = -((first - position - size) // mmap.PAGESIZE)
    if function is None or pages > _VECTOR_PAGES or position + size > len(mapping):
        return False
    if pages <= 0:
        return True
    vector = ctypes.create_string_buffer(pages)
    if function(_address_of(mapping) + first, pages * mmap.PAGESIZE, ctypes.addressof(vector)):
        return False
    # Bit 0 of each byte is the answer, the others are reserved: two C calls tell for all pages at once.
    return vector.raw.translate(None, _ODD) == b""


_ODD = bytes(range(1, 256, 2))
