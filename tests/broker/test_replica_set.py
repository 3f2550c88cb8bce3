"""Two and three real nodes without a coordinator: copies, receipts, promotion by hand, divergence (R4 to R6, R16)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._roles import describe_role
from mqcore.client import Client
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.guarantees import Level
from mqcore.log import PartitionLog

SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
ASYNC = {"flush": "sync", "replication": "async"}


def end_of_orders(nodes: SetOfNodes) -> int:
    """Where partition 0 of the only topic ends on the primary ``a``, committed or not."""
    reign = nodes.node("a").reign
    assert reign is not None
    (partition,) = reign.partitions.values()
    return partition.log.end_offset


async def begin(nodes: SetOfNodes, primary: str = "a") -> None:
    await nodes.start()
    await nodes.init(primary)


async def send_all(client: Client, topic: str, values: list[bytes]) -> None:
    async with client.producer(topic) as producer:
        for value in values:
            await producer.send(value)


async def read_all(client: Client, topic: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with client.consumer(topic, start="start") as consumer:
        with trio.fail_after(120):
            async for message in consumer:
                found.append(bytes(message.value))
                if len(found) == count:
                    return found
    raise AssertionError("the consumer ended")


@in_virtual_time
async def test_g14_a_synchronous_receipt_names_the_copy_of_each_member_and_the_copies_are_the_same_bytes(
    tmp_path: Path,
) -> None:
    three = {"flush": "sync", "replication": "sync(copies=3, level=disk)"}
    async with set_of_nodes(tmp_path, "abc", prefix="g14", **three) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders", partitions=3)
            async with client.producer("orders") as producer:
                receipts = [await producer.send(b"value %d" % number) for number in range(30)]
        ids = {nodes.node(name).store.node_id for name in "abc"}
        for receipt in receipts:
            assert {copy.node_id for copy in receipt.copies} == ids
            assert {copy.level for copy in receipt.copies} == {Level.DISK}
        first, *others = [await nodes.logs(name) for name in "abc"]
        for log in first.keys() - {"metadata"}:  # of what was acknowledged there is nothing to wait for
            assert all(each[log] == first[log] for each in others)


@in_virtual_time
async def test_r12_producers_that_ended_are_forgotten_by_every_copy_at_the_same_place(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, prefix="r12", limits={"producers_max": 5}, **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            for number in range(20):
                await send_all(client, "orders", [b"%d" % number])
            await nodes.until_same("b", "a")
            (one,), (other,) = (
                [log for name, log in nodes.node(each).store._logs.items() if name != "metadata"] for each in "ab"
            )
            assert one.producers.snapshot() == other.producers.snapshot()
            assert len(other.producers) <= 5


@in_virtual_time
async def test_r16_a_synchronous_set_waits_for_a_node_that_is_away_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="r16a", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"both")
                await nodes.cut_off("b")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(producer.send, b"alone")
                    with trio.fail_after(60):
                        while end_of_orders(nodes) < 2:  # noqa: ASYNC110 - a log tells nobody
                            await trio.sleep(0.01)
                    await trio.sleep(0.3)
                    nursery.cancel_scope.cancel()
                assert nursery.cancel_scope.cancelled_caught
                await nodes.start("b")
                with trio.fail_after(120):
                    await producer.send(b"again")
            assert await read_all(client, "orders", 3) == [b"both", b"alone", b"again"]
        await nodes.until_same("b", "a")


@in_virtual_time
async def test_an_asynchronous_set_acknowledges_without_its_replica_which_catches_up(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="async", **ASYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        await nodes.cut_off("b")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders", partitions=2)
            await send_all(client, "orders", [b"%d" % number for number in range(50)])
        await nodes.start("b")
        await nodes.until_in_sync("a")
        await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(nodes.node("b").store.node_id))  # type: ignore[union-attr]
        await nodes.until_same("b", "a")


@in_virtual_time
async def test_r16_the_promoted_replica_has_everything_and_a_producer_goes_on(tmp_path: Path) -> None:
    """G01, G09, G15: the client is told of both nodes and does nothing else."""
    async with set_of_nodes(tmp_path, prefix="r16b", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                for number in range(20):
                    await producer.send(b"%d" % number)
                await nodes.cut_off("a")
                answer = await nodes.call("b", "set.promote", old_primary_is_stopped=True)
                assert (answer["role"], answer["epoch"]) == ("primary", 2)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(producer.send, b"20")
                    await nodes.start("a")  # comes back as a replica, and is waited for
            assert await read_all(client, "orders", 21) == [b"%d" % number for number in range(21)]
        assert (await nodes.call("a", "set.describe"))["role"] == "replica"
        await nodes.until_same("a", "b")


@in_virtual_time
async def test_r5_an_old_primary_gives_up_what_the_new_reign_has_not_got_and_keeps_it_aside(tmp_path: Path) -> None:
    """G02, G10: under asynchronous replication, the loss is a suffix, quarantined and reported."""
    async with set_of_nodes(tmp_path, prefix="r5", **ASYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            await send_all(client, "orders", [b"kept"])
            await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(nodes.node("b").store.node_id))  # type: ignore[union-attr]
            await nodes.cut_off("b")
            await send_all(client, "orders", [b"lost 1", b"lost 2"])
        await nodes.cut_off("a")
        await nodes.start("b")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        async with nodes.client("b") as client:
            await send_all(client, "orders", [b"new"])
        await nodes.start("a")
        await nodes.until(lambda: "log-diverged" in nodes.kinds("a"))
        await nodes.until_in_sync("b")
        notice = nodes.notice("log-diverged")
        assert (notice.facts["offset"], notice.facts["end_offset"]) == (1, 3)
        side = await nodes.node("a").store.backend.open_log(str(notice.facts["quarantine"]))
        kept = bytes(await side.read(0, side.end))
        assert b"lost 1" in kept
        assert b"lost 2" in kept
        await nodes.until(lambda: nodes.node("b").reign.set.holds_everything(nodes.node("a").store.node_id))  # type: ignore[union-attr]
        await nodes.until_same("a", "b")
        async with nodes.client() as client:
            assert await read_all(client, "orders", 2) == [b"kept", b"new"]


@in_virtual_time
async def test_a_switchover_loses_nothing_and_the_producer_sees_no_error(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="switch", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            await nodes.until_in_sync("a")
            sent: list[bytes] = []
            async with client.producer("orders") as producer, trio.open_nursery() as nursery:
                stop = trio.Event()

                async def keep_sending() -> None:
                    while not stop.is_set():
                        value = b"%d" % len(sent)
                        await producer.send(value)
                        sent.append(value)

                nursery.start_soon(keep_sending)
                await nodes.until(lambda: len(sent) > 20)
                await nodes.call("a", "set.switchover", to="b")
                before = len(sent)
                await nodes.until(lambda: len(sent) > before + 20)
                stop.set()
            assert (await nodes.call("b", "set.describe"))["role"] == "primary"
            assert await read_all(client, "orders", len(sent)) == sent


@in_virtual_time
async def test_r3_a_primary_that_restarts_alone_reigns_again_in_a_higher_epoch(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="r3", **SYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
        await nodes.cut_off("a")
        await nodes.start("a")
        await nodes.until(lambda: nodes.node("a").reign is not None)
        assert nodes.node("a").store.epoch == 2
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await send_all(client, "orders", [b"after"])


@in_virtual_time
async def test_r16_an_old_primary_that_comes_back_first_does_not_cut_what_the_new_one_acknowledged(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, prefix="r16e", **ASYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(nodes.node("b").store.node_id))  # type: ignore[union-attr]
        await nodes.cut_off("a")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        async with nodes.client("b") as client:
            await send_all(client, "orders", [b"of the new reign"])
        await nodes.cut_off("b")
        await nodes.start("a")
        await nodes.until(lambda: "waiting for b" in getattr(nodes.node("a").roles.role, "why", ""))
        await nodes.start("b")
        await nodes.until(lambda: nodes.node("b").reign is not None)
        async with nodes.client() as client:
            assert await read_all(client, "orders", 1) == [b"of the new reign"]


@in_virtual_time
async def test_r16_a_promotion_is_refused_while_the_old_primary_may_live_and_a_node_that_is_behind_catches_up_first(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", prefix="r16c", **ASYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            await nodes.cut_off("c")
            await send_all(client, "orders", [b"c lacks this"])
            await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(nodes.node("b").store.node_id))  # type: ignore[union-attr]
        await nodes.cut_off("a")
        await nodes.start("c")
        with pytest.raises(MqcoreError, match="old-primary-is-stopped"):
            await nodes.call("b", "set.promote")
        await nodes.call("c", "set.promote", old_primary_is_stopped=True)
        assert "suffix-fetched" in nodes.kinds("c")
        async with nodes.client("b", "c") as client:
            assert await read_all(client, "orders", 1) == [b"c lacks this"]


@in_virtual_time
async def test_r14_a_set_begins_once_and_only_with_all_of_its_nodes_there(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="r14", **SYNC) as nodes:
        await nodes.start("a")
        with pytest.raises(MqcoreError, match="no answer from b"):
            await nodes.init("a", once=True)
        await nodes.start("b")
        await nodes.init("a")
        await nodes.until_in_sync("a")
        for name in "ab":
            with pytest.raises(MqcoreError, match="already"):
                await nodes.init(name)


@in_virtual_time
async def test_r13_topics_and_their_changes_reach_the_replica_and_a_deleted_one_leaves_no_log_there(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, prefix="r13", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders", partitions=2)
            await client.admin.create_topic("gone", partitions=2)
            await send_all(client, "gone", [b"1", b"2"])
            await client.admin.alter_topic("orders", partitions=3)
            await client.admin.delete_topic("gone")
            follower = nodes.node("b").roles.follower  # type: ignore[union-attr]
            assert follower is not None
            await nodes.until(lambda: set(follower.topics.by_name) == {"orders"})
            await nodes.until(lambda: follower.topics.by_name["orders"].partitions == 3)
            names = await nodes.node("a").store.list_logs()
            while await nodes.node("b").store.list_logs() != names:  # noqa: ASYNC110 - files, not events
                await trio.sleep(0.01)
            with pytest.raises(CommandNotPossibleError):
                await nodes.call("b", "replica.remove", name="a")


@in_virtual_time
async def test_g19_a_replica_answers_a_fetch_that_allows_it_and_says_how_old_its_knowledge_is(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="g19", **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            await send_all(client, "orders", [b"1", b"2"])
            topic = (await client.admin.resolve_topic("orders")).id
        follower = nodes.node("b").roles.follower  # type: ignore[union-attr]
        assert follower is not None
        copy = follower.open_partition(bytes.fromhex(topic), 0)
        await nodes.until(lambda: copy.committed_offset == 2)
        assert copy.known_age_ms < 5_000
        await nodes.cut_off("a")
        before = copy.known_age_ms
        await nodes.until(lambda: copy.known_age_ms > before + 100)
        assert copy.committed_offset == 2


@in_virtual_time
async def test_a_node_that_is_away_is_reported_once_until_it_was_there_again(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="once", **ASYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        roles = nodes.node("a").roles
        assert roles is not None
        await roles._described()
        nodes.notices.clear()
        for count in (1, 2):
            await nodes.cut_off("b")
            for _ in range(3):
                assert not await roles._described()
            assert nodes.kinds("a").count("peer-not-reached") == count
            await nodes.start("b")
            assert await roles._described()


@in_virtual_time
async def test_r4_a_replica_gets_what_the_commit_rule_knows_of_and_not_what_an_append_has_put_into_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its report is of more than the primary has, as far as the rule knows, and ends the stream of every log."""
    write_checkpoint = PartitionLog._checkpoint

    async def slow(log: PartitionLog) -> object:
        await trio.sleep(0.02)  # the bytes are in the log, and the append has not returned
        return await write_checkpoint(log)

    monkeypatch.setattr(PartitionLog, "_checkpoint", slow)
    monkeypatch.setattr(PartitionLog, "_plan_checkpoint", lambda log, size: setattr(log, "_checkpoint_at", 0))
    async with set_of_nodes(tmp_path, prefix="fed", **ASYNC) as nodes:
        await begin(nodes)
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with trio.open_nursery() as nursery:
                for name in (b"a", b"b", b"c"):
                    nursery.start_soon(send_all, client, "orders", [name + b"%d" % number for number in range(10)])
        await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(nodes.node("b").store.node_id))  # type: ignore[union-attr]
        assert "follower-refused" not in nodes.kinds("a")


@in_virtual_time
async def test_r14_a_primary_that_comes_back_empty_is_not_told_to_begin_the_set_anew(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="emptied", **SYNC) as nodes:
        await nodes.start()
        before = nodes.node("a").roles
        assert before is not None
        await nodes.until(lambda: "mqcore cluster init" in describe_role(before.role))
        await nodes.init("a")
        await nodes.until_in_sync("a")
        await nodes.until(lambda: nodes.node("b").store.epoch == 1)
        await nodes.stop("a")
        shutil.rmtree(tmp_path / "a")
        await nodes.start("a")
        roles = nodes.node("a").roles
        assert roles is not None
        await nodes.until(lambda: "`mqcore replica add a --wait` takes this node in" in describe_role(roles.role))
        assert "b hold what the set has" in describe_role(roles.role)
