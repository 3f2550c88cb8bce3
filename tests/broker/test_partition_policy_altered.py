"""A topic's policy is altered while sends of the old one wait: what they were promised still holds."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.protocol import Call, Code, Failed, Produced, Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


def test_g03_a_raise_from_async_to_sync_acknowledges_nothing_beyond_the_old_bounds(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup:
            async with setup.client() as client, setup.client() as admin:
                topic = await client.create("lines", flush="async(max_messages=2)")
                disk.stall_next("flush", 10.0)
                for number in range(5):
                    await client.send(client.produce_message(topic, [b"%d" % number]))
                await trio.sleep(1)
                altered = trio.Event()

                async def alter() -> None:
                    await admin.call("topic.alter", name="lines", config={"flush": "sync"})
                    altered.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(alter)
                    for _ in range(5):
                        reply = await client.receive()
                        assert isinstance(reply, Produced)
                        (partition,) = setup.broker.reign.partitions.values()
                        assert reply.base_offset + 1 - partition.log.durable_offset <= 2
                    await altered.wait()

    run_simulation(main, seed=1)


def test_g20_the_bytes_of_deleted_and_altered_topics_leave_the_brokers_total(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            for change in ("topic.delete", "topic.alter"):
                topic = await client.create(change, flush="async(max_messages=1000)")
                assert isinstance(await client.produce(topic, [b"x" * 1000]), Produced)
                assert (await client.call("broker.status")).value["unflushed_bytes"] > 1000
                keys = {"config": {"flush": "sync"}} if change == "topic.alter" else {}
                await client.call(change, name=change, **keys)
                await client.produce(topic, [b"x"])
                assert (await client.call("broker.status")).value["unflushed_bytes"] == 0

    run_simulation(main, seed=1)


@pytest.mark.parametrize("first", [{"visible": "stable"}, {"flush": "none"}], ids=["visible", "flush"])
def test_g18_two_changes_at_once_never_make_together_what_is_refused(open_setup: Any, first: dict[str, str]) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        second = {"flush": "none"} if "visible" in first else {"visible": "stable"}
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup:
            async with setup.client() as one, setup.client() as two:
                await one.create("lines")
                disk.stall_next("flush", 10.0)
                await one.send(Call(one.id(), "topic.alter", {"name": "lines", "config": first}))
                await trio.sleep(1)
                refused = await two.call("topic.alter", name="lines", config=second)
                assert isinstance(await one.receive(), Result)
                assert isinstance(refused, Failed)
                assert refused.code == Code.REFUSED
                assert (await one.call("topic.resolve", name="lines")).value["config"] == first
            assert setup.broker.reign.check_topic_config("lines", setup.broker.reign.topics.get("lines").config) is None

    run_simulation(main, seed=1)
