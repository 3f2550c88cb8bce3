"""Where others take hold of a simulation: saboteurs between the broker and its world, a call at a chosen step.

Knows nothing of faults.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import trio

from mqcore.abc import StorageBackend
from mqcore.ports import FileSystem
from mqcore.testing import ModelDisk


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


class StepCounter(trio.abc.Instrument):
    """``count``: steps of all tasks so far."""

    def __init__(self) -> None:
        self.count = 0
        self._due = 0
        self._call: Callable[[int], None] = lambda step: None

    def aim(self, call: Callable[[int], None], step: int) -> None:
        """Call ``call`` before ``step``; 0: never."""
        self._call, self._due = call, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == self._due:
            self._call(self.count)
