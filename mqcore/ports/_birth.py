"""When a file was made, and in which subvolume, by ``statx`` of Linux, for which Python has no call; see statx(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

from mqcore.ports._abc import FileBirth

__all__ = ["load_birth"]

_AT_FDCWD = -100
_STATX_BTIME, _STATX_SUBVOL = 0x800, 0x8000
_STATX_BYTES = 256
_MASK = struct.Struct("=I")
_BORN_AT, _BORN = 80, struct.Struct("=qI")
_SUBVOLUME_AT, _SUBVOLUME = 160, struct.Struct("=Q")
_UNKNOWN = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP)
"""Errors of a kernel, or of a container around it, that does not have the call."""


def load_birth() -> Callable[[str], FileBirth] | None:
    """Return what ``FileSystem.birth`` calls; None where the system has no such call."""
    if sys.platform != "linux":
        return None
    try:
        function: Any = ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    function.restype = ctypes.c_int

    def birth(path: str) -> FileBirth:
        facts = ctypes.create_string_buffer(_STATX_BYTES)
        if function(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME | _STATX_SUBVOL, facts) != 0:
            number = ctypes.get_errno()
            if number in _UNKNOWN:
                return FileBirth()
            raise OSError(number, os.strerror(number), path)
        (known,) = _MASK.unpack_from(facts)
        seconds, nanoseconds = _BORN.unpack_from(facts, _BORN_AT)
        (subvolume,) = _SUBVOLUME.unpack_from(facts, _SUBVOLUME_AT)
        return FileBirth(
            seconds * 1_000_000_000 + nanoseconds if known & _STATX_BTIME else 0,
            subvolume if known & _STATX_SUBVOL else 0,
        )

    return birth
