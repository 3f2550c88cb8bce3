"""What a broker keeps in memory of topics that were made and deleted: one that does that for a year stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._retention import Retention
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


@pytest.mark.parametrize("sends", [True, False], ids=["used", "empty"])
def test_g20_nothing_is_left_of_a_topic_that_is_deleted_nor_of_one_that_was_never_written(
    open_setup: Any, sends: bool
) -> None:
    """A log that has no bytes has no file, and is not found by a look at the disk; it was opened all the same."""

    async def main() -> None:
        ports = model_ports(1, ModelDisk(seeded(1, "disk")))
        async with open_setup("mmap:///data", ports=ports, flush="sync", retention={"age_ms": 1000}) as setup:
            store, backend = setup.broker.store, setup.broker.store.backend
            open_before, kept_before = set(store._logs), set(backend._engine.logs)
            retention: Retention = setup.broker.reign.retention
            async with setup.client() as client:
                for number in range(3):
                    topic = await client.create(f"t{number}")
                    if sends:
                        await client.produce(topic, [b"x"])
                    await client.fetch(topic, 0)
                    await retention.look()
                    await client.call("topic.delete", name=f"t{number}")
                    await retention.look()
            assert set(store._logs) == open_before
            assert set(backend._engine.logs) == kept_before
            assert not retention._prepared
            assert not retention._first_ms

    run_simulation(main, seed=1)


@pytest.mark.parametrize("sends", [True, False], ids=["used", "empty"])
@in_virtual_time
async def test_g20_a_stream_of_a_replica_keeps_nothing_of_topics_that_are_deleted(tmp_path: Path, sends: bool) -> None:
    """It may last for months: at either end."""
    async with set_of_nodes(tmp_path, prefix=f"forgets-{sends}", flush="sync", replication="async") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        own_set = nodes.node("a").reign.set  # type: ignore[union-attr]
        assert own_set is not None
        await nodes.until(lambda: own_set._feeders)
        (feeder,) = own_set._feeders.values()
        follower = nodes.node("b").roles.follower  # type: ignore[union-attr]
        assert follower is not None
        await nodes.until(lambda: follower.session is not None)
        assert follower.session is not None
        session = follower.session
        await nodes.until(lambda: feeder.is_level)

        def kept() -> list[int]:
            stores = [nodes.node(name).store for name in "ab"]
            return [
                sum(fed is not None for fed in feeder._numbered),
                len(feeder._log_of),
                sum(copy is not None for copy in session._copies),
                len(session._number_of),
                len(session._told - session._number_of.keys()),
                len(follower.copies),
                *(len(store._logs) for store in stores),
            ]

        before = kept()
        async with nodes.client("a") as client:
            for number in range(3):
                await client.admin.create_topic(f"t{number}")
                if sends:
                    async with client.producer(f"t{number}") as producer:
                        await producer.send(b"x")
                await nodes.until(lambda: len(follower.copies) > before[5])
                await client.admin.delete_topic(f"t{number}")
                await nodes.until(lambda: len(follower.copies) == before[5])
            await client.admin.create_topic("last")
            await nodes.until(lambda: len(follower.copies) > before[5])
            await client.admin.delete_topic("last")
        with trio.fail_after(60):
            await nodes.until(lambda: kept() == before)
        assert follower.session is session
        assert own_set._feeders == {feeder.member.node_id: feeder}


@in_virtual_time
async def test_g20_a_stream_that_has_named_as_many_logs_as_it_may_is_followed_by_another(tmp_path: Path) -> None:
    """Topics that are made and deleted use up its numbers, and are no defect."""
    limits = {"partitions_max": 4, "topics_max": 4, "partitions_per_topic_max": 4}
    async with set_of_nodes(tmp_path, prefix="renumbers", flush="sync", replication="async", limits=limits) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            for number in range(12):
                name = f"t{number}"
                await client.admin.create_topic(name)
                await nodes.until(
                    lambda: (follower := nodes.node("b").roles.follower) is not None and follower.copies  # type: ignore[union-attr]
                )
                await client.admin.delete_topic(name)
                await nodes.until(lambda: not nodes.node("b").roles.follower.copies)  # type: ignore[union-attr]
        assert "follower-renumbered" in nodes.kinds("a")
        assert "follower-failed" not in nodes.kinds("a")
