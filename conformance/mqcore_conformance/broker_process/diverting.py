"""Makes the kernel hold chosen system calls of this process until another one has decided on them.

The side of the process under test: Linux's seccomp user notification, on x86-64 and 64-bit ARM. Who decides gets a
listener over a socket; ``mqcore_conformance.syscalls`` is that side. Knows no files.
"""

# Why not ``strace`` or a preloaded library: both have to be installed or compiled, the one is barred where tracing is,
# the other sees nothing of what is linked statically. This needs the kernel only, and decides call by call.

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CALLS", "READS", "divert_to", "install_filter", "machine_here"]


class ProcessorCalls(NamedTuple):
    """What differs between processors: the name in the kernel's audit, and the numbers of calls."""

    audit: int
    seccomp: int
    numbers: Mapping[str, int]


_MACHINES: Mapping[str, ProcessorCalls] = MappingProxyType(
    {
        "x86_64": ProcessorCalls(
            0xC000003E,
            317,
            {
                "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "pwritev2": 328, "read": 0, "pread64": 17,
                "preadv": 295, "preadv2": 327, "fsync": 74, "fdatasync": 75, "msync": 26, "syncfs": 306,
                "ftruncate": 77, "fallocate": 285, "rename": 82, "renameat": 264, "renameat2": 316, "unlink": 87,
                "unlinkat": 263,
            },
        ),
        "aarch64": ProcessorCalls(
            0xC00000B7,
            277,
            {
                "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "pwritev2": 287, "read": 63, "pread64": 67,
                "preadv": 69, "preadv2": 286, "fsync": 82, "fdatasync": 83, "msync": 227, "syncfs": 267,
                "ftruncate": 46, "fallocate": 47, "renameat": 38, "renameat2": 276, "unlinkat": 35,
            },
        ),
    }
)  # fmt: skip

READS = ("read", "pread64", "preadv", "preadv2")
CALLS = tuple(name for name in _MACHINES["x86_64"].numbers if name not in READS)
"""Every call that changes files or makes a change durable."""

_NEW_LISTENER, _SET_FILTER, _NO_NEW_PRIVILEGES = 8, 1, 38
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_AT_NUMBER, _AT_AUDIT = 0, 4


def machine_here() -> ProcessorCalls | None:
    """Return what is known of this processor; None when nothing is, or where there is no Linux."""
    return _MACHINES.get(platform.machine()) if sys.platform == "linux" else None


def divert_to(descriptor: int, names: Sequence[str] = CALLS) -> None:
    """Let whoever has the other end of the socket ``descriptor`` decide on the calls ``names`` of this process.

    For the calling thread and those that it starts later; not to be undone. Raises ``OSError``.
    """
    listener = install_filter(names)
    try:
        with socket.socket(fileno=os.dup(descriptor)) as to_suite:
            socket.send_fds(to_suite, [b"x"], [listener])
    finally:
        os.close(listener)


def install_filter(names: Sequence[str]) -> int:
    """Install the filter for this thread; return the listener's descriptor. Raises ``OSError``."""
    machine = machine_here()
    if machine is None:
        raise OSError(errno.ENOSYS, f"not known for {platform.machine()}")
    numbers = [machine.numbers[name] for name in names if name in machine.numbers]
    steps = [
        (_LOAD, 0, 0, _AT_AUDIT),
        (_JUMP_IF_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _AT_NUMBER),
        *((_JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]
    program = b"".join(struct.pack("<HBBI", *step) for step in steps)
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(code)), 16)
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    listener = int(library.syscall(machine.seccomp, _SET_FILTER, _NEW_LISTENER, head))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener
