"""Arrays on a model disk, for the tests of this folder: made, opened, robbed of a member, read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mqcore.abc import Log, Notice, StorageContext
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation

SMALL = "segment_bytes=16384&first_extent_bytes=4096&extent_bytes_max=4096&journal_bytes=65536"


class Bench:
    """A model disk with members /a, /b, ... and an array on them; ``notices`` of all its lives."""

    def __init__(self, members: str = "ab", *, seed: int = 0, options: str = "level=1") -> None:
        self.disk = ModelDisk(seed)
        self.members = [f"/{name}" for name in members]
        self.options = options
        self.notices: list[Notice] = []
        self._lives = seed * 1000

    @property
    def url(self) -> str:
        return f"raid://{','.join(self.members)}?{self.options}&{SMALL}"

    def create(self, url: str | None = None) -> Any:
        self._lives += 1
        context = StorageContext(ports=model_ports(self._lives, self.disk), report=self.notices.append)
        return create_storage(url or self.url, context)

    @asynccontextmanager
    async def opened(self, url: str | None = None):
        storage = self.create(url)
        await storage.open()
        try:
            yield storage
        finally:
            await storage.aclose()

    def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        return run_simulation(function, *args, seconds_max=10_000)

    def crash(self, *, power: bool = True) -> None:
        self.disk.power_cut() if power else self.disk.process_kill()
        self.disk = self.disk.restart()

    def take_away(self, path: str) -> None:
        """``rm -rf`` of a member."""
        remove_tree(self.disk, path)

    def fork(self) -> Bench:
        """The same array on a copy of the disk."""
        other = Bench(options=self.options)
        other.members, other.disk, other._lives = self.members, self.disk.fork(), self._lives + 500
        return other

    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


def remove_tree(disk: ModelDisk, path: str) -> None:
    for name in disk.list(path):
        inner = f"{path}/{name}"
        if disk.stat(inner).is_directory:
            remove_tree(disk, inner)
        else:
            disk.unlink(inner)
    disk.remove_directory(path)


def copy_tree(disk: ModelDisk, source: str, target: str) -> None:
    disk.make_directory(target)
    for name in disk.list(source):
        if disk.stat(f"{source}/{name}").is_directory:
            copy_tree(disk, f"{source}/{name}", f"{target}/{name}")
        else:
            file = disk.open(f"{target}/{name}", create=True)
            content = disk.content(f"{source}/{name}")
            if content:
                file.pwritev([content], 0)
            file.flush()
            file.close()
    disk.flush_directory(target)


async def read_all(log: Log, end: int | None = None) -> bytes:
    end = log.end if end is None else end
    found = bytearray()
    while log.start + len(found) < end:
        piece = await log.read(log.start + len(found), end - log.start - len(found))
        assert len(piece)
        found += piece
    return bytes(found)


async def put(storage: Any, data: bytes, name: str = "log") -> Log:
    """Append ``data`` and flush."""
    log: Log = await storage.open_log(name)
    await log.append([data])
    await storage.flush([log])
    return log


def states(storage: Any) -> Sequence[str]:
    return [member["state"] for member in storage.facts()["members"]]
