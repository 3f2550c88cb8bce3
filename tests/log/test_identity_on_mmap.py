"""R2 on real files and on the model disk: what proves that only the process died."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from shelf_storage import batch, read_all, sent, start

from mqcore.abc import StorageBackend, StorageContext
from mqcore.log import MetadataLog
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


@pytest.mark.parametrize("power_cut", [False, True])
def test_r2_c_on_the_model_disk_a_kill_keeps_the_incarnation_and_a_power_cut_raises_it(power_cut: bool) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        ports = model_ports(1, disk)
        first = await start(create_storage("mmap:///data", StorageContext(ports=ports)), boot_id=disk.boot_id())
        if power_cut:
            disk.power_cut()
        else:
            disk.process_kill()
        disk = disk.restart()
        ports = model_ports(2, disk)
        second = await start(create_storage("mmap:///data", StorageContext(ports=ports)), boot_id=disk.boot_id())
        assert second.store.incarnation == first.store.incarnation + power_cut
        await second.store.aclose()

    run_simulation(main, seed=1)


def test_r2_c_a_copy_of_the_directory_of_a_killed_broker_is_another_incarnation(tmp_path: Path) -> None:
    def storage(path: Path) -> StorageBackend:
        return create_storage(f"mmap://{path}", StorageContext(ports=system_ports()))

    async def main() -> None:
        running = await start(storage(tmp_path / "one"))
        shutil.copytree(tmp_path / "one", tmp_path / "copied")  # as it stands, not closed: what a kill leaves
        copied = await start(storage(tmp_path / "copied"))
        assert copied.store.incarnation == running.store.incarnation + 1
        await copied.store.aclose()
        shutil.rmtree(tmp_path / "copied")
        await running.store.aclose()

    trio.run(main)


def test_restarts_on_a_full_disk_go_on_for_ever() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))

        def storage() -> StorageBackend:
            url = "mmap:///data?first_extent_bytes=4KiB&extent_bytes_max=4KiB&journal_bytes=64KiB"
            return create_storage(url, StorageContext(ports=model_ports(1, disk)))

        broker = await start(storage())
        log = await broker.log()
        await log.append([batch(b"before")])
        await MetadataLog(broker.store).append([{"type": "record"}])
        await broker.store.flush([log])
        disk.bytes_max = disk.used_bytes
        for restart in range(200):
            if restart % 3:
                await broker.store.aclose()
            else:
                disk.process_kill()
            disk = disk.restart()
            disk.bytes_max = disk.used_bytes
            broker = await start(storage(), boot_id=disk.boot_id())
            assert broker.store.epoch == restart + 2
        assert await MetadataLog(broker.store).replay() == [{"type": "record"}]
        assert await read_all(await broker.log()) == sent([batch(b"before")])
        await broker.store.aclose()

    run_simulation(main, seed=1)
