"""One seed, one run: bit for bit the same in another process under another PYTHONHASHSEED."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from mqcore.testing import ModelDisk, ModelNetwork, model_ports, run_simulation, seeded


def run_scenario(seed: int) -> str:
    """Run clients, a server that stores what it gets, faults and a power cut; return a digest of all that happened."""
    trace: list[object] = []
    network = ModelNetwork(seeded(seed, "network"), latency_s=0.001, jitter_s=0.003, pieces=True)
    disk = ModelDisk(seeded(seed, "disk"))
    disk.latency_us.update({"flush": 5_000, "pwritev": 10})

    async def server() -> None:
        ports = model_ports(seed, disk)
        thread = ports.threads.start("device")
        file = disk.open("/log", create=True)
        disk.flush_directory("/")
        end = 0

        async def serve(stream: trio.SocketStream) -> None:
            nonlocal end
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in stream:
                    position, end = end, end + len(data)
                    await thread.run(file.pwritev, [bytes(data)], position)
                    await thread.run(file.flush)
                    trace.append((trio.current_time(), "stored", position, len(data)))
                    await stream.send_all(b"ok")
            await stream.aclose()

        with network.host("server"):
            await trio.serve_tcp(serve, 7400, host="127.0.0.1", handler_nursery=None)

    async def client(name: str) -> None:
        with network.host(name):
            try:
                async with await trio.open_tcp_stream("127.0.0.1", 7400) as stream:
                    for _ in range(5):
                        await stream.send_all(name.encode() * random.randint(1, 50))
                        trace.append((trio.current_time(), name, await stream.receive_some()))
            except (OSError, trio.BrokenResourceError) as error:
                trace.append((trio.current_time(), name, type(error).__name__))

    async def main() -> None:
        with network.installed():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server)
                await trio.sleep(0.01)
                async with trio.open_nursery() as clients:
                    for name in sorted({"ann", "bob", "eve", "joe"}):
                        clients.start_soon(client, name)
                    await trio.sleep(0.03)
                    network.reset("eve")
                nursery.cancel_scope.cancel()
        disk.power_cut()
        trace.append(disk.restart().content("/log"))

    run_simulation(main, seed=seed)
    trace += [*disk.calls, *network.events]
    return hashlib.sha256(repr(trace).encode()).hexdigest()


def run_elsewhere(seed: int, hash_seed: str) -> str:
    here = Path(__file__)
    code = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as scenario"
    command = [sys.executable, "-c", f"{code}; print(scenario.run_scenario({seed}))"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_a_seed_replays_bit_for_bit_in_this_process_and_in_others_whatever_their_hash_seed() -> None:
    expected = run_scenario(7)
    random.random()
    assert run_scenario(7) == expected
    assert {run_elsewhere(7, "1"), run_elsewhere(7, "2"), run_elsewhere(7, "random")} == {expected}


def test_different_seeds_run_differently() -> None:
    assert len({run_scenario(seed) for seed in range(5)}) == 5


def test_tasks_ready_at_the_same_moment_run_in_every_order_over_the_seeds() -> None:
    async def main() -> str:
        order: list[str] = []

        async def note(name: str) -> None:
            await trio.sleep(1)
            order.append(name)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(note, name)
        return "".join(order)

    assert {run_simulation(main, seed=seed) for seed in range(60)} == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_the_switch_and_the_generators_are_put_back() -> None:
    async def main() -> None:
        raise KeyError

    scheduler = trio._core._run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()
    with pytest.raises(KeyError):
        run_simulation(main)
    assert (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()) == before


def test_a_deadlock_ends_the_run_with_an_error() -> None:
    with pytest.raises(trio.TooSlowError):
        run_simulation(trio.sleep_forever)


async def wait_for_what_never_comes() -> None:
    await trio.Event().wait()


async def wait_shielded() -> None:
    with trio.CancelScope(shield=True):
        await wait_for_what_never_comes()


async def wait_shielded_and_catch() -> None:
    with trio.CancelScope(shield=True):
        while True:
            with contextlib.suppress(Exception):
                await wait_for_what_never_comes()


@pytest.mark.parametrize("deaf", [wait_shielded, wait_shielded_and_catch])
def test_a_deadlock_that_heeds_no_cancellation_is_told_with_its_place(
    deaf: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqcore.testing._stuck.QUIET_S", 0.01)
    cleaned_up = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deaf, name="the deaf one")
            try:
                await trio.sleep(1)
                raise KeyError
            finally:
                cleaned_up.append(True)

    place = r"task the deaf one waits in wait_for_what_never_comes \(.*test_model_simulation\.py:\d+\)"
    with pytest.raises(trio.TooSlowError, match=place):
        run_simulation(main)
    assert cleaned_up


def test_a_shielded_wait_for_a_real_thread_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqcore.testing._stuck.QUIET_S", 0.01)

    async def main() -> str:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(time.sleep, 0.3)
        return "done"

    assert run_simulation(main) == "done"


def test_a_shielded_wait_for_a_real_socket_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqcore.testing._stuck.QUIET_S", 0.01)
    ours, theirs = socket.socketpair()
    timer = threading.Timer(0.3, theirs.send, [b"x"])

    async def main() -> str:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.wait_readable(ours)
        return "done"

    timer.start()
    with ours, theirs:
        assert run_simulation(main) == "done"
        timer.join()


def test_hours_pass_in_no_time() -> None:
    async def main() -> float:
        started = trio.current_time()
        await trio.sleep(100 * 3600)
        return trio.current_time() - started

    assert run_simulation(main, seconds_max=101 * 3600) == 100 * 3600  # in earnest it would take four days


def test_importing_the_package_loads_none_of_its_modules() -> None:
    code = "import sys, mqcore.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "mqcore.testing" in loaded
    assert [name for name in loaded if name.startswith("mqcore.testing.") or name == "trio"] == []


def test_every_public_name_is_there_and_no_other() -> None:
    import mqcore.testing

    for name in mqcore.testing.__all__:
        assert getattr(mqcore.testing, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = mqcore.testing.ModelDisc  # type: ignore[attr-defined]


def test_events_per_second_are_plenty() -> None:
    network = ModelNetwork(1)
    disk = ModelDisk(1)

    async def main() -> None:
        thread = model_ports(1, disk).threads.start("device")
        file = disk.open("/log", create=True)
        listeners = []
        with network.installed():
            listeners += await trio.open_tcp_listeners(7400, host="127.0.0.1")
            client = await trio.open_tcp_stream("127.0.0.1", 7400)
            server = await listeners[0].accept()
            for number in range(2000):
                await client.send_all(b"x" * 200)
                await thread.run(file.pwritev, [await server.receive_some()], number * 200)
                await thread.run(file.flush)
                await server.send_all(b"ok")
                await client.receive_some()
            for resource in (client, server, *listeners):
                await resource.aclose()

    started = time.perf_counter()
    run_simulation(main)
    rate = (disk.call_count + sum(network.counts.values())) / (time.perf_counter() - started)
    print(f"simulation: {rate:,.0f} events per second")
    assert disk.counts["flush"] == 2000


def test_an_instrument_that_raises_ends_the_run() -> None:
    class Broken(trio.abc.Instrument):
        armed = False

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if self.armed:
                raise ZeroDivisionError("of the instrument")

    broken = Broken()

    async def main() -> None:
        broken.armed = True
        await trio.sleep(1)

    with pytest.raises(ZeroDivisionError, match="of the instrument"):
        run_simulation(main, instruments=[broken])


def test_an_instrument_sees_every_step() -> None:
    class Counting(trio.abc.Instrument):
        steps = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.steps += 1

    async def walk(steps: int) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()

    counted = []
    for steps in (10, 110):
        counting = Counting()
        run_simulation(walk, steps, instruments=[counting])
        counted.append(counting.steps)
    assert counted[1] - counted[0] == 100


def test_ctrl_c_ends_a_simulation_that_never_waits_for_anything_real() -> None:
    code = (
        "import trio; from mqcore.testing import run_simulation\n"
        "async def main():\n"
        "    print('runs', flush=True)\n"
        "    while True: await trio.sleep(0.001)\n"
        "run_simulation(main, seconds_max=1e12)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
