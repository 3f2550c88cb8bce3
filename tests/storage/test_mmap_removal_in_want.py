"""Trim, truncate and delete where neither a descriptor nor space is left: they are what helps then, so they work."""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable

import pytest

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.errors import MqcoreError
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

URL = "mmap:///data?segment_bytes=4096&first_extent_bytes=4096&extent_bytes_max=4096&journal_range_bytes_max=0"
NAME = "lines"
PIECE_BYTES = 1000
PIECES = 24
CUT = 10 * PIECE_BYTES
DATA = b"".join(bytes([number]) * PIECE_BYTES for number in range(1, PIECES + 1))
WANTS = pytest.mark.parametrize("want", [errno.EMFILE, errno.ENOSPC], ids=["descriptors", "space"])

Action = Callable[[StorageBackend, Log], Awaitable[object]]


async def trim(_: StorageBackend, log: Log) -> None:
    await log.trim(CUT)


async def truncate(_: StorageBackend, log: Log) -> None:
    await log.truncate(CUT)


async def delete(storage: StorageBackend, _: Log) -> None:
    await storage.delete_log(NAME)


async def opened(disk: ModelDisk) -> tuple[StorageBackend, Log]:
    storage = create_storage(URL, StorageContext(ports=model_ports(1, disk)))
    await storage.open()
    return storage, await storage.open_log(NAME)


async def filled(disk: ModelDisk) -> tuple[StorageBackend, Log]:
    """A flushed log of several segments, on a disk that has nothing left for another file."""
    storage, log = await opened(disk)
    for position in range(0, len(DATA), PIECE_BYTES):
        await log.append([DATA[position : position + PIECE_BYTES]])
    await storage.flush([log])
    return storage, log


async def content(log: Log) -> bytes:
    found = bytearray()
    while log.start + len(found) < log.end:
        found += await log.read(log.start + len(found), log.end)
    return bytes(found)


@WANTS
def test_a_log_that_was_trimmed_in_want_goes_on(want: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        storage, log = await filled(disk)
        disk.fail_next("open", path="*+gone*", error=want)
        assert CUT - 4096 < await log.trim(CUT) <= CUT
        assert disk.witnesses["error:open"] == 1
        await log.append([b"more"])
        assert [each.end for each in await storage.flush([log])] == [len(DATA) + 4]
        assert await content(log) == (DATA + b"more")[log.start :]
        await storage.aclose()

    run_simulation(main)


@WANTS
def test_a_log_is_truncated_and_goes_on_and_is_deleted_in_want(want: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        storage, log = await filled(disk)
        disk.fail_next("open", path="*+gone*", error=want, times=2)
        await log.truncate(CUT)
        for _ in range(10):
            await log.append([b"x" * PIECE_BYTES])
        await storage.flush([log])
        assert await content(log) == DATA[:CUT] + b"x" * 10 * PIECE_BYTES
        await storage.delete_log(NAME)
        assert disk.witnesses["error:open"] == 2
        assert await storage.list_logs() == []
        await storage.aclose()
        storage, log = await opened(disk.restart())
        assert (log.start, log.end) == (0, 0)
        await storage.aclose()

    run_simulation(main)


@pytest.mark.parametrize(("action", "start", "end"), [(trim, 8000, len(DATA)), (truncate, 0, CUT), (delete, 0, 0)])
def test_a_power_cut_anywhere_in_a_removal_in_want_leaves_no_hole(action: Action, start: int, end: int) -> None:
    async def main(cut_after: int) -> bool:
        disk = ModelDisk(seeded(1, "disk"))
        storage, log = await filled(disk)
        disk.fail_next("open", path="*+gone*", error=errno.EMFILE)
        disk.kill_at(sum(disk.counts.values()) + cut_after, power_cut=True)
        try:
            await action(storage, log)
            done = disk.alive
        except (OSError, MqcoreError):
            done = False
        disk.power_cut(random.Random(cut_after))
        storage, log = await opened(disk.restart())
        found = await content(log)
        kept_end = max(end, log.durable_end)
        assert found[: kept_end - log.start] == DATA[log.start : kept_end]
        assert log.start <= start
        assert not done or (log.start == start and log.durable_end <= end)
        await storage.aclose()
        return done

    for cut_after in range(1, 200):
        if run_simulation(main, cut_after):
            return
    raise AssertionError("the removal never came to its end")


def test_g12_a_log_that_was_trimmed_and_then_cut_proves_no_more_than_it_has() -> None:
    """A trim states in the first segment that is left what was flushed; that one may not be the last to be cut."""

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        _, log = await filled(disk)
        await log.trim(CUT)
        await log.truncate(2 * CUT - 5_000)
        disk.power_cut()
        _, again = await opened(disk.restart())
        assert again.durable_end == 2 * CUT - 5_000
        data = await content(again)
        assert data[: again.durable_end - again.start] == DATA[again.start : again.durable_end]
        assert not any(data[again.durable_end - again.start :])

    run_simulation(main)


def test_a_log_is_trimmed_while_unflushed_bytes_of_others_hold_every_descriptor() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        context = StorageContext(ports=model_ports(1, disk))
        storage = create_storage(f"{URL}&open_files_max=8", context)
        await storage.open()
        log = await storage.open_log(NAME)
        for position in range(0, len(DATA), PIECE_BYTES):
            await log.append([DATA[position : position + PIECE_BYTES]])
        await storage.flush([log])
        others = [await storage.open_log(f"other-{number}") for number in range(7)]
        for other in others:
            await other.append([b"unflushed"])
        assert CUT - 4096 < await log.trim(CUT) <= CUT
        await storage.flush(others)
        assert await content(log) == DATA[log.start :]
        await storage.aclose()

    run_simulation(main)
