"""What a node's role has: a replica's status says of its copies what its metrics say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._metrics import NodeView

FIGURES = {
    "mqcore_topics": "topics",
    "mqcore_partitions_open": "partitions_open",
    "mqcore_partitions_failed": "partitions_failed",
    "mqcore_unflushed_bytes": "unflushed_bytes",
    "mqcore_flushes_total": "flushes",
    "mqcore_flush_logs_total": "logs_flushed",
}


def figures(nodes: SetOfNodes, name: str) -> tuple[dict[str, object], dict[str, object]]:
    """What the status of a node and its metrics say, by the names of the status."""
    node = nodes.node(name)
    families = {family.metric.name: list(family.samples) for family in NodeView(node).metrics()}
    status = node.status()
    return (
        {field: status[field] for field in FIGURES.values()},
        {field: families[metric][0][1] for metric, field in FIGURES.items()},
    )


@in_virtual_time
async def test_the_status_of_a_replica_counts_the_topics_that_its_metrics_count(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="facts", flush="sync", replication="sync(copies=2, level=disk)") as nodes:
        await nodes.start()
        assert figures(nodes, "a")[0]["topics"] == 0, "it has no role yet"
        await nodes.init("a")
        async with nodes.client() as client:
            for topic in ("lines", "orders"):
                await client.admin.create_topic(topic, partitions=2)
            async with client.producer("lines") as producer:
                for number in range(4):
                    await producer.send(b"value", partition=number % 2)
        await nodes.until(lambda: figures(nodes, "b")[1]["topics"] == 2)
        for name in "ab":
            status, metrics = figures(nodes, name)
            assert (status["topics"], status["partitions_failed"]) == (2, 0)
            assert status == metrics, name
            assert status["partitions_open"], name


@in_virtual_time
async def test_r13_a_replica_of_a_new_reign_knows_topics_and_policies_though_no_record_was_written_since(
    tmp_path: Path,
) -> None:
    """All of the metadata log was committed before: nothing new of it would come to tell the node of its topics."""
    keys: dict[str, Any] = {"flush": "none", "replication": "async", "cluster": {"coordinator": "memory://facts-next"}}
    async with set_of_nodes(tmp_path, prefix="facts-next", **keys) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            config = {"replication": "sync(copies=2, level=disk)", "flush": "sync"}
            await client.admin.create_topic("orders", config=config)
            async with client.producer("orders") as producer:
                await producer.send(b"first")
            await nodes.until(lambda: figures(nodes, "b")[0]["topics"] == 1)
            await nodes.call("a", "set.switchover", to="b")
            await nodes.until_in_sync("b")
            await nodes.until(lambda: figures(nodes, "a")[0]["topics"] == 1)
            with trio.fail_after(60):  # the copy is flushed as the topic says, not as the broker does
                async with client.producer("orders") as producer:
                    await producer.send(b"second")
