"""Section 7 of the guarantees: after a failed flush a new process believes the device, not the page cache."""

from __future__ import annotations

import pytest
from shelf_storage import LIMITS, Clock, Shelf, ShelfStorage, batch, ports_of, read_all, sent, start

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import FlushFailedError, StorageError
from mqcore.log import LogStore
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


def storage(disk: ModelDisk, seed: int) -> StorageBackend:
    return create_storage("mmap:///data", StorageContext(ports=model_ports(seed, disk), limits=LIMITS))


@pytest.mark.parametrize("flushed", [0, 1, 7, 60])
def test_g11_what_is_served_after_a_failed_flush_and_a_restart_survives_a_power_cut(flushed: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        disk.make_directory("/data")
        disk.flush_directory("/")
        broker = await start(storage(disk, 1))
        log = await broker.log()
        for _ in range(flushed):
            await log.append([batch(b"x" * 3_000)])
        await broker.store.flush([log])
        await log.append([batch(b"y" * 30_000)])
        disk.fail_next_flush()
        with pytest.raises(FlushFailedError):
            await broker.store.flush([log])
        disk.process_kill()
        disk = disk.restart()
        broker = await start(storage(disk, 2))
        log = await broker.log()
        served = await read_all(log)
        assert log.durable_offset == len(served) >= flushed
        disk.power_cut()
        broker = await start(storage(disk.restart(), 3))
        assert (await read_all(await broker.log()))[: len(served)] == served
        await broker.store.aclose()

    run_simulation(main, seed=1)


def test_g01_what_a_killed_process_had_not_flushed_is_durable_once_its_log_is_open_again() -> None:
    async def main() -> None:
        shelf = Shelf()
        log = await (await start(shelf)).log()
        await log.append([batch(b"unflushed")])
        log = await (await start(shelf)).log()
        assert log.durable_offset == 1
        assert shelf.logs[log.name].durable == shelf.logs[log.name].end

    run_simulation(main, seed=1)


def test_g11_a_log_whose_storage_stopped_beside_every_call_serves_what_is_durable_and_takes_nothing() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        durable = [batch(b"durable"), batch(b"too")]
        await log.append(durable)
        await broker.store.flush([log])
        durable_offset = log.end_offset
        await log.append([batch(b"lost" * 1000)])
        await log.read(0, 1 << 20, log.end_offset)  # leaves a place beyond the durable end for the next read
        shelf.stop()
        assert await read_all(log, end_offset=durable_offset) == sent(durable)
        for offset in range(durable_offset, log.end_offset + 1):
            assert (await log.read(offset, 1 << 20, log.end_offset)).chunks == []
        assert await log.offset_at_time(2**50) == log.end_offset
        assert log.failed is not None
        assert log.failed.kind == "flush"
        with pytest.raises(StorageError, match="takes no appends") as caught:
            await log.append([batch(b"more")])
        assert not caught.value.appended

    run_simulation(main, seed=1)


def test_g11_an_identity_that_a_failed_flush_stopped_is_reported_once() -> None:
    """Nothing else says that this node can be no other incarnation any more: only a restart helps."""

    async def main() -> None:
        told: list[list[str]] = []
        store = LogStore(
            ShelfStorage(Shelf()),
            ports=ports_of(Clock()),
            limits=LIMITS,
            node_name="node-1",
            report=lambda _: None,
            stopped=lambda names, _: told.append(names),
        )
        await store.open()
        for _ in range(2):
            store.stop(FlushFailedError("the disk says no", logs=["identity-copy", "other"]))
        await store.aclose()
        assert told == [["identity-copy"]]

    run_simulation(main, seed=1)
