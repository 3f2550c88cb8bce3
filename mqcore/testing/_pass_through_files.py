"""A file system around another one, which changes nothing: what a faulty, slow or watching one derives from.

Override what is to be changed. What a storage does to an open file arrives at the file that ``wrap`` returned.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.ports import Buffer, File, FileBirth, FileFacts, FileSystem, Lock, Mapping

__all__ = ["PassThroughFile", "PassThroughFileSystem"]


class PassThroughFile(File):
    """The open file ``inner``, by another object. See ``mqcore.ports.File`` for its methods."""

    def __init__(self, inner: File) -> None:
        self.inner = inner
        self.path = inner.path

    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        return self.inner.pwritev(buffers, position)

    def pread(self, size: int, position: int) -> bytes:
        return self.inner.pread(size, position)

    def map(self, size: int) -> Mapping:
        return self.inner.map(size)

    def flush(self) -> None:
        self.inner.flush()

    def truncate(self, size: int) -> None:
        self.inner.truncate(size)

    def size(self) -> int:
        return self.inner.size()

    def link_count(self) -> int:
        return self.inner.link_count()

    def drop_cache(self, position: int, size: int) -> None:
        self.inner.drop_cache(position, size)

    def close(self) -> None:
        self.inner.close()


class PassThroughFileSystem(FileSystem):
    """The file system ``inner``, by another object. See ``mqcore.ports.FileSystem`` for its methods.

    ``open_directory`` is not passed on: what it returns flushes by ``flush_directory``, so that a subclass that changes
    the one has changed both.
    """

    def __init__(self, inner: FileSystem) -> None:
        self.inner = inner

    def wrap(self, file: File) -> PassThroughFile:
        """Return the object that stands for ``file``, which was just opened inside."""
        return PassThroughFile(file)

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        return self.wrap(self.inner.open(path, create=create, exclusive=exclusive, write=write))

    def stat(self, path: str) -> FileFacts:
        return self.inner.stat(path)

    def list(self, path: str) -> list[str]:
        return self.inner.list(path)

    def make_directory(self, path: str) -> None:
        self.inner.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        self.inner.rename(old, new)

    def unlink(self, path: str) -> None:
        self.inner.unlink(path)

    def remove_directory(self, path: str) -> None:
        self.inner.remove_directory(path)

    def flush_directory(self, path: str) -> None:
        self.inner.flush_directory(path)

    def flush_many(self, files: Sequence[File]) -> None:
        self.inner.flush_many([file.inner for file in files if isinstance(file, PassThroughFile)])

    def lock(self, path: str, *, create: bool = True) -> Lock:
        return self.inner.lock(path, create=create)

    def birth(self, path: str) -> FileBirth:
        return self.inner.birth(path)

    def free_bytes(self, path: str) -> int:
        return self.inner.free_bytes(path)

    def open_files_max(self) -> int:
        return self.inner.open_files_max()

    def boot_id(self) -> str:
        return self.inner.boot_id()
