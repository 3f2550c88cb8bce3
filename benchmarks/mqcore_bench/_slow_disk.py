"""A file system whose flushes take longer: the port that stands in for a disk which does not acknowledge from RAM."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mqcore.ports import File, FileSystem
from mqcore.testing import PassThroughFile, PassThroughFileSystem

__all__ = ["SlowDisk"]


class _SlowFile(PassThroughFile):
    """A file whose ``flush`` sleeps after the real one."""

    def __init__(self, inner: File, delay_s: float) -> None:
        super().__init__(inner)
        self._delay_s = delay_s

    def flush(self) -> None:
        super().flush()
        time.sleep(self._delay_s)


class SlowDisk(PassThroughFileSystem):
    """``inner`` with ``delay_s`` more for each ``flush`` and ``flush_many``, slept in the device's thread."""

    def __init__(self, inner: FileSystem, delay_s: float) -> None:
        super().__init__(inner)
        self._delay_s = delay_s

    def wrap(self, file: File) -> PassThroughFile:
        return _SlowFile(file, self._delay_s)

    def flush_many(self, files: Sequence[File]) -> None:
        super().flush_many(files)
        time.sleep(self._delay_s)
