"""The metadata log of a set is made short, and says the same on every node all the same (R13, R15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from test_elected_set import coordinated, primary_of
from test_retention_interrupted import REMOVALS, FailsOnce
from virtual_time import in_virtual_time

from mqcore.broker._short_metadata import MetadataShortener
from mqcore.broker._topics import Topic, Topics
from mqcore.errors import MqcoreError, StorageError
from mqcore.log import METADATA_NAME, MetadataLog, PartitionLog
from mqcore.log._opening import LogOpener

SMALL: dict[str, Any] = {
    "flush": "sync",
    "replication": "sync(copies=2, level=disk)",
    "limits": {"metadata_log_bytes_max": 1},
}
CHURN = 12
PATIENT: dict[str, Any] = {"lease_ms": 20_000}
"""Of sets that are not to fail over, however busy the machine is."""


def metadata_of(nodes: SetOfNodes, name: str) -> PartitionLog:
    return nodes.node(name).store.metadata


def topics_of(nodes: SetOfNodes, name: str) -> Topics | None:
    node = nodes.node(name)
    follower = node.roles.follower if node.roles is not None else None
    return node.reign.topics if node.reign is not None else follower.topics if follower is not None else None


def known_to(nodes: SetOfNodes, name: str) -> dict[bytes, Topic]:
    topics = topics_of(nodes, name)
    return {} if topics is None else dict(topics.by_id)


async def begin(nodes: SetOfNodes) -> None:
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")


async def churn(nodes: SetOfNodes, first: int = 0, *, by: str = "a") -> None:
    """Make topics, and delete all but every fourth."""
    async with nodes.client(by) as client:
        for number in range(first, first + CHURN):
            await client.admin.create_topic(f"topic-{number}", partitions=2)
            if number % 4:
                await client.admin.delete_topic(f"topic-{number}")


async def until_short(nodes: SetOfNodes, names: str, above: int = 0) -> int:
    """Wait until these nodes have the same metadata log, which begins above a position; return where it begins."""

    def are_short() -> bool:
        starts = {metadata_of(nodes, name).start_position for name in names}
        return len(starts) == 1 and starts.pop() > above

    await nodes.until(are_short)
    await nodes.until_same(*names)
    return metadata_of(nodes, names[0]).start_position


async def check_topics(nodes: SetOfNodes, names: str) -> None:
    """What every node knows of topics, and which logs it has, is the same."""
    first, *others = names
    await nodes.until(lambda: known_to(nodes, first))
    await nodes.until(lambda: all(known_to(nodes, each) == known_to(nodes, first) for each in others))
    known = {topic_id.hex() for topic_id in known_to(nodes, first)}

    async def logs_are_of_topics() -> bool:
        stores = [nodes.node(name).store for name in names]
        found = [{*await store.list_logs(), *store.opened_logs()} for store in stores]
        return all({log.partition("-")[0] for log in logs} == known for logs in found)

    with trio.fail_after(60):
        while not await logs_are_of_topics():  # noqa: ASYNC110 - only an answer shows it
            await trio.sleep(0.01)


@in_virtual_time
@pytest.mark.parametrize("by_hand", [False, True])
async def test_r13_a_log_that_has_grown_is_made_short_on_every_node_and_a_failover_rewinds_nothing(
    tmp_path: Path, *, by_hand: bool
) -> None:
    keys = {"prefix": "short-hand"} if by_hand else coordinated("short-elected", lease_ms=4_000)
    async with set_of_nodes(tmp_path, "abc", **keys, **SMALL) as nodes:
        await begin(nodes)
        begins = 0
        for round_number in range(3):
            await churn(nodes, CHURN * round_number)
            begins = await until_short(nodes, "abc", begins)
        log = metadata_of(nodes, "a")
        assert log.bytes_total < 8_000
        await check_topics(nodes, "abc")
        await nodes.cut_off("a")
        if by_hand:
            await nodes.call("b", "set.promote", old_primary_is_stopped=True)
            await nodes.start("a")  # without it nothing is committed: the set does not shrink by itself
        await nodes.until(lambda: primary_of(nodes) is not None)
        await churn(nodes, CHURN * 3, by=primary_of(nodes) or "")
        if not by_hand:
            await nodes.start("a")
        await until_short(nodes, "abc", begins)
        await check_topics(nodes, "abc")


@in_virtual_time
async def test_r16_a_set_without_a_coordinator_that_was_stopped_whole_finds_its_record_in_what_is_left(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", prefix="short-record", **SMALL) as nodes:
        await begin(nodes)
        await churn(nodes)
        await until_short(nodes, "abc")
        known = known_to(nodes, "a")
        for name in "abc":
            await nodes.cut_off(name)
        await nodes.start()
        await nodes.until(lambda: nodes.node("a").reign is not None)
        await nodes.until_in_sync("a")
        assert known_to(nodes, "a") == known
        await check_topics(nodes, "abc")


@in_virtual_time
async def test_r15_a_node_that_ends_below_where_the_log_begins_takes_it_anew_and_drops_nothing_silently(
    tmp_path: Path,
) -> None:
    """It was away while topics were deleted and the log said so no more: it keeps no log of them all the same."""
    async with set_of_nodes(tmp_path, "abc", **coordinated("short-away", **PATIENT), **SMALL) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("gone-meanwhile", partitions=2)
            async with client.producer("gone-meanwhile") as producer:
                await producer.send(b"value")
        await nodes.until_same("a", "b", "c")
        ended_at = metadata_of(nodes, "c").end_position
        incarnation = nodes.node("c").store.incarnation
        await nodes.cut_off("c")
        async with nodes.client("a") as client:
            await client.admin.delete_topic("gone-meanwhile")
        await churn(nodes)
        await until_short(nodes, "ab", ended_at)
        await nodes.start("c")
        await until_short(nodes, "abc", ended_at)
        await check_topics(nodes, "abc")
        await nodes.until_in_sync("a")
        store = nodes.node("c").store
        assert store.incarnation > incarnation
        assert [each for each in await store.backend.list_logs() if each.startswith("metadata.quarantine-")]
        assert "copy-begun-anew" in nodes.kinds("c")
        await nodes.call("a", "set.switchover", to="c")
        await nodes.until(lambda: nodes.node("c").reign is not None)
        await churn(nodes, CHURN, by="c")
        await check_topics(nodes, "abc")


@in_virtual_time
async def test_r15_a_node_that_joins_empty_begins_where_the_log_begins(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("short-empty", **PATIENT), **SMALL) as nodes:
        await begin(nodes)
        await nodes.cut_off("c")
        await churn(nodes)
        await until_short(nodes, "ab")
        (tmp_path / "c").rename(tmp_path / "c-lost")
        await nodes.start("c")
        with trio.fail_after(60):
            while True:
                try:
                    await nodes.call("a", "replica.add", name="c")
                    break
                except MqcoreError:
                    await trio.sleep(0.05)
        await nodes.until_in_sync("a")
        await until_short(nodes, "abc")
        await check_topics(nodes, "abc")
        assert not [each for each in await nodes.node("c").store.backend.list_logs() if "quarantine" in each]


@in_virtual_time
@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("step", range(1, REMOVALS + 1))
async def test_r15_a_beginning_anew_that_is_interrupted_at_any_step_goes_on_with_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, *, is_killed: bool
) -> None:
    """Partitions without metadata are damage to a start: there is no moment at which it finds that."""
    prefix = f"short-step{step}{is_killed}"
    async with set_of_nodes(tmp_path, "abc", **coordinated(prefix, **PATIENT), **SMALL) as nodes:
        await begin(nodes)
        await churn(nodes)
        await nodes.until_same("a", "b", "c")
        ended_at = metadata_of(nodes, "c").end_position
        await nodes.cut_off("c")
        await churn(nodes, CHURN)
        await until_short(nodes, "ab", ended_at)
        broken: list[FailsOnce] = []

        async def fails(name: str) -> None:
            raise StorageError("a disk that fails", kind="io", retryable=True)

        begin_anew = LogOpener.begin_anew

        async def break_once(self: LogOpener, name: str, *arguments: Any) -> None:
            if not broken and name == METADATA_NAME:
                broken.append(FailsOnce(self._backend, step))
                monkeypatch.setattr(self._backend, "delete_log", broken[0])
                if is_killed:
                    monkeypatch.setattr(self, "_go_on_anew", fails)  # nothing is put right before the kill
            await begin_anew(self, name, *arguments)

        monkeypatch.setattr(LogOpener, "begin_anew", break_once)
        await nodes.start("c")
        await nodes.until(lambda: broken and broken[0].calls >= step)
        if is_killed:
            await nodes.cut_off("c")
            await nodes.start("c")
        await until_short(nodes, "abc", ended_at)
        await check_topics(nodes, "abc")
        await nodes.until_in_sync("a")


@in_virtual_time
async def test_r13_what_is_not_committed_yet_takes_the_place_of_nothing(tmp_path: Path) -> None:
    """A snapshot that no replica has is as uncertain as a topic: what it is to replace stays until it is committed."""
    keys = coordinated("short-waits", lease_ms=60_000, replica_timeout_ms=60_000)
    async with set_of_nodes(tmp_path, "abc", **keys, **SMALL) as nodes:
        await begin(nodes)
        await churn(nodes)
        begins = await until_short(nodes, "abc")
        for name in "bc":
            await nodes.cut_off(name)
        reign = nodes.node("a").reign
        assert reign is not None
        partition = reign._metadata
        assert partition is not None
        (shortener,) = [each for each in partition.watchers if isinstance(each, MetadataShortener)]
        with trio.move_on_after(0.2):
            await MetadataLog(reign.store, reign._commit_metadata).write_snapshot(
                reign.topics._state(), reign.topics._last, 1 << 20
            )
        await reign.topics._metadata.replay()  # as a reign does that begins with what the last one left
        snapshot = reign.topics.snapshot
        assert snapshot is not None
        assert snapshot.position > begins
        assert partition.committed_offset == snapshot.offset, "all but the snapshot is committed"
        await shortener._trim()
        assert partition.log.start_position == begins
