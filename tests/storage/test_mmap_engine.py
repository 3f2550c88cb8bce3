"""The engine alone, without the backend: which thread an append runs in, a flush that is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from mqcore.abc import StorageContext
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore_mmap import MmapStorage
from mqcore_mmap._engine import Engine
from mqcore_mmap._layout import open_layout
from mqcore_mmap._log import MmapLog
from mqcore_mmap._recovery import recover


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
