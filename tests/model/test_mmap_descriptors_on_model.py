"""A descriptor that was closed to make room cannot prove its appends: a flush never takes them for written."""

from __future__ import annotations

import pytest

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import StorageError
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

OPTIONS = "segment_bytes=65536&first_extent_bytes=4096&open_files_max=8&journal_range_bytes_max=4096"


def storage_on(disk: ModelDisk, seed: int) -> StorageBackend:
    return create_storage(f"mmap:///data?{OPTIONS}", StorageContext(ports=model_ports(seed, disk)))


@pytest.mark.parametrize("together", [1, 3])
def test_g11_a_write_back_error_after_the_descriptor_was_closed_loses_nothing_flushed(together: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        disk.make_directory("/data")
        disk.flush_directory("/")
        storage = storage_on(disk, 1)
        await storage.open()
        logs = [await storage.open_log(f"log-{number}") for number in range(24)]
        for log in logs:
            await log.append([b"a" * 1000])
            await storage.flush([log])
        for log in logs[:together]:
            await log.append([b"b" * 1000])
        for log in logs[together:]:
            await log.append([b"c" * 10])
        for path in disk.paths():
            if "/log-0@" in path:
                disk.fail_write_back(path)
        flushed = False
        try:
            await storage.flush(logs[:together])
            flushed = True
        except StorageError:
            pass
        disk.power_cut(seeded(1, "cut"))
        storage = storage_on(disk.restart(), 2)
        await storage.open()
        log = await storage.open_log("log-0")
        if flushed:
            assert bytes(await log.read(0, 2000)) == b"a" * 1000 + b"b" * 1000
        await storage.aclose()
        assert flushed

    run_simulation(main, seed=1)
