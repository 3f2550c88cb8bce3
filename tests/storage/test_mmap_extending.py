"""Appends of much at once: the bytes themselves make the file longer; a full disk leaves it as it was (G02, G04)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from mqcore.abc import Log, StorageContext
from mqcore.errors import StorageError
from mqcore.testing import DiskCall, ModelDisk, model_ports, run_simulation
from mqcore.url import Url
from mqcore_mmap import MmapStorage
from mqcore_mmap._extending import EXTEND_BYTES

PIECE = random.Random(1).randbytes(EXTEND_BYTES)


def make(disk: ModelDisk) -> MmapStorage:
    options = MmapStorage.options_class(segment_bytes=4 * EXTEND_BYTES)
    return MmapStorage(Url.parse("mmap:///s"), options, StorageContext(ports=model_ports(1, disk)))


def simulate(body: Callable[[ModelDisk, MmapStorage], Awaitable[None]], disk: ModelDisk | None = None) -> None:
    disk = disk or ModelDisk(3)
    backend = make(disk)

    async def main() -> None:
        await backend.open()
        await body(disk, backend)

    run_simulation(main)


async def content(log: Log) -> bytes:
    found = bytearray()
    while log.start + len(found) < log.end:
        found += await log.read(log.start + len(found), log.end - log.start - len(found))
    return bytes(found)


def test_each_byte_is_written_once() -> None:
    written = 0

    def on_call(call: DiskCall) -> None:
        nonlocal written
        if call.operation == "pwritev" and "/segments/" in call.path:
            written += call.size

    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"begins the segment"])
        disk.on_call = on_call
        for _ in range(3):
            await log.append([PIECE[:-100], PIECE[-100:]])
        await backend.flush([log])
        disk.on_call = None
        assert await content(log) == b"begins the segment" + 3 * PIECE
        await log.append([b"small"])
        await backend.flush([log])
        assert (await content(log))[-5:] == b"small"

    simulate(body)
    assert 3 * EXTEND_BYTES <= written <= 3.1 * EXTEND_BYTES


def test_a_disk_that_fills_meanwhile_rejects_and_leaves_the_file_as_it_was() -> None:
    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([PIECE])
        sizes = {path: len(disk.content(path)) for path in disk.paths() if "/segments/" in path}
        disk.bytes_max = disk.used_bytes + EXTEND_BYTES // 2
        with pytest.raises(StorageError, match="free space") as caught:
            await log.append([PIECE])
        assert (caught.value.kind, caught.value.retryable, caught.value.appended) == ("full", True, False)
        for path, size in sizes.items():
            assert not any(disk.content(path)[size:]), "what is there is zeros"
        assert log.end == EXTEND_BYTES
        await log.append([b"there is room for little"])
        await backend.flush([log])
        disk.bytes_max = None
        await log.append([PIECE])
        await backend.flush([log])
        assert await content(log) == PIECE + b"there is room for little" + PIECE

    simulate(body)


@pytest.mark.parametrize("power", [True, False], ids=["power cut", "kill"])
@pytest.mark.parametrize("seed", range(4))
def test_g01_g02_what_was_flushed_is_there_after_a_crash_in_a_later_one(seed: int, power: bool) -> None:
    disk = ModelDisk(seed)

    async def before(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"begins"])
        await log.append([PIECE])
        await backend.flush([log])
        await log.append([b"proves the flush before"])
        await backend.flush([log])
        await log.append([PIECE])

    async def after(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        wanted = b"begins" + PIECE + b"proves the flush before"
        assert log.durable_end >= 6 + len(PIECE)
        assert (await content(log))[: len(wanted)] == wanted
        await log.truncate(len(wanted))
        await log.append([PIECE])
        await backend.flush([log])
        assert await content(log) == wanted + PIECE

    simulate(before, disk)
    disk.power_cut() if power else disk.process_kill()
    simulate(after, disk.restart())
