"""Changes of topics whose caller leaves in the middle, and that race sends: what is on the disk is what is in force."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.guarantees import Level
from mqcore.protocol import Call, Failed, Produced, Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


async def leave_in_the_middle(
    setup: Any, disk: ModelDisk, busy: Any, topic: bytes, call: tuple[str, dict[str, Any]]
) -> None:
    """Make ``call`` while a flush stalls, and close the connection before it can be answered."""
    disk.stall_next("flush", 5.0)
    disk.stall_next("flush_many", 5.0)
    await busy.send(busy.produce_message(topic, [b"busy"]))
    await trio.sleep(0.5)
    async with setup.client() as leaver:
        await leaver.send(Call(leaver.id(), *call))
        await trio.sleep(0.5)
    assert isinstance(await busy.receive(), Produced)
    await trio.sleep(60)


def test_g01_a_deletion_whose_caller_left_takes_no_message_acknowledged_after_it(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        acknowledged: list[bytes] = []
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            other = await client.create("other")
            topic = await client.create("lines")
            assert isinstance(await client.produce(topic, [b"first"]), Produced)
            await leave_in_the_middle(setup, disk, client, other, ("topic.delete", {"name": "lines"}))
            if isinstance(await client.produce(topic, [b"after"]), Produced):
                acknowledged += [b"first", b"after"]
        async with open_setup(STORAGE, ports=model_ports(2, disk), flush="sync") as setup, setup.client() as client:
            if acknowledged:
                assert [value for _, value in await client.read_all(topic)] == acknowledged

    run_simulation(main, seed=1)


@pytest.mark.parametrize("operation", ["topic.delete", "topic.create"])
def test_g17_a_change_whose_caller_left_may_be_made_again_and_the_broker_starts_again(
    open_setup: Any, operation: str
) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        names: list[str] = []
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            other = await client.create("other")
            if operation == "topic.delete":
                await client.create("lines")
            await leave_in_the_middle(setup, disk, client, other, (operation, {"name": "lines"}))
            await client.call(operation, name="lines")
            names = [each["name"] for each in (await client.call("topic.list")).value]
            ids = set(setup.broker.reign.topics.by_id)
        async with open_setup(STORAGE, ports=model_ports(2, disk), flush="sync") as setup, setup.client() as client:
            assert [each["name"] for each in (await client.call("topic.list")).value] == names
            assert set(setup.broker.reign.topics.by_id) == ids

    run_simulation(main, seed=1)


def test_r13_a_partition_that_was_being_opened_when_its_topic_was_deleted_takes_no_sends(open_setup: Any) -> None:
    async def main() -> None:
        for ticks in range(60):
            async with open_setup("memory://") as setup, setup.client() as client, setup.client() as other:
                topic = await client.create("lines")
                async with trio.open_nursery() as nursery:

                    async def late(ticks: int = ticks, other: Any = other, topic: bytes = topic) -> None:
                        for _ in range(ticks):
                            await trio.lowlevel.checkpoint()
                        await other.produce(topic, [b"racing"])

                    nursery.start_soon(late)
                    deleted = await client.call("topic.delete", name="lines")
                assert isinstance(deleted, Result)
                reply = await client.produce(topic, [b"after"])
                assert isinstance(reply, Failed), f"acknowledged after the deletion ({ticks} ticks)"

    run_simulation(main, seed=1)


def test_g11_a_deletion_whose_flush_failed_lets_nothing_more_be_acknowledged(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("lines", 2)
            assert isinstance(await client.produce(topic, [b"first"]), Produced)
            disk.fail_next_flush()
            assert isinstance(await client.call("topic.delete", name="lines"), Failed)
            for partition in (0, 1):
                assert isinstance(await client.produce(topic, [b"after"], partition=partition), Failed)

    run_simulation(main, seed=1)


def test_a_partition_that_was_being_opened_when_its_topic_was_altered_has_the_new_policy(open_setup: Any) -> None:
    async def main() -> None:
        for ticks in range(40):
            disk = ModelDisk(seeded(1, "disk"))
            async with open_setup(STORAGE, ports=model_ports(1, disk), flush="none") as setup:
                async with setup.client() as client, setup.client() as other:
                    topic = await client.create("lines")
                    async with trio.open_nursery() as nursery:

                        async def late(ticks: int = ticks, other: Any = other, topic: bytes = topic) -> None:
                            await trio.sleep(ticks * 1e-5)
                            await other.produce(topic, [b"racing"])

                        nursery.start_soon(late)
                        await client.call("topic.alter", name="lines", config={"flush": "sync"})
                    reply = await client.produce(topic, [b"after"])
                    assert isinstance(reply, Produced)
                    assert reply.level == Level.DISK

    run_simulation(main, seed=1)
