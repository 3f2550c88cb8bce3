"""What is removed goes a piece at a time beside the work of a storage, at once where space is wanted or it closes."""

from __future__ import annotations

import errno
import itertools

import attrs
import pytest
import trio

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.ports import File, FileSystem
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore.testing._pass_through_files import PassThroughFile, PassThroughFileSystem
from mqcore_mmap import _files

URL = (
    "mmap:///data?segment_bytes=16384&first_extent_bytes=16384&extent_bytes_max=16384&journal_range_bytes_max=0"
    "&ready_segments_max={ready}"
)
PIECE_BYTES = 4096
SEGMENTS = 6


class WatchedFile(PassThroughFile):
    def __init__(self, inner: File, path: str, done: list[tuple[str, str, int]]) -> None:
        super().__init__(inner)
        self.path = path
        self.done = done

    def truncate(self, size: int) -> None:
        self.done.append(("truncate", self.path, self.size() - size))
        super().truncate(size)


class WatchedFiles(PassThroughFileSystem):
    """Remembers what is cut off and removed of retired files; ``links`` of each, where it is not one."""

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self.done: list[tuple[str, str, int]] = []

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, write: bool = True) -> File:
        return WatchedFile(self.inner.open(path, create=create, exclusive=exclusive, write=write), path, self.done)

    def unlink(self, path: str) -> None:
        if "+free" in path:
            file = self.inner.open(path)
            self.done.append(("unlink", path, file.size()))
            file.close()
        super().unlink(path)

    @property
    def sizes(self) -> list[int]:
        return [size for _, _, size in self.done]

    @property
    def removed(self) -> int:
        return sum(what == "unlink" for what, _, _ in self.done)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "FREE_PIECE_BYTES", PIECE_BYTES)


async def filled(disk: ModelDisk, *, ready: int = 0) -> tuple[StorageBackend, Log, WatchedFiles]:
    """A flushed log of six full segments and a begun one."""
    ports = model_ports(1, disk)
    files = WatchedFiles(ports.files)
    storage = create_storage(URL.format(ready=ready), StorageContext(ports=attrs.evolve(ports, files=files)))
    await storage.open()
    log = await storage.open_log("lines")
    while len([path for path in disk.list("/data/segments") if path.startswith("lines@")]) <= SEGMENTS:
        await log.append([b"x" * 1000])
        await storage.flush([log])
    files.done.clear()
    return storage, log, files


def test_what_is_trimmed_goes_in_pieces_with_the_work_of_others_between_them() -> None:
    async def main() -> None:
        storage, log, files = await filled(ModelDisk(seeded(1, "disk")))
        await log.trim(log.end)
        assert files.removed == 0, "not a part of the trim"
        seen = []
        while files.removed < SEGMENTS and len(seen) < 10_000:
            seen.append(len(files.done))
            await trio.sleep(0.0005)
        assert files.removed == SEGMENTS
        assert max(files.sizes) <= PIECE_BYTES
        assert len(files.done) > SEGMENTS * 16384 // PIECE_BYTES
        assert max(after - before for before, after in itertools.pairwise(seen)) == 1
        await storage.aclose()

    run_simulation(main)


def test_a_storage_that_closes_removes_the_rest_at_once() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        storage, log, files = await filled(disk)
        await log.trim(log.end)
        await storage.aclose()
        assert files.removed == SEGMENTS
        assert len(files.done) < 2 * SEGMENTS
        assert not [path for path in disk.list("/data/segments") if "free" in path]

    run_simulation(main)


def test_a_full_disk_gets_the_space_of_all_that_is_about_to_go() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        storage, log, files = await filled(disk)
        await log.trim(log.end)
        disk.fail_next("open", path="*+unnamed*", error=errno.ENOSPC)
        other = await storage.open_log("other")
        await other.append([b"z"])
        assert files.removed == SEGMENTS
        await storage.aclose()

    run_simulation(main)


def test_what_a_crash_left_half_removed_goes_after_the_next_start() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        _, log, files = await filled(disk)
        await log.trim(log.end)
        while not files.removed:
            await trio.sleep(0.001)
            assert trio.current_time() < 1000
        after = disk.restart()
        left = [path for path in after.list("/data/segments") if "free" in path]
        assert left
        storage = create_storage(URL.format(ready=0), StorageContext(ports=model_ports(1, after)))
        await storage.open()
        await trio.sleep(1)
        assert not [path for path in after.list("/data/segments") if "free" in path]
        await storage.aclose()

    run_simulation(main)


def test_what_is_kept_ready_is_whole() -> None:
    async def main() -> None:
        storage, log, files = await filled(ModelDisk(seeded(1, "disk")), ready=2)
        await log.trim(log.end)
        await trio.sleep(1)
        assert files.removed == SEGMENTS - 2
        await log.append([b"n" * 1000 for _ in range(40)])
        await storage.flush([log])
        assert bytes(await log.read(log.end - 1000, 1000)) == b"n" * 1000
        await storage.aclose()

    run_simulation(main)
