"""What every child process of T1 does: read its standard input, report on its standard output, end with the suite.

One JSON object per line in both directions. The end of the standard input means that the suite is gone. Must not know
what is reported or asked.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import trio

from mqcore.ports import system_ports

__all__ = ["commands", "ignore_interrupt", "monotonic_us", "report"]

LINE_BYTES_MAX = 65_536
READ_BYTES = 4096


def ignore_interrupt() -> None:
    """Leave Ctrl-C to the suite, which ends its children itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def monotonic_us() -> int:
    """The clock that all processes of a run share."""
    return system_ports().clock.monotonic_us()


def report(facts: dict[str, Any]) -> None:
    """Write one line, at once and in one piece. Any thread."""
    line = json.dumps({"at_us": monotonic_us(), **facts}, separators=(",", ":")) + "\n"
    os.write(1, line.encode())


async def commands() -> AsyncIterator[dict[str, Any]]:
    """Give what the suite asks, until it is gone."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        rest = b""
        while data := await stream.receive_some(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                asked: dict[str, Any] = json.loads(line[:LINE_BYTES_MAX])
                yield asked
