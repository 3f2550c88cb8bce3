"""The socket's file: whether it is there, whose it is, and its removal. Must not know of sockets.

``bind`` makes the file. A socket that is not the kernel's (a model network) makes none, so every step here allows for
the file not being there, and nothing is done to a file that was there before ``bind`` succeeded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

__all__ = ["PathFacts", "alone_in_folder", "facts_of", "remove_if_same", "restrict"]

LOCK_WAIT_S = 2.0
_LOCK_EVERY_S = 0.005


@attrs.frozen
class PathFacts:
    """What identifies a file: ``changed_ns`` tells a new file from an old one whose inode number it re-uses."""

    is_socket: bool
    device: int
    inode: int
    changed_ns: int

    def is_same_file(self, other: PathFacts | None) -> bool:
        """Whether both are one file, while it is known to be held open (its inode number cannot be re-used)."""
        return other is not None and (self.device, self.inode) == (other.device, other.inode)


def facts_of(path: str) -> PathFacts | None:
    """Return what is at ``path`` (a link is not followed), or None when there is nothing. Raises ``OSError``."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return PathFacts(stat.S_ISSOCK(found.st_mode), found.st_dev, found.st_ino, found.st_ctime_ns)


def restrict(path: str, mode: int) -> PathFacts | None:
    """Set the mode of the socket file that ``bind`` just made; return its facts, None when it made none."""
    facts = facts_of(path)
    if facts is None or not facts.is_socket:
        return None
    os.chmod(path, mode, follow_symlinks=True)
    return facts


def remove_if_same(path: str, facts: PathFacts) -> None:
    """Remove ``path`` when it still leads to the file of ``facts``; somebody else's file is left alone."""
    with contextlib.suppress(OSError):
        if facts.is_same_file(facts_of(path)):
            os.unlink(path)


@asynccontextmanager
async def alone_in_folder(path: str) -> AsyncIterator[None]:
    """Hold the lock of the folder of ``path`` for the block: one process at a time looks at files there, and makes one.

    Where it cannot be had, or not within ``LOCK_WAIT_S``, the block is entered without it: it may be held for another
    purpose. Errors of the folder are left to whoever makes the file.
    """
    try:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with trio.move_on_after(LOCK_WAIT_S):
            await _lock(folder)
        yield
    finally:
        os.close(folder)


async def _lock(folder: int) -> None:
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await trio.sleep(_LOCK_EVERY_S)
        except OSError:
            return  # a file system without locks
        else:
            return
