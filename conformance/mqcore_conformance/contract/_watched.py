"""Sees what a part does behind its ports: files, sockets, processes and threads of its own.

The interpreter's audit events tell; a hook stays for the life of its process, so this is used in a child only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence

from mqcore_conformance.children.tracebacks import printable, tell_exception

SEEN_MAX = 20
_FILE_EVENTS = (
    "open", "os.listdir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.scandir",
    "sqlite3.connect",
)  # fmt: skip
_OTHER_EVENTS = (
    "socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn", "_thread.start_new_thread",
)  # fmt: skip
_HARMLESS = (sysconfig.get_path("stdlib"), "/proc/", "/sys/", "/dev/", "/etc/", "/usr/")


def own_io_of(live: Callable[[], object], named: Sequence[str] = ()) -> tuple[str, str]:
    """Return in words what ``live`` does by itself when it is called again, and what it raises.

    ``named``: files that its user named to it, such as certificates, which it has to read.
    """
    seen: list[str] = []
    problem = ""
    for _ in range(2):  # the first call loads modules, which is no I/O of the part
        problem = ""
        try:
            with own_io_seen(named) as seen:
                live()
        except Exception as error:
            problem = tell_exception(error)
    return ", ".join(dict.fromkeys(seen))[:300], problem


@contextlib.contextmanager
def own_io_seen(named: Sequence[str] = ()) -> Iterator[list[str]]:
    """Give a list that fills with what is done while the block lasts, each in a few words."""
    seen: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if not watching or len(seen) >= SEEN_MAX or event not in _FILE_EVENTS + _OTHER_EVENTS:
            return
        what = arguments[0] if arguments else ""
        if event in _FILE_EVENTS:
            if not isinstance(what, str | bytes) or _is_harmless(os.fsdecode(what)) or what in named:
                return
            seen.append(f"{event} {printable(os.fsdecode(what))[:80]}")
        else:
            seen.append(event)

    sys.addaudithook(hook)
    try:
        yield seen
    finally:
        watching = False


def _is_harmless(path: str) -> bool:
    return path.endswith((".py", ".pyc", ".so", ".pth")) or path.startswith(_HARMLESS) or "__pycache__" in path
