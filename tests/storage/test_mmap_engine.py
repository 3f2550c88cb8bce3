"""The engine alone, without the backend: which thread an append and a flush run in, a flush that is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from mmap_parts import FakeLog

from mqcore.abc import StorageContext
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore_mmap import MmapStorage
from mqcore_mmap._engine import Engine
from mqcore_mmap._flusher import FlushJob, FlushPlan
from mqcore_mmap._header import SegmentIdentity
from mqcore_mmap._inline import INLINE_BYTES_MAX, InlineFlushes
from mqcore_mmap._layout import open_layout
from mqcore_mmap._log import MmapLog
from mqcore_mmap._recovery import recover
from mqcore_mmap._segment import Segment


def with_engine(body: Callable[[ModelDisk, Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        disk = ModelDisk(1)
        context = StorageContext(ports=model_ports(1, disk))
        options = MmapStorage.options_class()
        layout = open_layout(context.ports, "/s")
        recovered = recover(disk, layout, options, context.report)
        engine = Engine(context, options, layout, recovered, 16, trio.lowlevel.current_trio_token())
        await body(disk, engine)
        await engine.aclose()

    run_simulation(main, seed=1)


def new_log(engine: Engine, name: str) -> MmapLog:
    log = engine.logs[name] = MmapLog(name, engine, None)
    return log


def test_after_a_slow_append_the_next_ones_run_in_a_thread_until_they_are_fast_again() -> None:
    async def body(disk: ModelDisk, engine: Engine) -> None:
        log = new_log(engine, "a")
        await log.append([b"x"])
        assert engine.append_inline
        disk.latency_us["pwritev"] = engine.append_inline_us_max + 1
        await log.append([b"x"])
        assert not engine.append_inline
        turns: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.append, [b"x"])
            await trio.sleep(engine.append_inline_us_max / 2e6)
            turns.append(f"others run while the log has {log.end} bytes")
        assert turns == ["others run while the log has 2 bytes"]
        disk.latency_us["pwritev"] = 0
        await log.append([b"x"])
        assert engine.append_inline

    with_engine(body)


@contextmanager
def noted_hand_overs(engine: Engine) -> Iterator[list[object]]:
    """What is handed to the flusher's thread while the block runs."""
    thread, run = engine.flush_thread, engine.flush_thread.run
    handed: list[object] = []

    async def noted(function: object, *args: object) -> object:
        handed.append(function)
        return await run(function, *args)  # type: ignore[arg-type]

    thread.run = noted  # type: ignore[assignment,method-assign]
    yield handed
    thread.run = run  # type: ignore[method-assign]


async def hand_overs(engine: Engine, log: MmapLog, size: int = 1, rounds: int = 1) -> int:
    """How many of so many flushes, each of ``size`` new bytes, were handed to the flusher's thread."""
    with noted_hand_overs(engine) as handed:
        for _ in range(rounds):
            await log.append([bytes(size)])
            await engine.flush([log])
            assert log.durable_end == log.end
    return len(handed)


def test_on_a_fast_device_a_small_flush_of_one_log_takes_no_hand_over() -> None:
    async def body(disk: ModelDisk, engine: Engine) -> None:
        log, other = new_log(engine, "a"), new_log(engine, "b")
        assert 10 < await hand_overs(engine, log, rounds=100) < 30  # until the device has shown that it is fast
        assert await hand_overs(engine, log, rounds=100) == 0
        await hand_overs(engine, log, INLINE_BYTES_MAX, rounds=20)  # zeros are there for the next ones
        assert await hand_overs(engine, log, INLINE_BYTES_MAX) == 0
        assert await hand_overs(engine, log, INLINE_BYTES_MAX + 1) == 1
        assert await hand_overs(engine, other) == 1, "its file gets its name, for which a directory is flushed"
        await log.append([b"x"])
        await other.append([b"x"])
        with noted_hand_overs(engine) as handed:
            await engine.flush([log, other])
        assert len(handed) == 1, "two logs share a set of the journal"
        assert (log.durable_end, other.durable_end) == (log.end, other.end)

    with_engine(body)


def test_after_a_slow_flush_the_next_ones_run_in_a_thread_until_they_were_fast_for_a_while() -> None:
    async def body(disk: ModelDisk, engine: Engine) -> None:
        log = new_log(engine, "a")
        await hand_overs(engine, log, rounds=100)
        disk.latency_us["flush"] = 1_000_000
        begun = trio.current_time()
        assert await hand_overs(engine, log) == 0
        assert trio.current_time() - begun == 1.0, "this one held up everything"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_overs, engine, log)
            await trio.sleep(0.5)
            assert log.durable_end < log.end, "others run while it goes on"
        disk.latency_us["flush"] = 0
        assert 10 < await hand_overs(engine, log, rounds=200) < 100

    with_engine(body)


def test_zeros_written_ahead_are_flushed_in_a_thread() -> None:
    async def body(disk: ModelDisk, engine: Engine) -> None:
        log = new_log(engine, "a")
        await hand_overs(engine, log, rounds=100)
        allocated = log.segments[-1].allocated
        while log.segments[-1].allocated == allocated:
            await log.append([bytes(1024)])
        assert await hand_overs(engine, log) == 1
        assert await hand_overs(engine, log) == 0

    with_engine(body)


@pytest.mark.parametrize(("limit_us", "time_us", "is_inline"), [(300, 299, True), (300, 300, False), (0, 0, False)])
def test_flushes_are_inline_below_the_limit_of_the_mean(limit_us: int, time_us: int, is_inline: bool) -> None:
    identity = SegmentIdentity(bytes(16), bytes(16), "a", 0)
    segment = Segment(identity, "/s/a", is_unnamed=False, allocated=100, capacity=100)
    plan = FlushPlan([FlushJob(FakeLog("a"), 0, 1, [segment], [b"x"])], [], 0)
    inline = InlineFlushes(limit_us)
    assert not inline.allows(plan)
    for _ in range(1_000):
        inline.took(time_us)
    assert inline.allows(plan) is is_inline


def test_a_flush_whose_caller_has_left_goes_on_and_the_next_one_waits_for_it() -> None:
    async def body(disk: ModelDisk, engine: Engine) -> None:
        log = new_log(engine, "a")
        await log.append([b"x"])
        disk.latency_us["flush"] = 1_000_000
        with trio.move_on_after(0.5) as scope:
            await engine.flush([log])
        assert scope.cancelled_caught
        assert log.durable_end == 0
        await engine.flush([log])
        assert log.durable_end == 1

    with_engine(body)
