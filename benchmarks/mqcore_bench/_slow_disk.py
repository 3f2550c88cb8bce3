"""A file system whose flushes take longer: the port that stands in for a disk which does not acknowledge from RAM."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mqcore.ports import Buffer, File, FileFacts, FileSystem, Lock, Mapping

__all__ = ["SlowDisk"]


class _SlowFile(File):
    """A file whose ``flush`` sleeps after the real one; all else is passed on."""

    def __init__(self, file: File, delay_s: float) -> None:
        self.file = file
        self.path = file.path
        self._delay_s = delay_s

    def pwritev(self, buffers: Sequence[Buffer], position: int) -> int:
        return self.file.pwritev(buffers, position)

    def pread(self, size: int, position: int) -> bytes:
        return self.file.pread(size, position)

    def map(self, size: int) -> Mapping:
        return self.file.map(size)

    def flush(self) -> None:
        self.file.flush()
        time.sleep(self._delay_s)

    def truncate(self, size: int) -> None:
        self.file.truncate(size)

    def size(self) -> int:
        return self.file.size()

    def link_count(self) -> int:
        return self.file.link_count()

    def drop_cache(self, position: int, size: int) -> None:
        self.file.drop_cache(position, size)

    def close(self) -> None:
        self.file.close()


class SlowDisk(FileSystem):
    """``files`` with ``delay_s`` more for each ``flush`` and ``flush_many``, slept in the device's thread."""

    def __init__(self, files: FileSystem, delay_s: float) -> None:
        self.files = files
        self._delay_s = delay_s

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        return _SlowFile(self.files.open(path, create=create, exclusive=exclusive, write=write), self._delay_s)

    def flush_many(self, files: Sequence[File]) -> None:
        self.files.flush_many([file.file if isinstance(file, _SlowFile) else file for file in files])
        time.sleep(self._delay_s)

    def stat(self, path: str) -> FileFacts:
        return self.files.stat(path)

    def list(self, path: str) -> list[str]:
        return self.files.list(path)

    def make_directory(self, path: str) -> None:
        self.files.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        self.files.rename(old, new)

    def unlink(self, path: str) -> None:
        self.files.unlink(path)

    def remove_directory(self, path: str) -> None:
        self.files.remove_directory(path)

    def flush_directory(self, path: str) -> None:
        self.files.flush_directory(path)

    def lock(self, path: str) -> Lock:
        return self.files.lock(path)

    def free_bytes(self, path: str) -> int:
        return self.files.free_bytes(path)

    def open_files_max(self) -> int:
        return self.files.open_files_max()

    def boot_id(self) -> str:
        return self.files.boot_id()
