"""G12: what should be there and is not is damage with its range; what is whole stays readable."""

from __future__ import annotations

import pytest

from mqcore.abc import Log, Notice, StorageBackend, StorageContext
from mqcore.errors import FlushFailedError, StorageError
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore_mmap._header import Header
from mqcore_mmap._missing import SegmentGap, SegmentPlace, find_gaps

SEGMENT = 64 * 1024
PIECE = b"x" * 30_000
SIZE = 2 * len(PIECE)
"""Bytes in a segment: two pieces fill it."""


def make(disk: ModelDisk, notices: list[Notice] | None = None) -> StorageBackend:
    report = (lambda _: None) if notices is None else notices.append
    url = f"mmap:///s?segment_bytes={SEGMENT}&ready_segments_max=0"
    return create_storage(url, StorageContext(ports=model_ports(1, disk), report=report))


async def fill(storage: StorageBackend, segments: int) -> Log:
    """Append whole segments and flush as they fill."""
    await storage.open()
    log = await storage.open_log("a")
    for _ in range(2 * segments):
        await log.append([PIECE])
        await storage.flush([log])
    return log


async def content(log: Log) -> bytes:
    found = bytearray()
    while log.start + len(found) < log.end:
        found += await log.read(log.start + len(found), log.end)
    return bytes(found)


def files_of(disk: ModelDisk) -> list[str]:
    return [name for name in disk.list("/s/segments") if name.startswith("a@")]


def place(base: int, end: int, log_start: int = 0, continued_at: int | None = None) -> SegmentPlace:
    return SegmentPlace(base, end, Header(None, log_start=log_start, continued_at=continued_at))


@pytest.mark.parametrize(
    ("places", "gaps"),
    [
        ([place(0, 10)], []),
        ([place(0, 10, continued_at=8), place(8, 18)], []),
        ([place(8, 18)], [SegmentGap(0, 8, 0)]),
        ([place(8, 18, log_start=8)], []),
        ([place(8, 18, log_start=8, continued_at=16), place(16, 26)], []),
        ([place(16, 26), place(26, 36, log_start=8)], [SegmentGap(8, 16, 0)]),
        ([place(0, 10, continued_at=8), place(16, 26)], [SegmentGap(8, 16, 1)]),
        ([place(0, 10), place(16, 26)], [SegmentGap(10, 16, 1)]),
        ([place(0, 10, continued_at=8)], [SegmentGap(8, 108, 1)]),
        ([place(8, 18, continued_at=16)], [SegmentGap(0, 8, 0), SegmentGap(16, 116, 1)]),
    ],
)
def test_what_is_missing_follows_from_the_others(places: list[SegmentPlace], gaps: list[SegmentGap]) -> None:
    assert find_gaps(places, 100) == gaps


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("beside_broker", [False, True])
def test_a_missing_segment_loses_its_own_range_only(which: int, clean: bool, beside_broker: bool) -> None:
    async def main() -> None:
        disk, notices = ModelDisk(1), list[Notice]()
        storage = make(disk)
        await fill(storage, 4)
        if clean:
            await storage.aclose()
        else:
            disk.power_cut()
        disk = disk.restart()
        gone, base = files_of(disk)[which], which * SIZE
        disk.unlink(f"/s/segments/{gone}")
        owner = make(disk)
        reader = make(disk, notices)
        if beside_broker:
            await owner.open()
            assert await reader.open_readonly()
        else:
            await reader.open()
        log = await reader.open_log("a")
        lost_end = log.end if which == 3 else base + SIZE
        found = await content(log)
        assert (log.start, found[:base], found[base:lost_end]) == (0, b"x" * base, bytes(lost_end - base))
        assert found[lost_end : 4 * SIZE] == b"x" * max(0, 4 * SIZE - lost_end)
        assert log.durable_end >= lost_end
        if not beside_broker:
            assert [notice.kind for notice in notices] == ["segment-missing"]
            assert gone in notices[0].text
            assert (notices[0].facts["position"], notices[0].facts["end_position"]) == (base, lost_end)
        await reader.aclose()
        await owner.aclose()

    run_simulation(main, seed=1)


@pytest.mark.parametrize("which", [0, 3])
def test_a_log_with_a_missing_segment_goes_on_and_is_trimmed_and_deleted(which: int) -> None:
    async def main() -> None:
        disk = ModelDisk(1)
        storage = make(disk)
        await fill(storage, 4)
        await storage.aclose()
        disk.unlink(f"/s/segments/{files_of(disk)[which]}")
        storage = make(disk)
        await storage.open()
        log = await storage.open_log("a")
        if which == 3:
            assert log.end > 4 * SIZE, "a position that may have been used is not used again"
        end = await log.append([b"more"])
        await storage.flush([log])
        await storage.aclose()
        storage = make(disk)
        await storage.open()
        log = await storage.open_log("a")
        assert (await content(log))[end:].startswith(b"more")
        assert await log.trim(SIZE) == SIZE
        await storage.delete_log("a")
        assert files_of(disk) == []
        await storage.aclose()

    run_simulation(main, seed=1)


def test_what_was_trimmed_or_truncated_is_not_missing() -> None:
    async def main() -> None:
        for action in ("trim", "truncate", "both"):
            disk, notices = ModelDisk(1), list[Notice]()
            storage = make(disk)
            log = await fill(storage, 5)
            if action != "truncate":
                assert await log.trim(2 * SIZE + 1) == 2 * SIZE
            if action != "trim":
                await log.truncate(3 * SIZE + 5)
            disk.power_cut()
            disk = disk.restart()
            storage = make(disk, notices)
            await storage.open()
            await storage.open_log("a")
            assert [notice.kind for notice in notices if notice.kind == "segment-missing"] == [], action
            await storage.aclose()

    run_simulation(main, seed=1)


@pytest.mark.parametrize(
    ("name", "said"), [("journal-0", "journal-0"), ("journal-1", "journal-1"), ("mqcore-mmap.layout", "No such file")]
)
def test_a_flush_is_not_acknowledged_once_what_the_storage_stands_on_was_removed(name: str, said: str) -> None:
    async def main() -> None:
        disk = ModelDisk(1)
        storage = make(disk)
        log = await fill(storage, 1)
        disk.unlink(f"/s/{name}")
        durable_end = log.durable_end
        await log.append([b"lost"])
        with pytest.raises(FlushFailedError, match=said):
            await storage.flush([log])
        assert log.durable_end == durable_end
        await storage.aclose()

    run_simulation(main, seed=1)


def test_a_second_broker_is_kept_out_when_the_lock_file_is_gone() -> None:
    async def main() -> None:
        disk = ModelDisk(1)
        storage = make(disk)
        log = await fill(storage, 1)
        disk.unlink("/s/lock")
        with pytest.raises(StorageError) as caught:
            await make(disk).open()
        assert caught.value.kind == "busy"
        await log.append([b"goes on"])
        await storage.flush([log])
        await storage.aclose()

    run_simulation(main, seed=1)
