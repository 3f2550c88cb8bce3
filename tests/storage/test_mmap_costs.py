"""Counted costs of the mmap storage: calls of the file system per append and per flush, whatever a machine's speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mqcore.abc import Log, StorageContext
from mqcore.guarantees import Level
from mqcore.ports import DeviceThread, Threads, system_ports
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore.url import Url
from mqcore_mmap import MmapStorage


def count(body: Callable[[Callable[[], Counter[str]], MmapStorage], Awaitable[None]]) -> None:
    """Run ``body(taken, backend)``; ``taken()`` gives the calls since it was asked last."""
    disk = ModelDisk(1)
    backend = MmapStorage(
        Url.parse("mmap:///s"), MmapStorage.options_class(), StorageContext(ports=model_ports(1, disk))
    )
    before: Counter[str] = Counter()

    def taken() -> Counter[str]:
        calls = disk.counts - before
        before.update(calls)
        return calls

    async def main() -> None:
        await backend.open()
        taken()
        await body(taken, backend)

    run_simulation(main)


def test_a_log_that_is_opened_and_never_written_costs_no_call() -> None:
    async def body(taken: Callable[[], Counter[str]], backend: MmapStorage) -> None:
        logs = [await backend.open_log(f"l{number}") for number in range(100)]
        assert await backend.flush(logs) == [(0, Level.DISK)] * 100
        assert taken() == {}
        await backend.aclose()

    count(body)


def test_an_append_is_one_write_and_a_read_of_what_was_just_written_one_look() -> None:
    async def body(taken: Callable[[], Counter[str]], backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x" * 100])
        taken()
        for _ in range(20):
            await log.append([b"head", b"x" * 1000, b"tail"])
        assert taken() == {"pwritev": 20}
        await log.read(0, 10)
        taken()
        await log.read(500, 100)
        assert taken() == {"view": 1}

    count(body)


def test_a_flush_of_one_log_is_one_flush_of_its_file() -> None:
    async def body(taken: Callable[[], Counter[str]], backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x"])
        await backend.flush([log])
        await log.append([b"x"])
        taken()
        await backend.flush([log])
        assert taken() == {"link_count": 3, "flush": 1, "stat": 1, "pwritev": 1}

    count(body)


@pytest.mark.parametrize("logs_count", [2, 100])
def test_a_flush_of_many_logs_new_ones_too_is_one_flush_and_one_write(logs_count: int) -> None:
    async def body(taken: Callable[[], Counter[str]], backend: MmapStorage) -> None:
        logs = [await backend.open_log(f"l{number}") for number in range(logs_count)]
        for log in logs:
            await log.append([b"x" * 100])
        warm = [await backend.open_log(f"w{number}") for number in range(2)]
        for log in warm:
            await log.append([b"x"])
        await backend.flush(warm)
        taken()
        await backend.flush(logs)
        calls = taken()
        assert calls == {"link_count": logs_count + 2, "pwritev": 1, "flush": 1, "stat": 1}

    count(body)


def test_a_large_pending_range_goes_to_its_file_once_and_not_through_the_journal() -> None:
    async def body(taken: Callable[[], Counter[str]], backend: MmapStorage) -> None:
        large, small, other = [await backend.open_log(name) for name in ("large", "small", "other")]
        for log in (large, small, other):
            await log.append([b"x"])
        await backend.flush([large, small, other])
        for _ in range(4):
            await large.append([b"x" * 100_000])
        await small.append([b"x"])
        await other.append([b"x"])
        taken()
        await backend.flush([large, small, other])
        calls = taken()
        assert calls["flush"] == 2
        assert calls["flush_many"] == 0

    count(body)


def test_space_is_taken_as_a_log_grows() -> None:
    disk = ModelDisk(1)
    backend = MmapStorage(
        Url.parse("mmap:///s"), MmapStorage.options_class(), StorageContext(ports=model_ports(1, disk))
    )

    async def main() -> None:
        await backend.open()
        before = disk.used_bytes
        log = await backend.open_log("a")
        assert disk.used_bytes == before
        await log.append([b"x"])
        assert disk.used_bytes - before <= 72 * 1024
        while log.end < 4_000_000:
            await log.append([b"x" * 50_000])
            assert disk.used_bytes - before <= 4 * log.end + 128 * 1024

    run_simulation(main)


def test_a_clean_stop_is_opened_without_a_write_and_without_reading_the_log() -> None:
    disk = ModelDisk(1)

    def make(on: ModelDisk) -> MmapStorage:
        return MmapStorage(
            Url.parse("mmap:///s"),
            MmapStorage.options_class(segment_bytes=1 << 20, ready_segments_max=0),
            StorageContext(ports=model_ports(1, on)),
        )

    async def write() -> None:
        backend = make(disk)
        await backend.open()
        log = await backend.open_log("a")
        for _ in range(50):
            await log.append([b"x" * 100_000])
        await backend.aclose()

    async def read() -> None:
        before = Counter(again.counts)
        backend = make(again)
        await backend.open()
        log = await backend.open_log("a")
        assert (log.end, log.durable_end) == (5_000_000, 5_000_000)
        calls = again.counts - before
        assert calls["pwritev"] == calls["flush_many"] == calls["map"] == 0
        assert calls["pread"] <= 12

    run_simulation(write)
    again = disk.restart()
    run_simulation(read)


def test_after_a_slow_append_the_next_one_leaves_the_event_loop_free_until_they_are_fast_again() -> None:
    disk = ModelDisk(1)
    backend = MmapStorage(
        Url.parse("mmap:///s"), MmapStorage.options_class(), StorageContext(ports=model_ports(1, disk))
    )
    order: list[str] = []

    async def append(log: Log) -> None:
        await log.append([b"x"])
        order.append("append")

    async def other() -> None:
        await trio.sleep(0.001)
        order.append("other")

    async def main() -> None:
        await backend.open()
        log = await backend.open_log("a")
        await log.append([b"x"])
        for latency_us in (5000, 5000, 0, 0):
            disk.latency_us["pwritev"] = latency_us
            async with trio.open_nursery() as nursery:
                nursery.start_soon(append, log)
                nursery.start_soon(other)
        assert order[2:] == ["other", "append", "append", "other", "append", "other"]
        assert bytes(await log.read(0, 10)) == b"xxxxx"

    run_simulation(main)


def test_a_cancelled_append_has_appended_and_a_cancelled_flush_goes_on() -> None:
    disk = ModelDisk(1)
    backend = MmapStorage(
        Url.parse("mmap:///s"), MmapStorage.options_class(), StorageContext(ports=model_ports(1, disk))
    )

    async def main() -> None:
        await backend.open()
        logs = [await backend.open_log(name) for name in "abc"]
        for log in logs:
            await log.append([b"1"])
        with trio.CancelScope() as scope:
            scope.cancel()
            await logs[0].append([b"2"])
        assert logs[0].end == 2
        disk.latency_us["flush"] = 10_000
        with trio.move_on_after(0.001):
            await backend.flush(logs)
        assert [log.durable_end for log in logs] == [0, 0, 0]
        await logs[1].append([b"2"])
        assert [each.end for each in await backend.flush(logs)] == [2, 2, 1]

    run_simulation(main)


def test_a_flush_asks_its_thread_once_and_takes_one_turn_of_the_scheduler(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counted(DeviceThread):
        def __init__(self, name: str, inner: DeviceThread) -> None:
            self.name = name
            self.inner = inner

        async def run(self, function: Any, *args: object) -> Any:
            asked.append(self.name)
            return await self.inner.run(function, *args)

        def submit(self, function: Any, *args: object) -> None:
            asked.append(self.name)
            self.inner.submit(function, *args)

        async def aclose(self) -> None:
            await self.inner.aclose()

    class CountedThreads(Threads):
        def start(self, name: str) -> DeviceThread:
            return Counted(name, real.threads.start(name))

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += task is me

    me: trio.lowlevel.Task | None = None
    real = system_ports(1)
    ports = attrs.evolve(real, threads=CountedThreads())
    options = MmapStorage.options_class()

    async def main() -> None:
        nonlocal me
        me = trio.lowlevel.current_task()
        backend = MmapStorage(Url.parse(f"mmap://{tmp_path}/s"), options, StorageContext(ports=ports))
        await backend.open()
        log = await backend.open_log("a")
        await log.append([b"x"])
        await backend.flush([log])
        await log.append([b"x"])
        asked.clear()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await backend.flush([log])
        trio.lowlevel.remove_instrument(steps)
        assert asked == ["flush"]
        assert steps.count == 1
        await backend.aclose()

    trio.run(main)
