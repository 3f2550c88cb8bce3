"""Saboteurs between a storage and its disk: flushes that do nothing, errors swallowed, caches not dropped.

They wrap the file system port, so that they know nothing of any storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqcore.ports import Buffer, File, FileSystem
from mqcore.testing import PassThroughFile, PassThroughFileSystem
from mqcore_conformance.worlds.model import Sabotage


def planted(disk: Callable[[FileSystem], FileSystem]) -> Callable[[], Sabotage]:
    """Return what makes the sabotage that puts ``disk`` between a storage and its file system."""

    class Planted(Sabotage):
        def wrap_files(self, files: FileSystem) -> FileSystem:
            return disk(files)

    Planted.__doc__ = disk.__doc__
    return Planted


class _SabotagedFile(PassThroughFile):
    """A file of ``disk``; everything goes through, what a saboteur changes goes through ``saboteur``."""

    def __init__(self, inner: File, saboteur: _SabotagedDisk) -> None:
        super().__init__(inner)
        self._saboteur = saboteur

    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        self._saboteur.wrote(self, sum(map(len, buffers)))
        return super().pwritev(buffers, position)

    def flush(self) -> None:
        self._saboteur.flush_files([self])

    def drop_cache(self, position: int, size: int) -> None:
        self._saboteur.drop(self, position, size)


class _SabotagedDisk(PassThroughFileSystem):
    """The file system, with the wrapped files of a saboteur. What is not defined here goes to the disk inside."""

    def wrote(self, file: _SabotagedFile, size: int) -> None:
        """Called before each write."""

    def flush_files(self, files: Sequence[_SabotagedFile]) -> None:
        """Flush ``files``."""
        if len(files) == 1:
            files[0].inner.flush()
        else:
            super().flush_many(files)

    def drop(self, file: _SabotagedFile, position: int, size: int) -> None:
        """Drop cached pages."""
        file.inner.drop_cache(position, size)

    def wrap(self, file: File) -> PassThroughFile:
        return _SabotagedFile(file, self)

    def flush_many(self, files: Sequence[File]) -> None:
        self.flush_files([file for file in files if isinstance(file, _SabotagedFile)])


class EmptyFlush(_SabotagedDisk):
    """Acknowledged before the flush (NATS JetStream #7564): a flush does nothing and says that it did."""

    def flush_files(self, files: Sequence[_SabotagedFile]) -> None:
        for file in files:
            file.inner.size()


class LargeWritesUnflushed(_SabotagedDisk):
    """Large messages skip the group commit (MetaQ): a flush after a large write does nothing."""

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self._large: set[str] = set()

    def wrote(self, file: _SabotagedFile, size: int) -> None:
        if 4096 < size < 200_000 and "segments" in file.path:
            self._large.add(file.path)

    def flush_files(self, files: Sequence[_SabotagedFile]) -> None:
        if any(file.path in self._large for file in files):
            self._large -= {file.path for file in files}
        else:
            super().flush_files(files)


class OnlyNewestFileFlushed(_SabotagedDisk):
    """A roll skips the flush (MetaQ): of several files only the last one is flushed, and the others never again."""

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self._rolled: set[str] = set()

    def flush_files(self, files: Sequence[_SabotagedFile]) -> None:
        self._rolled |= {file.path for file in files[:-1]}
        kept = [file for file in files if file.path not in self._rolled]
        if kept:
            super().flush_files(kept)


class FlushRetried(_SabotagedDisk):
    """A failed flush is tried again, and the second success believed (PostgreSQL's fsyncgate)."""

    def flush_files(self, files: Sequence[_SabotagedFile]) -> None:
        try:
            super().flush_files(files)
        except OSError:
            super().flush_files(files)


class DroppedCacheIsKept(_SabotagedDisk):
    """Recovery rescans through the page cache, not what the device holds."""

    def drop(self, file: _SabotagedFile, position: int, size: int) -> None:
        file.inner.size()


class _NoDirectoryAfter(_SabotagedDisk):
    """Leaves out a flush of a directory in which, since the last one, what ``_noted`` holds was done."""

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self._noted: set[str] = set()

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        if create and path.rpartition("/")[2] not in self.inner.list(path.rpartition("/")[0]):
            self.created(path)
        return super().open(path, create=create, exclusive=exclusive, write=write)

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self.renamed(old, new)

    def created(self, path: str) -> None:
        """A file was made."""

    def renamed(self, old: str, new: str) -> None:
        """A file has another name."""

    def flush_directory(self, path: str) -> None:
        if path in self._noted:
            self._noted.discard(path)
            self.inner.stat(path)
        else:
            super().flush_directory(path)


class NoDirectoryFlushAfterCreate(_NoDirectoryAfter):
    """The directory is not flushed after a create: no real file system shows it, the model disk does."""

    def created(self, path: str) -> None:
        self._noted.add(path.rpartition("/")[0])


class NoDirectoryFlushAfterRename(_NoDirectoryAfter):
    """The directory is not flushed after a rename."""

    def renamed(self, old: str, new: str) -> None:
        self._noted.add(new.rpartition("/")[0])
