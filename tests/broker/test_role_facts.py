"""What a node's role has: a replica's status says of its copies what its metrics say."""

from __future__ import annotations

from pathlib import Path

import pytest
from sets import SetOfNodes, set_of_nodes

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


@pytest.mark.trio
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
