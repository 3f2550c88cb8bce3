"""A metadata log that was made short, and then parts from that of a reign that knows nothing of it (R5, R13, R15).

By hand, with topics that wait for no replica, the primary commits alone: what it made short may be lost to a promotion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from test_elected_set import coordinated
from test_short_metadata import (
    CHURN,
    PATIENT,
    SMALL,
    begin,
    check_topics,
    churn,
    known_to,
    metadata_of,
    until_short,
)
from virtual_time import in_virtual_time

from mqcore.broker._copy import PartitionCopy
from mqcore.broker._fed_log import FedLog
from mqcore.broker._feeder import Feeder
from mqcore.broker._follower import Follower
from mqcore.broker._short_metadata import MetadataShortener
from mqcore.errors import StorageError
from mqcore.log import METADATA_NAME, LogStart
from mqcore.log._opening import LogOpener

LONG: dict[str, Any] = {"flush": "sync", "replication": "async"}


async def short_on_a_alone(nodes: SetOfNodes) -> set[bytes]:
    """Have a make its log short alone, and b promoted, whose log was never made short; return what only a knew."""
    await begin(nodes)
    async with nodes.client("a") as client:
        await client.admin.create_topic("everywhere")
        async with client.producer("everywhere") as producer:
            await producer.send(b"value")
    await nodes.until_same("a", "b", "c")
    assert metadata_of(nodes, "b").start_position == 0
    for name in "bc":
        await nodes.cut_off(name)
    everywhere = set(known_to(nodes, "a"))
    reign = nodes.node("a").reign
    assert reign is not None
    reign.limits = attrs.evolve(reign.limits, metadata_log_bytes_max=1)
    ended_at = metadata_of(nodes, "a").end_position
    await churn(nodes)
    await nodes.until(lambda: metadata_of(nodes, "a").start_position > ended_at)
    only_a = set(known_to(nodes, "a")) - everywhere
    async with nodes.client("a") as client:
        for topic_id in only_a:
            async with client.producer(known_to(nodes, "a")[topic_id].name) as producer:
                await producer.send(b"value")
    await nodes.cut_off("a")
    await nodes.start("b", "c")
    await nodes.call("b", "set.promote", old_primary_is_stopped=True)
    await nodes.until(lambda: nodes.node("b").reign is not None)
    assert metadata_of(nodes, "b").start_position == 0
    return only_a


def same_metadata(nodes: SetOfNodes) -> bool:
    logs = [metadata_of(nodes, name) for name in "abc"]
    return len({(log.start_position, log.end_position, log.last_batch) for log in logs}) == 1


@in_virtual_time
@pytest.mark.parametrize("is_killed", [False, True])
async def test_r15_a_log_that_was_made_short_gives_way_to_one_that_never_was_and_begins_at_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    """Killed before anything of it has come: partitions beside an empty metadata log were damage to the next start."""
    async with set_of_nodes(tmp_path, "abc", prefix=f"parted{is_killed}", **LONG) as nodes:
        only_a = await short_on_a_alone(nodes)
        is_anew = trio.Event()
        begin_anew = Follower._begin_anew

        async def stop_there(self: Follower, copy: PartitionCopy, position: int, told: LogStart) -> PartitionCopy:
            try:
                return await begin_anew(self, copy, position, told)
            finally:
                if copy.log.name == METADATA_NAME and is_killed:
                    is_anew.set()
                    await trio.sleep_forever()

        with monkeypatch.context() as patched:
            patched.setattr(Follower, "_begin_anew", stop_there)
            await nodes.start("a")
            if is_killed:
                with trio.fail_after(20):
                    await is_anew.wait()
                await nodes.cut_off("a")
        if is_killed:
            await nodes.start("a")
        await nodes.until(lambda: same_metadata(nodes))
        assert metadata_of(nodes, "a").start_position == 0
        assert known_to(nodes, "b")
        await nodes.until(lambda: known_to(nodes, "a") == known_to(nodes, "b"))
        assert not only_a & set(known_to(nodes, "a"))
        store = nodes.node("a").store
        assert [each for each in await store.backend.list_logs() if each.startswith("metadata.quarantine-")]
        # What the other history knew is kept: it may be all that is left of it (R13).
        assert {each.partition("-")[0] for each in await store.list_logs()} >= {each.hex() for each in only_a}
        async with nodes.client("b") as client:
            await client.admin.create_topic("later")
        await nodes.until(lambda: same_metadata(nodes))
        await nodes.until(lambda: known_to(nodes, "a") == known_to(nodes, "b"))


@pytest.mark.trio  # what is made without a flush takes no virtual time
@pytest.mark.parametrize("is_stuck", [False, True])
async def test_r15_a_replica_that_is_a_little_behind_is_waited_for_however_long_it_follows_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_stuck: bool
) -> None:
    """A snapshot is committed here before a replica has it: it would begin its copy anew each time, and join again."""
    add_data, now = Feeder._add_data, trio.current_time
    held_back: set[str] = set()

    async def send_some(self: Feeder, fed: FedLog, *arguments: Any) -> int:
        return 0 if self.name in held_back else await add_data(self, fed, *arguments)

    monkeypatch.setattr(Feeder, "_add_data", send_some)
    async with set_of_nodes(tmp_path, "abc", prefix=f"behind{is_stuck}", **LONG) as nodes:
        await begin(nodes)
        await nodes.until_same("a", "b", "c")
        reign = nodes.node("a").reign
        assert reign is not None
        assert reign.set is not None
        for feeder in reign.set._feeders.values():
            feeder.began_at = -1e9
        incarnation, ended_at = nodes.node("c").store.incarnation, metadata_of(nodes, "c").end_position
        held_back.add("c")
        reign.limits = attrs.evolve(reign.limits, metadata_log_bytes_max=1)
        await churn(nodes)
        await nodes.until(lambda: reign.topics.snapshot is not None)
        assert reign._metadata is not None
        (shortener,) = [each for each in reign._metadata.watchers if isinstance(each, MetadataShortener)]
        await shortener._trim()
        assert metadata_of(nodes, "a").start_position <= ended_at
        if is_stuck:
            await churn(nodes, CHURN)
            monkeypatch.setattr(trio, "current_time", lambda: now() + 601)
            await shortener._trim()
            assert metadata_of(nodes, "a").start_position > ended_at, "it is not waited for from each snapshot anew"
            return
        held_back.clear()
        for feeder in reign.set._feeders.values():
            feeder.moved(reign._metadata)
        await nodes.until(lambda: metadata_of(nodes, "c").start_position > ended_at)
        assert nodes.node("c").store.incarnation == incarnation
        assert "copy-begun-anew" not in nodes.kinds("c")


@in_virtual_time
async def test_r15_a_beginning_anew_that_fails_again_and_again_goes_on_once_the_disk_works_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What there was is given up then, and what is to take its place cannot be opened yet."""
    async with set_of_nodes(tmp_path, "abc", **coordinated("fails-on", **PATIENT), **SMALL) as nodes:
        await begin(nodes)
        await churn(nodes)
        await nodes.until_same("a", "b", "c")
        ended_at = metadata_of(nodes, "c").end_position
        await nodes.cut_off("c")
        await churn(nodes, CHURN)
        await until_short(nodes, "ab", ended_at)
        tried: list[str] = []
        remove = LogOpener._remove

        async def fails(self: LogOpener, *names: str) -> None:
            if names[0].startswith(METADATA_NAME) and len(tried) < 5:
                tried.append(names[0])
                raise StorageError("a disk that fails", kind="io", retryable=True)
            await remove(self, *names)

        monkeypatch.setattr(LogOpener, "_remove", fails)
        await nodes.start("c")
        try:
            await nodes.until(lambda: len(tried) == 5)
        finally:
            print(tried, [(x.kind, x.text) for n, x in nodes.notices if n == "c"][-9:])
        await until_short(nodes, "abc", ended_at)
        await check_topics(nodes, "abc")
        await nodes.until_in_sync("a")


@in_virtual_time
async def test_r5_a_log_that_meets_in_nothing_with_one_that_was_begun_anew_is_never_left_empty_beside_its_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that reigns has no history below its start: what a has is cut from 0 on, and a dies just then."""
    async with set_of_nodes(tmp_path, "abc", prefix="meets-nothing", **LONG) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("everywhere")
            async with client.producer("everywhere") as producer:
                await producer.send(b"value")
        await nodes.until_same("a", "b", "c")
        for name in "bc":
            await nodes.cut_off(name)
        await churn(nodes, 0)
        await churn(nodes, CHURN)
        ends_at = metadata_of(nodes, "a").end_position
        await nodes.cut_off("a")
        nodes.keys["limits"] = SMALL["limits"]
        await nodes.start("b")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True, unclean=True)
        await nodes.until(lambda: nodes.node("b").reign is not None)
        async with nodes.client("b") as client:
            for number in range(4):
                await client.admin.create_topic(f"short-{number}")
        nodes.keys["limits"] = {}
        await nodes.start("c")
        await nodes.until(lambda: "copy-begun-anew" in nodes.kinds("c") and bool(known_to(nodes, "c")))
        await nodes.cut_off("b")
        await nodes.call("c", "set.promote", old_primary_is_stopped=True, unclean=True)
        await nodes.until(lambda: nodes.node("c").reign is not None)
        assert 0 < metadata_of(nodes, "c").start_position < ends_at
        is_given_up = trio.Event()
        part_at, begin_anew = PartitionCopy.part_at, Follower._begin_anew

        async def stop_parted(self: PartitionCopy, position: int) -> str | None:
            name = await part_at(self, position)
            if self.log.name == METADATA_NAME:
                is_given_up.set()
                await trio.sleep_forever()
            return name

        async def stop_anew(self: Follower, copy: PartitionCopy, *arguments: Any) -> PartitionCopy:
            try:
                return await begin_anew(self, copy, *arguments)
            finally:
                if copy.log.name == METADATA_NAME:
                    is_given_up.set()
                    await trio.sleep_forever()

        with monkeypatch.context() as patched:
            patched.setattr(PartitionCopy, "part_at", stop_parted)
            patched.setattr(Follower, "_begin_anew", stop_anew)
            await nodes.start("a")
            with trio.fail_after(20):
                await is_given_up.wait()
            await nodes.cut_off("a")
        await nodes.start("a", "b")
        await nodes.until(lambda: same_metadata(nodes))
        await nodes.until(lambda: known_to(nodes, "a") == known_to(nodes, "c"))
