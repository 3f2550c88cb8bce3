"""One server process: a folder, ports, start, stop, kill, freeze, and its data put back to an old copy.

What is common to all kinds of servers. Blocking calls: an asynchronous caller runs them in a thread of Trio's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import trio

from mqcore.testing import release_ports, reserve_ports

__all__ = ["HOST", "READY_S_MAX", "ServerProcess", "start_all"]

HOST = "127.0.0.1"
READY_S_MAX = 60.0
"""How long a server may take to its first answer; a loaded machine starts three Java machines slowly."""
_STOP_S_MAX = 10.0
_LOOK_S = 0.03
_END_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
"""Before a command: the kernel ends it when the tests are killed, which could not end it themselves then."""


class ServerProcess(ABC):
    """A server that this process starts and ends. ``folder`` holds all that it writes, its output in ``output.txt``."""

    package: str
    """What to install on Debian."""
    binary: Path
    """What has to be there."""
    user: str | None = None
    """Whom it runs as where the present user will not do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"mqcore-{name}-", dir=_temporary(self.user)))
        (self.port,) = reserve_ports(1, HOST)
        self.data = self.folder / "data"
        """The folder that a copy of its data consists of. May be put elsewhere before the first start."""
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []

    @classmethod
    def why_not_installed(cls) -> str:
        """Return in one line why it cannot run here; empty when it can."""
        return "" if cls.binary.exists() else f"{cls.binary} is not installed; apt-get install {cls.package}"

    def ports(self) -> list[int]:
        """Return the ports that were reserved for it."""
        return [self.port]

    @property
    def pid(self) -> int:
        """Its process id. Only while it runs."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line; called before each start."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves clients now."""

    def leads(self) -> bool:
        """Whether it is the leader, as far as it knows; one that is alone is."""
        return True

    def start(self) -> None:
        """Start it and wait until it answers. Raises ``TimeoutError`` with the end of its output."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it without waiting: members of an ensemble answer only when there are enough of them."""
        assert self._process is None, f"{self.name} runs already"
        command = [*_END_WITH_PARENT, *self.command()]
        with (self.folder / "output.txt").open("ab") as output:
            self._process = _in_main_thread(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                    user=self.user,
                    group=self.user,
                    extra_groups=None if self.user is None else [],
                    start_new_session=True,  # a Ctrl-C at the terminal is for the tests, which then end it themselves
                )
            )

    def wait_until_ready(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until it answers, or until ``ready`` says so. Raises ``TimeoutError`` with the end of its output."""
        deadline = time.monotonic() + READY_S_MAX
        while not (ready or self.answers)():
            if time.monotonic() > deadline or (self._process is not None and self._process.poll() is not None):
                output = (self.folder / "output.txt").read_text(errors="replace")[-2000:]
                raise TimeoutError(f"{self.name} does not serve on port {self.port}; it wrote:\n{output}")
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End it in order, or by force when that takes too long. Idempotent."""
        if self._process is None:
            return
        self.thaw()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    stop_signal = signal.SIGTERM

    def kill(self) -> None:
        """End it at once and without a warning. Idempotent."""
        if self._process is None:
            return
        processes = self.processes()
        for pid in processes:
            _signal(pid, signal.SIGKILL)
        self._process.wait()
        while any(_state_and_parent(Path(f"/proc/{pid}"))[0] not in "ZX" for pid in processes):
            time.sleep(_LOOK_S / 10)
        self._process, self._frozen = None, []

    def freeze(self) -> None:
        """Stop it where it stands: its connections stay open, its kernel goes on accepting, nothing is answered.

        Returns when every thread of it stands.
        """
        self._frozen = self.processes()
        for pid in self._frozen:
            _signal(pid, signal.SIGSTOP)
        while any(_runs(pid) for pid in self._frozen):
            time.sleep(_LOOK_S / 10)

    def thaw(self) -> None:
        """Let it go on. Idempotent."""
        for pid in self._frozen:
            _signal(pid, signal.SIGCONT)
        self._frozen = []

    def processes(self) -> list[int]:
        """Return the ids of its processes, the first one first."""
        found = [self.pid]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _state_and_parent(entry)[1] in found:
                found.append(int(entry.name))
        return found

    def copy_data(self, place: Path) -> None:
        """Copy its data to ``place``, which must not exist. The server does not run."""
        assert self._process is None, f"{self.name} writes while it is copied"
        shutil.copytree(self.data, place)

    def restore_data(self, place: Path) -> None:
        """Put a copy in the place of its data. The server does not run."""
        assert self._process is None, f"{self.name} runs on the data that is replaced"
        shutil.rmtree(self.data)
        shutil.copytree(place, self.data)
        if self.user is not None:
            for path in (self.data, *self.data.rglob("*")):
                shutil.chown(path, self.user, self.user)

    def remove(self) -> None:
        """End it and remove its folder. Idempotent."""
        self.kill()
        release_ports(self.ports())
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.remove()


def start_all(servers: Iterable[ServerProcess]) -> None:
    """Start the members of an ensemble together and wait for each."""
    members = list(servers)
    for member in members:
        member.launch()
    for member in members:
        member.wait_until_ready()


def _temporary(user: str | None) -> str:
    """Return a folder for temporary files that ``user`` can enter; the usual one may lie below one of root's own."""
    usual = tempfile.gettempdir()
    if user is None:
        return usual
    for place in (usual, "/tmp", "/var/tmp"):
        if all(path.stat().st_mode & stat.S_IXOTH for path in (Path(place), *Path(place).resolve().parents)):
            return place
    return usual


def _in_main_thread(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Call ``start`` in Trio's thread where this is a thread of Trio's: what it starts ends with the thread's end."""
    if threading.current_thread() is threading.main_thread():
        return start()
    return trio.from_thread.run_sync(start)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, number)


def _runs(pid: int) -> bool:
    return any(_state_and_parent(thread)[0] not in "TtZX" for thread in Path(f"/proc/{pid}/task").glob("*"))


def _state_and_parent(entry: Path) -> tuple[str, int]:
    """Return the letter of a process's or thread's state, and its parent: X and 0 when it is gone."""
    try:
        # The name of a process, in brackets, may itself have brackets and blanks.
        state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "X", 0
    return state, int(parent)
