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
from test_short_metadata import CHURN, begin, churn, known_to, metadata_of

from mqcore.broker._copy import PartitionCopy
from mqcore.broker._fed_log import FedLog
from mqcore.broker._feeder import Feeder
from mqcore.broker._follower import Follower
from mqcore.broker._short_metadata import MetadataShortener
from mqcore.log import METADATA_NAME, LogStart

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


@pytest.mark.trio
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


@pytest.mark.trio
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
