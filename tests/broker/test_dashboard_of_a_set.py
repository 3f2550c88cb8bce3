"""The dashboard, held against what three nodes of a set serve: metrics and labels that there are, each message once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from sets import SetOfNodes, set_of_nodes

from mqcore.abc import GatewayContext
from mqcore.broker import NodeView
from mqcore.registry import create_gateway

pytest.importorskip("h11")

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "examples" / "grafana.json"
SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
OF_PROMETHEUS = frozenset({"job", "instance"})
"""Labels that the one who asks adds to everything."""
SAMPLE = re.compile(r"(?m)^(\w+)(?:\{(.*)\})? (\S+)$")
PAIR = re.compile(r'(\w+)="([^"]*)"')
REIGNS_HERE = " and on (job, instance) mqcore_primary == 1)"

Served = dict[str, list[tuple[dict[str, str], float]]]
"""Samples by the name of their metric: labels and value."""


@attrs.frozen
class Query:
    """One expression of the dashboard, and what its legend names."""

    panel: str
    expression: str
    legend: frozenset[str]

    @property
    def metrics(self) -> set[str]:
        return set(re.findall(r"mqcore_\w+", self.expression))

    @property
    def grouping(self) -> frozenset[str] | None:
        """Labels that a sum keeps; None for an expression that adds nothing up."""
        found = re.search(r"\bby \(([^)]*)\)", self.expression)
        return None if found is None else frozenset(found[1].split(", "))

    @property
    def labels(self) -> set[str]:
        """Every label that the expression names."""
        lists = re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", self.expression)
        return {*re.findall(r'(\w+)=~?"', self.expression), *(each for text in lists for each in text.split(", "))}


def queries() -> Iterator[Query]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            legend = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            yield Query(panel["title"], target["expr"], legend)


async def served_by(nodes: SetOfNodes, name: str) -> Served:
    """What a scrape of node ``name`` would take."""
    async with trio.open_nursery() as nursery:
        gateway = create_gateway("http://127.0.0.1:0", GatewayContext(view=NodeView(nodes.node(name))))
        url = await nursery.start(gateway.serve)
        host, port = url.removeprefix("http://").rsplit(":", 1)
        received = b""
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            async for piece in stream:
                received += piece
        nursery.cancel_scope.cancel()
    samples: Served = {}
    for metric, labels, value in SAMPLE.findall(received.partition(b"\r\n\r\n")[2].decode()):
        samples.setdefault(metric, []).append((dict(PAIR.findall(labels)), float(value)))
    return samples


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """Scrapes of a, the primary, and of b and c, which hold 6 messages of "orders", 2 of which group "g" committed."""
    taken: dict[str, Served] = {}

    async def main() -> None:
        async with set_of_nodes(tmp_path_factory.mktemp("set"), "abc", prefix="dashboard", **SYNC) as nodes:
            await nodes.start()
            await nodes.init("a")
            await nodes.until_in_sync("a")
            async with nodes.client() as client:
                await client.admin.create_topic("orders", partitions=2)
                async with client.producer("orders") as producer:
                    for number in range(6):
                        await producer.send(b"value", partition=number % 2)
                async with client.consumer("orders", group="g", start="start", commit="manual") as consumer:
                    await nodes.until(lambda: consumer.assignment == [0, 1], 60)
                    await consumer.commit({0: (1, 0), 1: (1, 0)})
                    await nodes.until_same("a", "b", "c")
                    for name in "abc":
                        taken[name] = await served_by(nodes, name)

    trio.run(main)
    return taken


@pytest.mark.needs("source-tree")
@pytest.mark.parametrize("query", list(queries()) if DASHBOARD.exists() else [], ids=lambda query: query.panel)
def test_every_metric_and_label_that_the_dashboard_names_is_served(query: Query, scrapes: dict[str, Served]) -> None:
    primary = scrapes["a"]
    assert query.metrics <= set(primary)
    labels = {name: set(primary[name][0][0]) | OF_PROMETHEUS for name in query.metrics}
    assert query.labels <= set().union(*labels.values())
    if query.grouping is None:
        assert all(query.legend <= names for names in labels.values())
    else:
        added_up = {name: names for name, names in labels.items() if name != "mqcore_primary"}
        assert all(query.grouping <= names for names in added_up.values())
        assert query.legend == query.grouping


@pytest.mark.needs("source-tree")
def test_what_every_copy_of_a_partition_reports_is_added_up_over_its_primary_alone(scrapes: dict[str, Served]) -> None:
    reported_by_all = {name for name in scrapes["a"] if all(name in scrapes[node] for node in "bc")}
    sums = [query for query in queries() if query.grouping is not None and "instance" not in query.grouping]
    over_copies = [query for query in sums if query.metrics & reported_by_all]
    assert len(over_copies) >= 3
    for query in over_copies:
        assert query.expression.endswith(REIGNS_HERE)
    assert [scrapes[node]["mqcore_primary"] for node in "abc"] == [[({}, 1)], [({}, 0)], [({}, 0)]]


def test_a_replica_reports_the_partitions_of_topics_and_no_log_of_the_set_itself(scrapes: dict[str, Served]) -> None:
    expected = [({"topic": "orders", "partition": "0"}, 3), ({"topic": "orders", "partition": "1"}, 3)]
    for node in "abc":
        ends = scrapes[node]["mqcore_partition_end_offset"]
        assert sorted(ends, key=lambda sample: sample[0]["partition"]) == expected, node
        assert scrapes[node]["mqcore_partitions_open"] == [({}, 2)], node
    assert scrapes["a"]["mqcore_group_lag_messages"] == [({"group": "g", "topic": "orders"}, 4)]
