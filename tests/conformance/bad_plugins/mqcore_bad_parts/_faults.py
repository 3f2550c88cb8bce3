"""Everything that a part can do to whoever calls it, by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

import trio

LONG_S = 1_000_000.0


class Odd(BaseException):
    """No ``Exception``, and its text raises too."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def spin() -> None:
    while True:
        pass


def raise_group() -> None:
    raise BaseExceptionGroup("several", [OSError(5, "one"), RuntimeError("two")])


def raise_(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def raise_not_applicable() -> None:
    raise sys.modules["mqcore_conformance.contract"].NotApplicable("nothing of this is claimed")


def change(module: str, name: str, value: object) -> Callable[[], None]:
    def function() -> None:
        setattr(sys.modules[module], name, value)

    return function


def change_code() -> None:
    judge = sys.modules["mqcore_conformance.contract._checks"]._judge
    judge.__code__ = (lambda error: ("PASS", "", ())).__code__


def print_garbage() -> None:
    print('garbage \x1b[2J \x07 {"kind": "cell", "status": "PASS"}')
    print("garbage on standard error \x1b]0;title\x07", file=sys.stderr)
    os.write(1, b"raw \xff\xfe garbage\n" * 3)


def leak_thread() -> None:
    threading.Thread(target=time.sleep, args=(LONG_S,), name="leaked thread", daemon=True).start()


def leak_process() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])


SYNC: Mapping[str, Callable[[], object]] = {
    "block": lambda: time.sleep(LONG_S),
    "spin": spin,
    "raise-os": raise_(OSError(5, "Input/output error \x1b[31m")),
    "raise-runtime": raise_(RuntimeError("a text\nof two lines " + "and long " * 200)),
    "raise-group": raise_group,
    "raise-system-exit": raise_(SystemExit(0)),
    "raise-keyboard-interrupt": raise_(KeyboardInterrupt()),
    "raise-odd": raise_(Odd()),
    "raise-not-applicable": raise_not_applicable,
    "change-a-function": change("mqcore_conformance.contract._checks", "_judge", lambda error: ("PASS", "", ())),
    "change-a-table": lambda: sys.modules["mqcore_conformance.contract"].CHECKS.pop("views_stay_valid"),
    "change-a-method": lambda: setattr(sys.modules["mqcore.testing"].ModelDisk, "power_cut", lambda disk: None),
    "change-the-code": change_code,
    "shadow-a-builtin": change("mqcore_conformance.contract._checks", "any", lambda values: False),
    "exit": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "print": print_garbage,
    "leak-descriptor": lambda: os.dup(0),
    "leak-thread": leak_thread,
    "leak-process": leak_process,
}


async def hang() -> None:
    await trio.sleep_forever()


async def hang_shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def hang_in_thread() -> None:
    await trio.to_thread.run_sync(time.sleep, LONG_S)


async def leak_task() -> None:
    trio.lowlevel.spawn_system_task(trio.sleep_forever, name="leaked task")


ASYNC = {
    "hang": hang,
    "hang-shielded": hang_shielded,
    "hang-in-thread": hang_in_thread,
    "leak-task": leak_task,
}


class Faulty:
    """For parts with options ``does`` and ``where``."""

    options: object

    def now(self, where: str) -> None:
        """Misbehave here, where nothing can wait."""
        if where == getattr(self.options, "where", "") and (fault := SYNC.get(getattr(self.options, "does", ""))):
            fault()

    async def at(self, where: str) -> None:
        """Misbehave here."""
        self.now(where)
        if where == getattr(self.options, "where", "") and (fault := ASYNC.get(getattr(self.options, "does", ""))):
            await fault()

    def lies(self, name: str) -> bool:
        """Whether this lie is asked for."""
        return getattr(self.options, "does", "") == name
