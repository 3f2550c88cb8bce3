"""Where saboteurs take hold of a simulation: between the broker and its disk, its storage, its deaths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mqcore.abc import StorageBackend
from mqcore.ports import FileSystem
from mqcore.testing import ModelDisk

__all__ = ["Sabotage"]


class Sabotage:
    """What a saboteur may put between the broker and its world. This one changes nothing."""

    name = ""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Change the code under test while the block lasts."""
        yield

    def before_power_cut(self, disk: ModelDisk) -> None:
        """Called before a power cut."""

    def stays_alive(self) -> bool:
        """Whether a kill shall kill nothing."""
        return False

    def wrap_files(self, files: FileSystem) -> FileSystem:
        """Return the file system that the broker gets."""
        return files

    def wrap_storage(self, backend: StorageBackend) -> StorageBackend:
        """Return the storage that the broker gets."""
        return backend
