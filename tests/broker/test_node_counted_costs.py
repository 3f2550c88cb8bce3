"""Costs that can be counted: nothing per message on the broker, one write per append, one flush per commit."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest

from mqcore.protocol import Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data"


def calls_during(client: Any, message: Any) -> Any:
    """Python and C calls from the send of ``message`` to its reply, client's and broker's together."""
    counts: Counter[str] = Counter()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            counts[frame.f_code.co_name] += 1
        elif event == "c_call":
            counts[argument.__name__] += 1

    async def measure() -> Counter[str]:
        sys.setprofile(note)
        try:
            await client.send(message)
            reply = await client.receive()
        finally:
            sys.setprofile(None)
        assert isinstance(reply, Produced)
        return counts

    return measure()


@pytest.mark.parametrize("flush", ["sync", "none"])
def test_a_batch_of_a_thousand_messages_costs_the_calls_of_a_batch_of_ten(open_setup: Any, flush: str) -> None:
    async def main() -> None:
        async with open_setup(STORAGE, ports=model_ports(1), flush=flush) as setup, setup.client() as client:
            topic = await client.create("lines")
            for count in (10, 1000):
                await client.produce(topic, [b"x" * (8000 // count)] * count)
            few = await calls_during(client, client.produce_message(topic, [b"x" * 800] * 10))
            many = await calls_during(client, client.produce_message(topic, [b"x" * 8] * 1000))
            assert sum(few.values()) > 50
            # 990 messages more; what differs is how many pieces the larger lengths column arrives in
            assert abs(sum(many.values()) - sum(few.values())) < 250
            assert not {"decode_batch", "decompress"} & {*few, *many}

    run_simulation(main, seed=1)


def test_a_send_is_one_write_and_a_commit_one_flush_however_many_batches_share_it(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(2, "disk"))
        async with open_setup(STORAGE, ports=model_ports(2, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("lines")
            for _ in range(2):  # the second notes, once, that the first is durable
                await client.produce(topic, [b"warm up"] * 10)
            for batches in (1, 16):
                before = disk.counts.copy()
                await client.send(*(client.produce_message(topic, [b"x"] * 10) for _ in range(batches)))
                for _ in range(batches):
                    assert isinstance(await client.receive(), Produced)
                spent = disk.counts - before
                assert spent["flush"] == 1
                assert spent["pwritev"] == 2, "the batches in one write, then the durable mark"

    run_simulation(main, seed=2)


def test_a_fetch_copies_no_batch_of_the_log(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            await client.produce(topic, [b"x" * 100_000])
            (partition,) = setup.broker.reign.partitions.values()
            result = await partition.log.read(0, 1 << 20, 1)
            (first,), (second,) = result.chunks, (await partition.log.read(0, 1 << 20, 1)).chunks
            assert first.obj is second.obj, "two reads are views of the same memory"

    run_virtual(main)


def test_what_rules_allow_is_asked_once_for_a_topic_and_costs_a_send_no_call_after_that(open_setup: Any) -> None:
    others = [{"principal": f"user:{number}", "resource": "topic:x", "operations": ["*"]} for number in range(50)]
    everybody = {"principal": "anonymous", "resource": "topic:lines", "operations": ["produce", "create"]}
    of_access = {"_may", "decide", "topic_name", "allows"}

    async def main() -> None:
        access = {"rules": [*others, everybody]}
        async with open_setup(STORAGE, ports=model_ports(3), flush="none", access=access) as setup:
            async with setup.client() as client:
                topic = await client.create("lines")
                first, second = [
                    await calls_during(client, client.produce_message(topic, [b"x" * 80] * 10)) for _ in range(2)
                ]
                assert {"_may", "decide", "topic_name"} <= first.keys()
                assert first["decide"] == 1
                assert not of_access & second.keys(), of_access & second.keys()

    run_simulation(main, seed=3)
