"""G11: an append that was under way when a flush of its log failed is answered, and never as acknowledged."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.protocol import Code, Failed, Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


@pytest.mark.parametrize("flush", ["sync", "async(max_messages=100)"])
def test_g11_an_append_that_ends_after_a_failed_flush_of_its_log_ends_unknown(open_setup: Any, flush: str) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup:
            async with setup.client() as first, setup.client() as second, setup.client() as third:
                other = await third.create("other")
                topic = await first.create("lines", flush=flush, weakest_send=flush)
                assert isinstance(await first.produce(topic, [b"durable"], policy=3), Produced)
                disk.stall_next("flush", 9.0)
                await third.send(third.produce_message(other, [b"holds the flusher"]))
                await trio.sleep(1)
                await first.send(first.produce_message(topic, [b"lost"], policy=3))
                await trio.sleep(1)
                disk.fail_next_flush()
                disk.stall_next("pwritev", 15.0)  # the append needs more room, which takes longer than the flush
                await second.send(second.produce_message(topic, [b"beside" * 50_000]))
                with trio.fail_after(60):
                    lost, beside = await first.receive(), await second.receive()
                assert isinstance(lost, Failed)
                assert isinstance(beside, Failed)
                assert beside.code == Code.FLUSH_FAILED

    run_simulation(main, seed=1, seconds_max=100)


def test_g11_a_change_of_policy_commits_nothing_of_a_log_that_stopped(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("lines", flush="sync")
            assert isinstance(await client.produce(topic, [b"durable"]), Produced)
            disk.fail_next_flush()
            assert isinstance(await client.produce(topic, [b"lost"]), Failed)
            await client.call("topic.alter", name="lines", config={"flush": "none"})
            (partition,) = setup.broker.reign.partitions.values()
            assert partition.log.end_offset == 2
            assert partition.committed_offset == 1

    run_simulation(main, seed=1, seconds_max=100)
