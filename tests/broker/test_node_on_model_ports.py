"""The whole broker, clients and mmap storage on model ports: one process, virtual time, one seed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import trio
import trio.testing

from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.protocol import Code, Failed, Produced
from mqcore.testing import ModelDisk, ModelNetwork, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


async def publish(client: Any, topic: bytes, count: int, acknowledged: list[bytes]) -> None:
    for number in range(count):
        value = b"message %d" % number
        reply = await client.produce(topic, [value], producer_id=5, first_sequence=number)
        if isinstance(reply, Produced):
            acknowledged.append(value)


@pytest.mark.parametrize("seed", range(4))
def test_g01_a_power_cut_takes_nothing_acknowledged_under_sync(open_setup: Any, seed: int) -> None:
    async def main() -> None:
        source = seeded(seed, "test")
        disk = ModelDisk(seeded(seed, "disk"))
        acknowledged: list[bytes] = []
        topic = b""
        try:
            with trio.CancelScope() as run:
                async with open_setup(STORAGE, ports=model_ports(seed, disk), flush="sync") as setup:
                    async with setup.client() as client:
                        topic = await client.create("lines")
                        await publish(client, topic, source.randrange(1, 30), acknowledged)
                        await client.send(client.produce_message(topic, [b"in flight"]))
                        disk.power_cut()
                        run.cancel()
        except* StorageError:
            pass  # the dead process closes its files in vain
        assert acknowledged
        disk = disk.restart()
        ports = model_ports(seed + 1, disk)
        async with open_setup(STORAGE, ports=ports, flush="sync") as setup, setup.client() as client:
            values = [value for _, value in await client.read_all(topic)]
            assert values[: len(acknowledged)] == acknowledged
            assert set(values[len(acknowledged) :]) <= {b"in flight"}
            retry = await client.produce(topic, [acknowledged[-1]], producer_id=5, first_sequence=len(acknowledged) - 1)
            assert retry.duplicate
            assert retry.level == Level.DISK

    run_simulation(main, seed=seed)


def test_g11_after_a_failed_flush_the_log_stops_and_serves_only_what_is_durable(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("lines")
            assert isinstance(await client.produce(topic, [b"durable"]), Produced)
            disk.fail_next_flush()
            lost = await client.produce(topic, [b"lost"])
            assert isinstance(lost, Failed)
            assert 200 <= lost.code < 300
            stopped = await client.produce(topic, [b"later"])
            assert stopped.code == Code.STORAGE_STOPPED
            assert [value for _, value in await client.read_all(topic)] == [b"durable"]

    run_simulation(main, seed=1)


def test_a_full_disk_rejects_before_it_stores_and_recovers(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(2, "disk"))
        notices: list[Any] = []
        setting = open_setup(STORAGE, ports=model_ports(2, disk), flush="sync", report=notices.append)
        async with setting as setup, setup.client() as client:
            topic = await client.create("lines")
            await client.produce(topic, [b"before"])
            disk.bytes_max = disk.used_bytes
            codes = set()
            for _ in range(40):
                reply = await client.produce(topic, [b"x" * 10_000])
                codes.add(reply.code if isinstance(reply, Failed) else 0)
            assert Code.STORAGE_FULL in codes
            assert codes <= {0, Code.STORAGE_FULL}
            assert (0, b"before") in await client.read_all(topic)
            (why,) = setup.broker.status()["refusing"]
            assert "full" in why or "No space left" in why
            disk.bytes_max = None
            assert isinstance(await client.produce(topic, [b"after"]), Produced)
            assert setup.broker.status()["refusing"] == []
            kinds = [each.kind for each in notices if each.kind.startswith("appends")]
            assert kinds == ["appends-refused", "appends-go-on"]

    run_simulation(main, seed=2)


def test_the_wall_clock_may_jump_and_nothing_depends_on_it(open_setup: Any) -> None:
    async def main() -> None:
        ports = model_ports(3)
        async with open_setup(STORAGE, ports=ports, flush="async") as setup, setup.client() as client:
            topic = await client.create("lines")
            for jump in (3_600, -7_200, 10 * 365 * 86_400, -20 * 365 * 86_400):
                ports.clock.jump_wall(jump)
                reply = await client.produce(topic, [b"x"], producer_id=9, first_sequence=0)
                assert isinstance(reply, Produced)
            assert len(await client.read_all(topic)) >= 1
            found = await client.call("offsets.lookup", topic="lines", partition=0, at=0)
            assert found.value["offset"] == 0

    run_simulation(main, seed=3)


def test_it_all_runs_over_model_sockets(open_setup: Any) -> None:
    async def main() -> None:
        network = ModelNetwork(seeded(4, "network"))
        with network.installed():
            listen = ("tcp://10.0.0.1:7400",)
            async with open_setup(STORAGE, listen=listen, ports=model_ports(4), flush="sync", insecure=True) as setup:
                async with setup.client() as client:
                    topic = await client.create("lines")
                    assert (await client.produce(topic, [b"x"])).level == Level.DISK
                    assert await client.read_all(topic) == [(0, b"x")]

    run_simulation(main, seed=4)


TRACE = """
import sys, hashlib
import mqcore.broker
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
import importlib.util
spec = importlib.util.spec_from_file_location("raw", sys.argv[1]); raw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(raw)
async def main():
    disk = ModelDisk(seeded(7, "disk"))
    async with raw._broker("mmap:///data", ports=model_ports(7, disk), flush="sync") as setup, setup.client() as client:
        topics = [await client.create(f"t{n}", 2) for n in range(3)]
        for n in range(20):
            await client.produce(topics[n % 3], [b"%d" % n], partition=n % 2)
    return hashlib.sha256(repr(list(disk.calls)).encode()).hexdigest()
print(run_simulation(main, seed=7))
"""


def test_one_seed_replays_call_by_call_in_another_process_under_another_hash_seed(tmp_path: Any) -> None:
    script = tmp_path / "trace.py"
    script.write_text(TRACE)
    helper = os.path.join(os.path.dirname(__file__), "conftest.py")
    traces = {
        subprocess.run(
            [sys.executable, str(script), helper],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1
    assert len(traces.pop().strip()) == 64


def test_g14_a_retry_beside_its_original_waits_for_the_flush_that_covers_both(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(5, "disk"))
        async with open_setup(STORAGE, ports=model_ports(5, disk), flush="sync") as setup:
            async with setup.client() as first, setup.client() as second:
                topic = await first.create("lines")
                await first.produce(topic, [b"warm up"])
                disk.latency_us["flush"] = 2_000_000
                sent_at = trio.current_time()
                original = first.produce_message(topic, [b"x"], producer_id=5, first_sequence=0)
                await first.send(original)
                await trio.testing.wait_all_tasks_blocked()
                retry = await second.produce(topic, [b"x"], producer_id=5, first_sequence=0)
                assert retry.duplicate
                assert retry.level == Level.DISK
                assert trio.current_time() - sent_at >= 2
                assert (await first.receive()).base_offset == retry.base_offset

    run_simulation(main, seed=5)
