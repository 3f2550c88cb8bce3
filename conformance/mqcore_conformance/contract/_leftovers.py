"""What a part leaves behind when it should have ended: descriptors, threads, child processes, tasks."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path

import trio

from mqcore_conformance.children.tracebacks import printable, tasks_below

DESCRIPTORS = Path("/proc/self/fd")
SHOWN_MAX = 3
PATIENCE_S = 3.0
_IDLE_THREAD = re.compile(r"Trio thread \d+\Z")


class Leftovers:
    """Remembers what is open when it is made; ``left`` tells what came since."""

    def __init__(self) -> None:
        self._descriptors = _descriptors()
        self._threads = set(threading.enumerate())

    def left(self) -> str:
        """Return what is still there, in words; empty when nothing is. What is just ending gets a moment."""
        gc.collect()
        deadline = time.monotonic() + PATIENCE_S
        while (left := self._now()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def _now(self) -> str:
        found = []
        now = _descriptors()
        opened = [what for number, what in now.items() if self._descriptors.get(number) != what]
        if opened:
            found.append(_count(opened, "open descriptor"))
        threads = [one.name for one in threading.enumerate() if one not in self._threads]
        running = [name for name in threads if not _IDLE_THREAD.match(name)]
        if running:
            found.append(_count(running, "running thread"))
        if _has_children():
            found.append("a child process")
        return " and ".join(found)


def stray_tasks(known: Collection[trio.lowlevel.Task]) -> set[trio.lowlevel.Task]:
    """Return the tasks of the current run that are not ``known``, without the one that asks."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return set(tasks_below(root)) - set(known) - {trio.lowlevel.current_task()}


def _count(names: list[str], what: str) -> str:
    shown = ", ".join(printable(name)[:80] for name in names[:SHOWN_MAX])
    more = ", ..." if len(names) > SHOWN_MAX else ""
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown}{more})"


def _descriptors() -> dict[str, str]:
    found = {}
    try:
        numbers = os.listdir(DESCRIPTORS)
    except OSError:
        return {}
    for number in numbers:
        try:
            found[number] = os.readlink(DESCRIPTORS / number)
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
