"""A directory that processes of one host share: its lock, and files that are replaced whole. Its calls block.

The lock falls with the process that holds it. On one host's own file systems only: on a network's, locks may fall, and
two processes may both have one. Must not know what the files hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mqcore.ports import File, FileSystem

__all__ = ["SharedDirectory"]

_LOCK_NAME = ".lock"
_NEW_NAME = ".new"


class SharedDirectory:
    """The directory at ``path``, of which no name that begins with a dot is a user's. Its calls raise ``OSError``."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self.files = files
        self.path = path

    def path_of(self, name: str) -> str:
        """Return the path of the file ``name``."""
        return f"{self.path}/{name}"

    def make(self) -> None:
        """Make it, durably, unless it is there; its parent has to be."""
        try:
            self.files.stat(self.path)
        except FileNotFoundError:
            self.files.make_directory(self.path)
            self.files.flush_directory(self.path.rpartition("/")[0] or "/")

    def names(self) -> list[str]:
        """Return the names of the files in it, but for its own; none where it is not there."""
        try:
            found = self.files.list(self.path)
        except FileNotFoundError:
            return []
        return [name for name in found if not name.startswith(".")]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold its lock for a block. Raises ``BlockingIOError`` when another process does."""
        lock = self.files.lock(self.path_of(_LOCK_NAME))
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def opened(self, name: str, *, write: bool = False) -> Iterator[File]:
        """Open a file that is there for a block."""
        file = self.files.open(self.path_of(name), write=write)
        try:
            yield file
        finally:
            file.close()

    def replace(self, name: str, data: bytes) -> None:
        """Put a flushed file with ``data`` in the place of ``name``, under the lock; then ``flush`` makes that durable.

        When it raises, the old one stands, and nothing of the new one takes space that a full disk lacks.
        """
        new = self.path_of(_NEW_NAME)
        # A file of its own each time: after a failed flush, what a second one says of the same file proves nothing.
        with contextlib.suppress(FileNotFoundError):
            self.files.unlink(new)
        try:
            file = self.files.open(new, create=True, exclusive=True)
            try:
                file.pwritev([data], 0)
                file.flush()
            finally:
                file.close()
            self.files.rename(new, self.path_of(name))
        except OSError:
            with contextlib.suppress(OSError):
                self.files.unlink(new)
            raise

    def flush(self) -> None:
        """Make durable which files are in it."""
        self.files.flush_directory(self.path)
