"""Model device threads and clocks: order, virtual time, cancellation, and what is durable while a flush runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

import mqcore
from mqcore.errors import ConfigurationError
from mqcore.ports import DeviceThread, system_ports
from mqcore.testing import ModelClock, ModelDisk, model_ports, run_simulation


def flushing_disk(flush_us: int) -> ModelDisk:
    disk = ModelDisk(1)
    disk.open("/f", create=True)
    disk.flush_directory("/")
    disk.latency_us["flush"] = flush_us
    return disk


def states(disk: ModelDisk) -> set[bytes]:
    return {state.content("/f") for state in disk.crash_states()}


def test_functions_run_in_the_order_asked_and_give_results_and_errors() -> None:
    async def main() -> None:
        thread = model_ports(1).threads.start("device")
        ran: list[int] = []

        async def ask(number: int) -> None:
            assert await thread.run(lambda: ran.append(number) or number * 2) == number * 2

        for seed in range(20):
            ran.clear()
            async with trio.open_nursery() as nursery:
                for number in range(seed):
                    await nursery.start(start_asking, thread, ran, number)
            assert ran == sorted(ran)
        await ask(3)
        with pytest.raises(ZeroDivisionError):
            await thread.run(lambda: 1 // 0)
        await thread.aclose()
        with pytest.raises(RuntimeError):
            await thread.run(print)

    async def start_asking(
        thread: DeviceThread, ran: list[int], number: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await thread.run(ran.append, number)

    run_simulation(main)


def test_latencies_pass_in_virtual_time_and_queue_up() -> None:
    async def main() -> None:
        disk = flushing_disk(2_000_000)
        thread = model_ports(1, disk).threads.start("device")
        file = disk.open("/f")
        ended: list[float] = []

        async def flush() -> None:
            await thread.run(file.flush)
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(flush)
        disk.stall_next("flush", 30)
        await flush()
        assert ended == [2, 4, 6, 38]

    run_simulation(main)


def test_a_flush_is_durable_at_its_end_and_covers_what_was_written_before_its_start() -> None:
    async def main() -> None:
        disk = flushing_disk(1_000_000)
        thread = model_ports(1, disk).threads.start("device")
        file = disk.open("/f")
        file.pwritev([b"1"], 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, file.flush)
            await trio.sleep(0.5)
            assert states(disk) == {b"", b"\0", b"1"}
            file.pwritev([b"2"], 1)
            assert states(disk) == {b"", b"\0", b"\0\0", b"1", b"1\0", b"12"}
        assert states(disk) == {b"1", b"1\0", b"12"}

    run_simulation(main)


def test_a_directory_flush_is_durable_at_its_end() -> None:
    async def main() -> None:
        disk = flushing_disk(0)
        disk.latency_us["flush_directory"] = 1_000_000
        thread = model_ports(1, disk).threads.start("device")
        disk.unlink("/f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, disk.flush_directory, "/")
            await trio.sleep(0.5)
            assert {tuple(state.list("/")) for state in disk.crash_states()} == {(), ("f",)}
        assert {tuple(state.list("/")) for state in disk.crash_states()} == {()}

    run_simulation(main)


def test_within_one_function_each_flush_has_ended_before_the_next_call_begins() -> None:
    async def main() -> None:
        disk = flushing_disk(1_000_000)
        thread = model_ports(1, disk).threads.start("device")

        def replace() -> None:
            file = disk.open("/f.new", create=True)
            file.pwritev([b"new"], 0)
            file.flush()
            disk.rename("/f.new", "/f")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, replace)
            await trio.sleep(0.5)
            assert states(disk) == {b"", b"new"}

    run_simulation(main)


def test_a_call_cancelled_before_it_began_has_no_effect_and_one_that_began_goes_on() -> None:
    async def main() -> None:
        disk = flushing_disk(1_000_000)
        thread = model_ports(1, disk).threads.start("device")
        file = disk.open("/f")
        file.pwritev([b"1"], 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, file.flush)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(thread.run, file.pwritev, [b"2"], 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert trio.current_time() == 0
        with trio.CancelScope() as scope:
            scope.cancel()
            await thread.run(file.pwritev, [b"3"], 2)
        with trio.CancelScope() as scope:
            scope.cancel()
            await thread.aclose()
        assert trio.current_time() == 1
        assert states(disk) == {b"1"}

    run_simulation(main)


def test_a_power_cut_voids_the_flush_under_way() -> None:
    async def main() -> None:
        disk = flushing_disk(1_000_000)
        thread = model_ports(1, disk).threads.start("device")
        file = disk.open("/f")
        file.pwritev([b"1"], 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, file.flush)
            await trio.sleep(0.5)
            lost = next(disk.crash_states())
            assert lost.content("/f") == b""
            disk.power_cut(_Nothing())
        assert disk.restart().content("/f") == b""

    run_simulation(main)


def test_what_is_submitted_runs_before_what_is_asked_later_and_its_error_is_dropped() -> None:
    async def main() -> None:
        disk = flushing_disk(1_000_000)
        thread = model_ports(1, disk).threads.start("device")
        file = disk.open("/f")
        ran: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, file.flush)
            await trio.testing.wait_all_tasks_blocked()
            thread.submit(lambda: 1 // 0)
            thread.submit(ran.append, "submitted")
            await thread.run(ran.append, "asked")
        thread.submit(ran.append, "at once")
        assert ran == ["submitted", "asked", "at once"]

    run_simulation(main)


def test_a_slow_call_made_inline_blocks_everybody() -> None:
    async def main() -> None:
        disk = flushing_disk(250_000)
        clock = ModelClock()
        before_us = clock.monotonic_us()
        disk.open("/f").flush()
        assert clock.monotonic_us() - before_us == 250_000

    run_simulation(main)


def test_clocks_go_on_with_virtual_time_and_jump_apart_when_told() -> None:
    async def main() -> None:
        clock = ModelClock(wall_ms_start=1_000)
        await trio.sleep(2.5)
        assert (clock.wall_ms(), clock.monotonic_us(), clock.boottime_us()) == (3_500, 2_500_000, 2_500_000)
        clock.jump_wall(-3600)
        assert (clock.wall_ms(), clock.monotonic_us()) == (3_500 - 3_600_000, 2_500_000)
        clock.jump_wall(3600)
        clock.suspend(10)
        assert (clock.wall_ms(), clock.monotonic_us(), clock.boottime_us()) == (13_500, 2_500_000, 12_500_000)

    run_simulation(main)


def test_a_clock_that_drifts_runs_faster_or_slower_than_the_others() -> None:
    async def main() -> None:
        fast, slow = ModelClock(drift_ppm=1_000), ModelClock(drift_ppm=-1_000)
        await trio.sleep(100)
        assert (fast.boottime_us(), slow.monotonic_us()) == (100_100_000, 99_900_000)

    run_simulation(main)


def _Nothing() -> object:
    from mqcore.testing import Choices

    class Nothing(Choices):
        def choose(self, count: int) -> int:
            return 0

    return Nothing()


def test_a_real_thread_on_a_clock_that_jumps_is_refused_with_the_remedy() -> None:
    async def main() -> None:
        thread = system_ports().threads.start("disk")
        with pytest.raises(ConfigurationError, match=r"time is virtual here .*'disk'.* model_ports of mqcore.testing"):
            await thread.run(lambda: None)
        await thread.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_broker_with_a_file_storage_on_virtual_time_says_so_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="time is virtual here"):
            async with mqcore.open_broker(storage=f"mmap://{tmp_path}/s", listen="inproc://virtual"):
                pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_clock_that_is_moved_by_hand_is_no_reason_to_refuse() -> None:
    async def main() -> int:
        thread = system_ports().threads.start("disk")
        try:
            return await thread.run(lambda: 7)
        finally:
            await thread.aclose()

    assert trio.run(main, clock=trio.testing.MockClock(rate=1.0)) == 7
