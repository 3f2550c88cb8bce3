"""What an undone append left behind never comes back, and a failure beside an append is no rejection of it."""

from __future__ import annotations

import errno

import pytest
import trio
from shelf_storage import LIMITS, batch, read_all, sent, start

from mqcore.abc import StorageBackend, StorageContext
from mqcore.log import _partition_log, _sidecar
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

OPTIONS = "segment_bytes=65536&first_extent_bytes=4096&extent_bytes_max=65536&journal_range_bytes_max=0"


def storage(disk: ModelDisk, seed: int, ready: int = 4) -> StorageBackend:
    url = f"mmap:///data?{OPTIONS}&ready_segments_max={ready}"
    return create_storage(url, StorageContext(ports=model_ports(seed, disk), limits=LIMITS))


def new_disk() -> ModelDisk:
    disk = ModelDisk(seeded(1, "disk"))
    disk.make_directory("/data")
    disk.flush_directory("/")
    return disk


def test_g07_g15_an_undone_append_does_not_come_back_with_the_segment_that_held_it() -> None:
    async def main() -> None:
        disk = new_disk()
        broker = await start(storage(disk, 1))
        log = await broker.log()
        filler = batch(b"x" * 60_000)
        undone = [batch(b"a" * 20_000, producer_id=1), batch(b"b" * 20_000, producer_id=2)]
        await log.append([filler])
        await broker.store.flush([log])
        for _ in range(3):
            with trio.CancelScope() as scope:
                scope.cancel()
                await log.append(undone)
            assert log.end_offset == 1
            await trio.sleep(1)  # the segment of the undone append is made ready to be used again
        await log.append([undone[1]])
        await broker.store.flush([log])
        disk.process_kill()
        broker = await start(storage(disk.restart(), 2))
        assert await read_all(await broker.log()) == sent([filler, undone[1]])
        await broker.store.aclose()

    run_simulation(main, seed=1)


def test_g07_an_append_beside_which_old_checkpoints_cannot_be_given_up_is_no_rejection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_partition_log, "CHECKPOINT_FIRST_BYTES", 10_000)
    monkeypatch.setattr(_partition_log, "CHECKPOINT_SPACING_BYTES", 10_000)
    monkeypatch.setattr(_sidecar, "TRIM_BYTES", 100_000)

    async def main() -> None:
        disk = new_disk()
        broker = await start(storage(disk, 1, ready=0))
        log = await broker.log()
        disk.fail_next("rename", errno.EIO, path="*/+free-*")
        appended = []
        for number in range(200):
            each = batch(b"%d" % number * 4_000)
            await log.append([each])
            appended.append(each)
            if number % 10 == 0:
                await broker.store.flush([log])
            if disk.witnesses["error:rename"]:
                break
        else:
            pytest.fail("no checkpoint was given up")
        assert await read_all(log) == sent(appended)
        await broker.store.aclose()

    run_simulation(main, seed=1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [10, 40_000])
def test_g07_what_was_flushed_and_then_cut_off_does_not_come_back_after_a_power_cut(seed: int, size: int) -> None:
    async def main() -> None:
        disk = new_disk()
        broker = await start(storage(disk, 1))
        log = await broker.log()
        kept, cut = batch(b"k" * size), batch(b"c" * size)
        await log.append([kept])
        await log.append([cut])
        await broker.store.flush([log])
        await log.truncate(1)
        disk.power_cut(seeded(seed, "power cut"))
        broker = await start(storage(disk.restart(), 2))
        assert await read_all(await broker.log()) == sent([kept])
        await broker.store.aclose()

    run_simulation(main, seed=1)
