"""Clients of real sets: told of one node, they go on over changes of the primary without help (rule R12).

Two and three nodes in this process, without a coordinator.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.client import Consumer, Producer, connect
from mqcore.errors import MessagesMissingError, MqcoreError, NotReachedError

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
ASYNC = {"flush": "sync", "replication": "async"}


async def begin(nodes: SetOfNodes) -> None:
    """Start every node, begin the set with a, make topic ``orders``, wait for the copies."""
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")


async def read(consumer: Consumer, count: int) -> list[bytes]:
    with trio.fail_after(120):
        return [bytes((await anext(consumer)).value) for _ in range(count)]


async def until_held(nodes: SetOfNodes, primary: str, other: str) -> None:
    """Wait until ``other`` has everything that ``primary`` has."""

    def holds() -> bool:
        reign = nodes.node(primary).reign
        return bool(reign and reign.set and reign.set.holds_everything(nodes.node(other).store.node_id))

    await nodes.until(holds)


async def send(producer: Producer, *numbers: int) -> None:
    with trio.fail_after(120):
        for number in numbers:
            await producer.send(b"%d" % number)


@in_virtual_time
async def test_g15_g06_two_failovers_in_a_row_are_no_business_of_producer_and_consumer(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="twice", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            async with client.producer("orders") as producer, client.consumer("orders", start="start") as consumer:
                await send(producer, *range(10))
                assert await read(consumer, 5) == [b"%d" % number for number in range(5)]
                for old, new, first in (("a", "b", 10), ("b", "a", 20)):
                    await nodes.cut_off(old)
                    late = [producer.post(b"%d" % number) for number in range(first, first + 5)]
                    await nodes.call(new, "set.promote", old_primary_is_stopped=True)
                    await nodes.start(old)
                    with trio.fail_after(120):
                        for delivery in late:
                            await delivery.wait()
                    await send(producer, *range(first + 5, first + 10))
                    await nodes.until_in_sync(new)
                assert await read(consumer, 25) == [b"%d" % number for number in range(5, 30)]
                assert not producer.losses
                assert consumer.positions[0][0] == 30


@in_virtual_time
async def test_r12_g06_a_permitted_loss_is_told_to_the_producer_and_to_the_reader_once(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="loss", **ASYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            async with client.producer("orders") as producer, client.consumer("orders", start="start") as consumer:
                await send(producer, 0)
                await until_held(nodes, "a", "b")
                await nodes.cut_off("b")
                await send(producer, 1, 2)
                assert await read(consumer, 3) == [b"0", b"1", b"2"]
                await nodes.cut_off("a")
                await nodes.start("b")
                await nodes.call("b", "set.promote", old_primary_is_stopped=True)
                await send(producer, 3, 4)
                assert [loss.messages for loss in producer.losses] == [2]
                with pytest.raises(MessagesMissingError) as caught, trio.fail_after(10):  # and not after a long poll
                    await anext(consumer)
                assert (caught.value.reason, caught.value.position) == ("loss", 1)
                assert await read(consumer, 2) == [b"3", b"4"]
                await nodes.start("a")
                await nodes.until(lambda: "log-diverged" in nodes.kinds("a"))
        async with nodes.client("a") as client:
            (kept,) = await client.sets.quarantined()
            assert (kept.first_offset, kept.end_offset, kept.messages) == (1, 3, 2)
            batches = [batch async for batch in client.sets.quarantined_batches(kept.name)]
            assert b"".join(batches).count(b"1") >= 1
            assert (await client.sets.delete_quarantined(kept.name)).name == kept.name
            assert await client.sets.quarantined() == []


@in_virtual_time
async def test_g19_what_is_committed_is_read_from_a_replica_while_there_is_no_primary(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="stale", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            await send(producer, *range(5))
        follower = nodes.node("b").roles.follower  # type: ignore[union-attr]
        assert follower is not None
        topic = next(iter(follower.topics.by_id))
        await nodes.until(lambda: follower.open_partition(topic, 0).committed_offset == 5)
        async with nodes.client("a") as client:
            options = {"start": "start", "read_from": "replica-when-primary-is-gone", "refresh_ms": 200}
            async with client.consumer("orders", **options) as consumer:  # type: ignore[arg-type]
                assert await read(consumer, 2) == [b"0", b"1"]
                assert consumer.staleness_ms == {0: None}
                await nodes.cut_off("a")
                await consumer.seek(2)
                assert await read(consumer, 3) == [b"2", b"3", b"4"]
                age_ms = consumer.staleness_ms[0]
                assert age_ms is not None
                assert age_ms >= 0


@pytest.mark.slow
@in_virtual_time
async def test_g13_a_send_that_waits_for_a_copy_is_told_why_and_ends_when_the_node_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with set_of_nodes(tmp_path, prefix="why", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            await send(producer, 0)
            await nodes.cut_off("b")
            late = producer.post(b"1")
            await nodes.until(lambda: "of set one in sync and here: a;" in caplog.text)
            assert not late.is_done
            remedy = "start it or mend the network, or 'mqcore replica remove b' if it stays away;"
            assert caplog.text.count(f"not here: b: {remedy}") == 1
            await nodes.start("b")
            with trio.fail_after(120):
                await late.wait()


@in_virtual_time
async def test_r13_any_node_says_where_a_partition_is(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="where", **SYNC) as nodes:
        await begin(nodes)
        for name in "ab":
            async with nodes.client(name) as client:
                topic = await client.admin.resolve_topic("orders")
            (own,) = topic.sets
            assert [node.name for node in own.nodes] == ["a", "b"]
            assert (own.primary, topic.owners) == ("a", (0,))


@in_virtual_time
async def test_r14_a_set_whose_coordinator_lost_the_record_reigns_again_by_recover_only(tmp_path: Path) -> None:
    keys = {"prefix": "recover", **SYNC}
    async with set_of_nodes(tmp_path, cluster={"coordinator": "memory://recover-before"}, **keys) as nodes:
        await begin(nodes)
        async with nodes.client() as client, client.producer("orders") as producer:
            await send(producer, 0, 1)
        await until_held(nodes, "a", "b")
    async with set_of_nodes(tmp_path, cluster={"coordinator": "memory://recover-after"}, **keys) as nodes:
        await nodes.start()
        async with nodes.client("b") as client:
            await trio.sleep(0.5)
            assert (await client.sets.describe()).primary is None
            recovered = await client.sets.recover()
            assert recovered.epoch > 1
            assert [(each.name, each.answered, each.bytes > 0) for each in recovered.found] == [
                ("a", True, True), ("b", True, True),
            ]  # fmt: skip
            found = await client.sets.describe()
            assert (found.role, found.epoch) == ("primary", recovered.epoch)
            async with client.consumer("orders", start="start") as consumer:
                await nodes.until_in_sync("b")
                assert await read(consumer, 2) == [b"0", b"1"]


@in_virtual_time
async def test_r14_a_set_without_a_coordinator_has_no_record_to_recover(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="norecover", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            with pytest.raises(MqcoreError, match="mqcore cluster promote"):
                await client.sets.recover()
            assert (await client.sets.describe()).role == "primary"


@in_virtual_time
async def test_a_client_of_a_set_that_has_not_begun_is_told_that_it_has_to(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="early", **SYNC) as nodes:
        await nodes.start()
        async with connect(*map(nodes.url, nodes.names), request_timeout_ms=500) as client:
            with pytest.raises(NotReachedError, match="the set has not begun: `mqcore cluster init`"):
                await client.admin.create_topic("orders")
