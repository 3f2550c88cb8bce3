"""Clauses G01, G02, G11 and G17 of the mmap storage on the model disk: crashes at any call, recovery, and again."""

from __future__ import annotations

import random

import attrs
import pytest

from mqcore.abc import StorageContext
from mqcore.errors import MqcoreError
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore.url import Url
from mqcore_mmap import MmapStorage

SEGMENT = 8192
NAMES = ("a", "b", "c", "d")


@attrs.define
class Expected:
    """What a log must and may be after a crash.

    ``data``: every byte appended, from position 0. ``durable``: what is on the device. ``flushed``: end of the last
    flush that returned, ``flushed_before`` of the one before. ``start``: what trim returned, ``start_max`` what one
    that was interrupted may have reached. ``cut_min``, ``deleting``: of a truncation or deletion that was interrupted.
    """

    data: bytearray = attrs.field(factory=bytearray)
    durable: int = 0
    flushed: int = 0
    flushed_before: int = 0
    start: int = 0
    start_max: int = 0
    cut_min: int | None = None
    deleting: bool = False

    def flush_all(self) -> None:
        self.durable = self.flushed = self.flushed_before = len(self.data)

    def cut(self, position: int) -> None:
        del self.data[position:]
        self.durable = min(self.durable, position)
        self.flushed = min(self.flushed, position)
        self.flushed_before = min(self.flushed_before, position)
        self.cut_min = None


def make(disk: ModelDisk, seed: int) -> MmapStorage:
    options = MmapStorage.options_class(
        segment_bytes=SEGMENT,
        first_extent_bytes=4096,
        extent_bytes_max=4096,
        ready_segments_max=2,
        journal_bytes=64 * 1024,
        journal_range_bytes_max=3000,
        open_files_max=8,
    )
    return MmapStorage(Url.parse("mmap:///s"), options, StorageContext(ports=model_ports(seed, disk)))


class Run:
    """One disk, several lives of the storage, each ended by a crash or a clean stop."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.disk = ModelDisk(seed)
        self.logs = {name: Expected() for name in NAMES}
        self.byte = 0

    def life(self) -> None:
        power_cut = self.random.random() < 0.7
        calls = self.random.choice((20, 60, 200, 500))
        if self.random.random() < 0.9:
            self.disk.kill_at(self.disk.call_count + self.random.randrange(1, calls), power_cut=power_cut)
        self.disk.latency_us["flush"] = self.random.choice((0, 1000))
        try:
            run_simulation(self.work, seed=self.random.getrandbits(32))
        except (OSError, MqcoreError, ExceptionGroup):
            if self.disk.alive:
                raise
        if self.disk.alive and self.random.random() < 0.5:
            self.disk.power_cut()
        self.disk = self.disk.restart()

    async def work(self) -> None:
        backend = make(self.disk, self.random.getrandbits(32))
        await backend.open()
        for name in NAMES:
            await self.check_recovered(backend, name)
        for _ in range(self.random.randrange(60)):
            step = self.random.choices(
                (self.append, self.flush, self.truncate, self.trim, self.delete, self.close),
                (12, 6, 1, 1, 0.3, 0.5),
            )[0]
            await step(backend)
        if self.random.random() < 0.5:
            await backend.aclose()
            for expected in self.logs.values():
                expected.flush_all()

    async def check_recovered(self, backend: MmapStorage, name: str) -> None:
        """What was acknowledged is there; then bring log and expectation to one state, as the layer above does."""
        log = await backend.open_log(name)
        expected = self.logs[name]
        if expected.deleting and log.end == 0:
            self.logs[name] = Expected()
            return
        must = expected.durable if expected.cut_min is None else min(expected.durable, expected.cut_min)
        proved = min(expected.flushed_before, must)
        assert expected.start <= log.start <= max(expected.start, expected.start_max), name
        must = max(must, log.start)
        assert log.end >= must, (name, log.end, must)
        assert log.durable_end >= proved, (name, log.durable_end, proved)
        found = bytearray()
        while log.start + len(found) < log.end:
            found += await log.read(log.start + len(found), 1 << 20)
        data = expected.data[log.start :]
        assert found[: must - log.start] == data[: must - log.start], name
        good = 0
        limit = min(len(found), len(data))
        while good < limit and found[good] == data[good]:
            good += 1
        end = log.start + good
        assert log.durable_end <= end, (name, "the mark is ahead of the truth", log.durable_end, end)
        await log.truncate(end)
        # what is kept is on the device already
        self.logs[name] = Expected(
            data=expected.data[:end],
            durable=end,
            flushed=log.durable_end,
            flushed_before=log.durable_end,
            start=log.start,
            start_max=log.start,
        )

    async def append(self, backend: MmapStorage) -> None:
        name = self.random.choice(NAMES)
        size = self.random.choice((1, 30, 500, 1500, 1500, 4000, 9000))
        self.byte = self.byte % 250 + 1
        expected = self.logs[name]
        log = await backend.open_log(name)
        chunk = bytes([self.byte]) * size
        position = len(expected.data)
        expected.data += chunk
        assert await log.append([chunk]) == position

    async def flush(self, backend: MmapStorage) -> None:
        names = self.random.sample(NAMES, self.random.randrange(1, len(NAMES) + 1))
        logs = [await backend.open_log(name) for name in names]
        dirty = [log.durable_end != log.end for log in logs]
        ends = [each.end for each in await backend.flush(logs)]
        for name, end, was_dirty in zip(names, ends, dirty, strict=True):
            expected = self.logs[name]
            assert end == len(expected.data)
            if was_dirty:
                expected.flushed_before, expected.flushed, expected.durable = expected.flushed, end, end

    async def truncate(self, backend: MmapStorage) -> None:
        name = self.random.choice(NAMES)
        log = await backend.open_log(name)
        expected = self.logs[name]
        expected.cut_min = self.random.randrange(log.start, log.end + 1)
        await log.truncate(expected.cut_min)
        expected.cut(expected.cut_min)

    async def trim(self, backend: MmapStorage) -> None:
        name = self.random.choice(NAMES)
        log = await backend.open_log(name)
        expected = self.logs[name]
        expected.start_max = log.end
        expected.start = await log.trim(self.random.randrange(log.end + 1))

    async def delete(self, backend: MmapStorage) -> None:
        name = self.random.choice(NAMES)
        self.logs[name].deleting = True
        await backend.delete_log(name)
        self.logs[name] = Expected()

    async def close(self, backend: MmapStorage) -> None:
        name = self.random.choice(NAMES)
        log = await backend.open_log(name)
        await log.aclose()
        expected = self.logs[name]
        expected.flush_all()


@pytest.mark.parametrize("extend_bytes", [None, 1000], ids=["zeros first", "extending"])
@pytest.mark.parametrize("block", range(4))
def test_what_was_flushed_survives_every_crash_and_nothing_removed_comes_back(
    block: int, extend_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extend_bytes is not None:
        monkeypatch.setattr("mqcore_mmap._extending.EXTEND_BYTES", extend_bytes)
    for seed in range(block * 30, block * 30 + 30):
        run = Run(seed)
        for _ in range(6):
            run.life()
