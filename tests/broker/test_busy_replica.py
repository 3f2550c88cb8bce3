"""A node that is busy with what it was told is not silent, on either side of a replica's stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._follower import Follower

HEARTBEAT_MS = 100


@in_virtual_time
async def test_a_replica_that_makes_a_log_for_long_is_followed_on_and_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is told of ten thousand logs at once: the answers to its questions wait behind them."""
    opens, is_made = Follower._open_copy, trio.Event()

    async def open_copy(self: Follower, topic_id: bytes, index: int) -> Any:
        if topic_id != bytes(16):
            await is_made.wait()
        return await opens(self, topic_id, index)

    monkeypatch.setattr(Follower, "_open_copy", open_copy)
    times = {"heartbeat_ms": HEARTBEAT_MS, "replica_timeout_ms": 2_000}
    keys = {"flush": "sync", "replication": "async"}
    async with set_of_nodes(tmp_path, prefix="busy", cluster=times, **keys) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        reign = nodes.node("a").reign
        assert reign is not None
        assert reign.set is not None
        feeders = reign.set._feeders
        await nodes.until(lambda: feeders)
        nodes.notices.clear()
        (feeder,) = feeders.values()
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            began = trio.current_time()
            # Long after what either end takes for silence, and it has been heard of all the time.
            await nodes.until(lambda: feeder.heard_at > began + 10 * HEARTBEAT_MS / 1000)
            is_made.set()
            async with client.producer("orders") as producer:
                await producer.send(b"value")
        await nodes.until(lambda: len(nodes.node("b").store._logs) == 2)
        (same,) = reign.set._feeders.values()
        assert same is feeder
        assert not {"follower-silent", "following-interrupted", "replica-left"} & {*nodes.kinds("a"), *nodes.kinds("b")}
