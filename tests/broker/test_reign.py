"""What a reign holds goes with it: also what waits, shielded, for a flush of its group commit."""

from __future__ import annotations

from typing import Any

import trio

from mqcore.protocol import Call, Failed, Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


def test_r13_a_topic_whose_record_is_not_committed_when_the_reign_ends_is_answered_at_once(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            await client.create("first")
            disk.stall_next("flush", 10.0)
            await client.send(Call(client.id(), "topic.create", {"name": "lines"}))
            await trio.sleep(1)
            assert "lines" not in setup.broker.reign.topics.by_name, "applied before it is committed"
            setup.broker.leave_reign()
            with trio.fail_after(1):
                assert isinstance(await client.receive(), Failed)
            await trio.sleep(20)
            assert isinstance(await client.call("topic.resolve", name="first"), Result)
            assert setup.broker.reign.topics.by_name.keys() <= {"first", "lines"}

    run_simulation(main, seed=1)


def test_records_of_topics_share_the_flush_of_the_group_commit(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup:
            async with setup.client() as client, setup.client() as admin:
                topic = await client.create("first")
                await client.produce(topic, [b"warm up"])
                disk.stall_next("flush", 5.0)
                await client.send(client.produce_message(topic, [b"holds the flusher"]))
                await trio.sleep(1)
                before = setup.broker.reign.group_commit.flushes
                await client.send(client.produce_message(topic, [b"x"]))
                await admin.send(Call(admin.id(), "topic.create", {"name": "lines"}))
                assert isinstance(await admin.receive(), Result)
                assert setup.broker.reign.group_commit.flushes == before + 1

    run_simulation(main, seed=1)
