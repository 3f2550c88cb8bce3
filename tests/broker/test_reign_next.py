"""What a partition of the next reign takes over from the one before it, in the same process."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.protocol import Code, Failed, Fetched, Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


@pytest.mark.parametrize("flush", ["sync", "async(max_messages=1000)"])
def test_g11_g13_a_log_that_failed_stays_stopped_and_readable_and_stops_nothing_else(
    open_setup: Any, flush: str
) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush=flush) as setup, setup.client() as client:
            topic, other = await client.create("t"), await client.create("other")
            for number in range(3):
                assert isinstance(await client.produce(topic, [b"%d" % number], policy=3), Produced)
            disk.fail_next_flush(path="*segments*")
            assert isinstance(await client.produce(topic, [b"lost"], policy=3), Failed)
            setup.broker.leave_reign()
            await trio.sleep(1)
            assert await client.read_all(topic) == [(0, b"0"), (1, b"1"), (2, b"2")]
            assert (await client.produce(topic, [b"more"])).code == Code.STORAGE_STOPPED
            assert isinstance(await client.produce(other, [b"goes on"], policy=3), Produced)

    run_simulation(main, seed=1, seconds_max=1000)


def test_r10_the_committed_offset_does_not_go_back_and_what_it_covers_is_read_while_a_flush_hangs(
    open_setup: Any,
) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="async(max_messages=1000)") as setup:
            async with setup.client() as client:
                topic = await client.create("t")
                assert isinstance(await client.produce(topic, [b"flushed"], policy=3), Produced)
                assert isinstance(await client.produce(topic, [b"acknowledged"]), Produced)
                setup.broker.leave_reign()
                await trio.sleep(1)
                disk.stall_next("flush", 20.0)
                with trio.fail_after(1):
                    assert await client.read_all(topic) == [(0, b"flushed"), (1, b"acknowledged")]
                    found = await client.call("offsets.lookup", topic="t", partition=0, at="end")
                assert found.value["offset"] == 2

    run_simulation(main, seed=1, seconds_max=1000)


def test_g14_a_retry_in_the_next_reign_is_told_the_epoch_that_appended_it(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("t")
            keys = {"producer_id": 7, "producer_epoch": 0, "first_sequence": 0}
            first = await client.produce(topic, [b"x"], **keys)
            setup.broker.leave_reign()
            await trio.sleep(1)
            again = await client.produce(topic, [b"x"], **keys)
            assert again.duplicate
            assert (again.base_offset, again.epoch) == (first.base_offset, first.epoch)
            await client.produce(topic, [b"of this reign"])
            assert isinstance(await client.fetch(topic, 1, epoch=again.epoch), Fetched), "G06: it is in the history"

    run_simulation(main, seed=1, seconds_max=1000)


def test_g03_what_the_last_reign_acknowledged_unflushed_is_counted_and_flushed_though_no_client_asks(
    open_setup: Any,
) -> None:
    async def main() -> None:
        ports = model_ports(1, ModelDisk(seeded(1, "disk")))
        async with open_setup(STORAGE, ports=ports, flush="async(max_interval=10s)") as setup, setup.client() as client:
            topic = await client.create("t")
            assert isinstance(await client.produce(topic, [b"x" * 1000]), Produced)
            assert setup.broker.reign.unflushed.bytes_now > 1000
            setup.broker.leave_reign()
            await trio.sleep(1)
            (partition,) = setup.broker.reign.partitions.values()
            assert not partition.log.dirty, "long before the interval is over"
            assert setup.broker.reign.unflushed.bytes_now == 0

    run_simulation(main, seed=1, seconds_max=1000)


@pytest.mark.parametrize(("flush", "durable"), [("async(max_messages=1000)", 1), ("none", 0)])
def test_r10_what_a_reign_left_unflushed_is_flushed_by_the_next_though_nobody_uses_it(
    open_setup: Any, flush: str, durable: int
) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush=flush) as setup, setup.client() as client:
            topic = await client.create("t")
            assert isinstance(await client.produce(topic, [b"acknowledged"]), Produced)
            setup.broker.leave_reign()
            await trio.sleep(1)
            log = setup.broker.reign.partitions[topic, 0].log
            assert (log.end_offset, log.durable_offset) == (1, durable)

    run_simulation(main, seed=1, seconds_max=1000)
