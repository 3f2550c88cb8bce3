"""One member of an open array: its directory, its storage, its thread for the directory's calls, its state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import attrs
import trio

from mqcore.abc import StorageBackend
from mqcore.ports import DeviceThread
from mqcore_raid._directory import MemberDirectory
from mqcore_raid._record import ArrayRecord, SlotState
from mqcore_raid._sums_files import append_sums, check_voided, void_sums

__all__ = ["ArrayMember"]

T = TypeVar("T")


class ArrayMember:
    """Member number ``slot``. ``storage`` is open while ``is_in_sync``, and while it is being rebuilt."""

    def __init__(
        self, slot: int, group: int, state: SlotState, directory: MemberDirectory, thread: DeviceThread
    ) -> None:
        self.slot = slot
        self.group = group
        self.state = state
        self.directory = directory
        self.storage: StorageBackend | None = None
        self.joined: set[str] = set()
        """While it is rebuilt: names of the logs that it holds whole, and whose appends it takes."""
        self.takes_flushes = False
        """Whether flushes go to it too, although it does not count yet."""
        self._voided: set[str] = set()
        self._thread = thread
        self._calls = 0
        self._idle = trio.Event()

    @property
    def path(self) -> str:
        """Its directory."""
        return self.directory.path

    @property
    def is_in_sync(self) -> bool:
        """Whether it holds everything that its mirror group holds."""
        return self.state.state == "in-sync"

    @property
    def is_rebuilding(self) -> bool:
        """Whether it is on its way to be in sync."""
        return self.state.state == "rebuilding"

    async def during(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call ``function(*args)``, which uses the storage; ``wait_idle`` waits for it."""
        self._calls += 1
        try:
            return await function(*args)
        finally:
            self.end_call()

    def begin_call(self) -> None:
        """Count a call that uses the storage, as ``during`` does; ``end_call`` comes after it."""
        self._calls += 1

    def end_call(self) -> None:
        """Count no longer a call that was begun."""
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return once no call uses the storage: while one hangs, so would closing it, and that cannot be cancelled."""
        while self._calls:
            self._idle = trio.Event()
            await self._idle.wait()

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking call on its directory in the member's own thread."""
        return await self.during(self._thread.run, function, *args)

    def submit(self, function: Callable[..., object], *args: object) -> None:
        """Have a blocking call on its directory made, of which nothing depends on the outcome."""
        self._thread.submit(function, *args)

    def keep_sums(self, name: str, void: int | None, data: bytes) -> None:
        """Have the checksums of a log say that from block ``void`` on they are old, and ``data`` put behind that."""
        if void is not None:
            self._voided.add(name)
            self.submit(void_sums, self.directory, name, void)
        if data:
            self.submit(append_sums, self.directory, name, data)

    async def settle_sums(self, names: Iterable[str]) -> None:
        """Return once what checksums of ``names`` were told is on the disk. Raises ``StorageError``."""
        voided = self._voided.intersection(names) if self._voided else ()
        if voided:
            self._voided.difference_update(voided)
            await self.call(check_voided, self.directory, voided)

    async def write(self, record: ArrayRecord) -> None:
        """Write ``record`` as this member's. Raises ``OSError``, ``StorageError``."""
        await self.call(self.directory.write, record)

    async def open_storage(self, storage: StorageBackend) -> None:
        """Open ``storage`` as this member's. Raises what its ``open`` does."""
        await storage.open()
        inode, birth = await self.call(self.directory.find_storage)
        self.state = attrs.evolve(self.state, inode=inode, born_ns=birth.born_ns, subvolume=birth.subvolume)
        self.storage = storage

    async def aclose(self) -> None:
        """Close the storage, end the thread, release the lock. Raises the storage's error, after all of it.

        A member of which a call hangs is left as it is: to close it would hang too.
        """
        if self._calls:
            return
        storage, self.storage = self.storage, None
        with trio.CancelScope(shield=True):
            try:
                if storage is not None:
                    await storage.aclose()
            finally:
                await self._thread.aclose()
                self.directory.release()
