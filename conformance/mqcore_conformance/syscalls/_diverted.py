"""System calls that wait for a decision: let it happen, answer it, refuse it. The side of who decides.

Calls come in at a listener that the process under test sends (``broker_process.diverting``). Knows no files.
"""

from __future__ import annotations

import array
import errno
import os
import platform
import socket
import struct
import sys
from functools import cache
from typing import NamedTuple

from mqcore_conformance.broker_process.diverting import install_filter, machine_here
from mqcore_conformance.children import run_apart

if sys.platform != "win32":
    import fcntl

__all__ = ["CallListener", "DivertedCall", "why_not_diverted"]

_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_ANSWER = struct.Struct("<QqiI")
_CONTINUE = 1


@cache
def why_not_diverted() -> str:
    """Why calls cannot be diverted on this machine; empty when they can. Tried, not guessed."""
    if machine_here() is None:
        return f"faults of system calls need Linux on x86-64 or 64-bit ARM; this is {sys.platform} {platform.machine()}"
    outcome = run_apart(_try, seconds_max=5.0, returns=str)
    return outcome.value if outcome.value is not None else outcome.problem


def _try() -> str:
    try:
        os.close(install_filter(()))
    except OSError as error:
        return f"this system does not let a process divert its system calls ({error.strerror}); Linux 5.6 does"
    return ""


class DivertedCall(NamedTuple):
    """One call that waits. ``thread``: who made it, for ``/proc``."""

    identifier: int
    thread: int
    name: str
    arguments: tuple[int, ...]

    @property
    def path(self) -> str:
        """Where the file of the first argument is, as the kernel says; empty when it is none or gone."""
        try:
            return os.readlink(f"/proc/{self.thread}/fd/{self.arguments[0]}")
        except OSError:
            return ""

    def open(self) -> int:
        """Return a descriptor of our own for the file of the first argument."""
        return os.open(f"/proc/{self.thread}/fd/{self.arguments[0]}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def offset(self) -> int:
        """Where the file of the first argument is written next by a call that names no position."""
        with open(f"/proc/{self.thread}/fdinfo/{self.arguments[0]}", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file if ":" in line)
        if int(facts["flags"], 8) & os.O_APPEND:
            return os.stat(f"/proc/{self.thread}/fd/{self.arguments[0]}").st_size
        return int(facts["pos"])

    def gathered_bytes(self) -> int:
        """Sum of the lengths of the buffers that the second and third argument list."""
        with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:
            memory.seek(self.arguments[1])
            listed = array.array("Q", memory.read(16 * self.arguments[2]))
        return sum(listed[1::2])


class CallListener:
    """Where diverted calls come in; ``fileno`` becomes readable with each."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        machine = machine_here()
        self._names = {number: name for name, number in machine.numbers.items()} if machine is not None else {}

    @classmethod
    def received_from(cls, sender: socket.socket) -> CallListener | None:
        """Return the listener that the process at the other end sends; None when it ended before."""
        _, descriptors, _, _ = socket.recv_fds(sender, 1, 1)
        return cls(descriptors[0]) if descriptors else None

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def receive(self) -> DivertedCall | None:
        """Return the next call; None when there is none any more."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, buffer, True)
        except OSError:  # who called was killed meanwhile
            return None
        identifier, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        return DivertedCall(identifier, thread, self._names[number], tuple(arguments))

    def let(self, call: DivertedCall) -> None:
        """Let it happen."""
        self._send(call, 0, 0, _CONTINUE)

    def answer(self, call: DivertedCall, value: int = 0) -> None:
        """Let it return ``value`` without having happened."""
        self._send(call, value, 0, 0)

    def refuse(self, call: DivertedCall, number: int) -> None:
        """Let it fail with the error ``number``."""
        self._send(call, 0, -number, 0)

    def _send(self, call: DivertedCall, value: int, error: int, flags: int) -> None:
        answer = bytearray(_ANSWER.pack(call.identifier, value, error, flags))
        try:
            fcntl.ioctl(self._descriptor, _SEND, answer, True)
        except OSError as failure:
            if failure.errno != errno.ENOENT:  # who called was killed meanwhile
                raise

    def close(self) -> None:
        """Decide no more: calls that still come fail with ``ENOSYS``."""
        os.close(self._descriptor)
