"""The HTTP gateway: what it shows, what it refuses, what a peer costs at most; every metric is documented (G20)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import pytest
import trio

from mqcore.abc import BrokerView, GatewayContext, Metric, MetricFamily, Notice
from mqcore.broker import METRICS, NodeView, open_broker
from mqcore.client import GroupConsumer, connect
from mqcore.errors import ConfigurationError, TransportError
from mqcore.registry import create_gateway

pytest.importorskip("h11")

from mqcore_http._exposition import SAMPLES_PER_TURN, exposition

ROOT = Path(__file__).resolve().parents[2]
PLACE = Metric("mqcore_partition_end_offset", "gauge", "An offset.", ("topic", "partition"))
COUNTER = Metric("mqcore_flushes_total", "counter", "A count.")


@attrs.define
class View(BrokerView):
    """A broker of which everything is said here."""

    partitions: int = 2
    failed: list[str] = attrs.field(factory=list)
    why: str = ""
    broken: bool = False

    def status(self) -> Mapping[str, object]:
        return {}

    def failures(self) -> Sequence[str]:
        return self.failed

    def waits_for(self) -> str:
        return self.why

    def metrics(self) -> Iterable[MetricFamily]:
        if self.broken:
            raise RuntimeError("a defect")
        yield MetricFamily(COUNTER, [((), 7)])
        yield MetricFamily(PLACE, ((('a"\\b\n', str(n)), n * 10) for n in range(self.partitions)))


async def asked(url: str, request: bytes) -> bytes:
    """Send ``request`` and return everything that comes until the end."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
    async with stream:
        await stream.send_all(request)
        received = b""
        with trio.fail_after(20):
            async for piece in stream:
                received += piece
        return received


async def get(url: str, path: str, *lines: str, method: str = "GET") -> tuple[int, str, bytes]:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""])
    answer = await asked(url, head.encode())
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), top.decode(), body


def served(view: BrokerView, main, query: str = "", report=lambda notice: None) -> None:
    async def whole() -> None:
        gateway = create_gateway(f"http://127.0.0.1:0{query}", GatewayContext(view=view, report=report))
        async with trio.open_nursery() as nursery:
            url = await nursery.start(gateway.serve)
            await main(url)
            nursery.cancel_scope.cancel()

    trio.run(whole)


def test_metrics_are_shown_in_both_formats_with_labels_escaped() -> None:
    async def main(url: str) -> None:
        status, head, body = await get(url, "/metrics")
        assert (status, "text/plain; version=0.0.4" in head) == (200, True)
        assert body.decode() == (
            "# HELP mqcore_flushes_total A count.\n# TYPE mqcore_flushes_total counter\nmqcore_flushes_total 7\n"
            "# HELP mqcore_partition_end_offset An offset.\n# TYPE mqcore_partition_end_offset gauge\n"
            'mqcore_partition_end_offset{topic="a\\"\\\\b\\n",partition="0"} 0\n'
            'mqcore_partition_end_offset{topic="a\\"\\\\b\\n",partition="1"} 10\n'
        )
        status, head, body = await get(url, "/metrics?x", "Accept: application/openmetrics-text; version=1.0.0")
        assert "application/openmetrics-text" in head
        assert b"# TYPE mqcore_flushes counter\nmqcore_flushes_total 7\n" in body
        assert body.endswith(b"\n# EOF\n")

    served(View(), main)


def test_health_says_what_a_restart_may_mend_and_ready_says_what_is_waited_for() -> None:
    view = View()

    async def main(url: str) -> None:
        assert (await get(url, "/health"))[0] == (await get(url, "/ready"))[0] == 200
        view.failed, view.why = ["a flush failed"], "it has no role"
        status, _, body = await get(url, "/health")
        assert (status, json.loads(body)) == (503, {"healthy": False, "failures": ["a flush failed"]})
        status, _, body = await get(url, "/ready")
        assert (status, json.loads(body)) == (503, {"ready": False, "why": "it has no role"})

    served(view, main)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000, 431),
        (bytes(range(256)), 400),
    ],
)
def test_hostile_requests_are_answered_and_end_the_connection_and_nothing_else(
    request_bytes: bytes, status: int
) -> None:
    notices: list[Notice] = []

    async def main(url: str) -> None:
        assert int((await asked(url, request_bytes)).split()[1]) == status
        assert (await get(url, "/health"))[0] == 200

    served(View(), main, report=notices.append)
    assert notices == []


def test_head_has_no_body_and_a_connection_serves_one_request_after_the_other() -> None:
    async def main(url: str) -> None:
        status, head, body = await get(url, "/metrics", method="HEAD")
        assert (status, body) == (200, b"")
        assert int(re.search(r"(?i)content-length: (\d+)", head)[1]) > 100  # type: ignore[index]
        request = b"GET /ready HTTP/1.1\r\nHost: x\r\n"
        answer = await asked(url, (request + b"\r\n") * 3 + request + b"Connection: close\r\n\r\n")
        assert answer.count(b"200") == 4

    served(View(), main)


def test_g20_silent_peers_are_let_go_and_more_than_the_most_are_refused() -> None:
    async def main(url: str) -> None:
        host, port = url.removeprefix("http://").rsplit(":", 1)
        silent = [await trio.open_tcp_stream(host, int(port)) for _ in range(2)]
        for stream in silent:
            await stream.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        assert (await asked(url, b"")).startswith(b"HTTP/1.1 503")
        with trio.fail_after(20):
            for stream in silent:
                assert await stream.receive_some() == b""
                await stream.aclose()

    served(View(), main, "?connections_max=2&timeout_ms=1500")


def test_a_defect_of_one_answer_ends_its_connection_and_is_reported() -> None:
    notices: list[Notice] = []

    async def main(url: str) -> None:
        assert await asked(url, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert (await get(url, "/health"))[0] == 200

    served(View(broken=True), main, report=notices.append)
    assert [notice.kind for notice in notices] == ["gateway-failed"]


def test_g20_the_text_of_many_partitions_lets_others_run_every_few_hundred_samples() -> None:
    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            text = await exposition(View(partitions=10_000).metrics(), openmetrics=False)
            nursery.cancel_scope.cancel()
        assert text.count(b"\n") == 10_000 + 5
        assert turns >= 10_000 // SAMPLES_PER_TURN

    trio.run(main)


def test_an_address_in_use_and_one_that_is_none_are_named() -> None:
    async def main(url: str) -> None:
        gateway = create_gateway(url, GatewayContext(view=View()))
        with pytest.raises(TransportError, match=url):
            await gateway.serve()

    served(View(), main)
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        create_gateway("http://nowhere", GatewayContext(view=View()))
    with pytest.raises(ConfigurationError, match="connections_max"):
        create_gateway("http://127.0.0.1:1?connections_max=0", GatewayContext(view=View()))


def test_the_metrics_of_a_broker_follow_what_is_published_and_are_those_of_the_table() -> None:
    async def main() -> None:
        async with open_broker(storage="memory://", flush="none", listen=["inproc://metrics"]) as broker:
            view = NodeView(broker)
            async with connect("inproc://metrics") as client:
                await client.admin.create_topic("t", partitions=2)
                async with client.producer("t") as producer:
                    for number in range(5):
                        await producer.send(b"x", partition=number % 2)
                async with client.consumer("t", group="g", start="start", commit="manual") as consumer:
                    assert isinstance(consumer, GroupConsumer)
                    with trio.fail_after(60):
                        while consumer.assignment != [0, 1]:  # noqa: ASYNC110 - it is what a member sees
                            await trio.sleep(0.01)
                    await consumer.commit({0: (1, 0), 1: (2, 0)})
                    members = {family.metric.name: dict(family.samples) for family in view.metrics()}
                    assert members["mqcore_group_members"] == {("g", "t"): 1}
                families = list(view.metrics())
                assert tuple(family.metric for family in families) == METRICS
                values = {family.metric.name: dict(family.samples) for family in families}
                assert values["mqcore_connections"][()] == 1
                assert values["mqcore_primary"][()] == values["mqcore_ready"][()] == 1
                assert values["mqcore_group_lag_messages"] == {("g", "t"): 2}
                assert values["mqcore_group_members"] == {("g", "t"): 0}
                assert sorted(values["mqcore_partition_committed_offset"].items()) == [(("t", "0"), 3), (("t", "1"), 2)]
            assert view.waits_for() == ""
            assert not view.failures()
            broker.stop()
            assert "stopping" in view.waits_for()

    trio.run(main)


@pytest.mark.needs("source-tree")
def test_every_metric_is_documented_and_the_page_names_no_other() -> None:
    rows = re.findall(r"(?m)^\| `(mqcore_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", (ROOT / "docs/metrics.md").read_text())
    expected = [(each.name, each.kind, ", ".join(each.labels), each.help) for each in METRICS]
    assert [(name, kind, labels.strip(), text) for name, kind, labels, text in rows] == expected


@pytest.mark.needs("source-tree")
def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docs/examples/grafana.json").read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expression in targets for name in re.findall(r"mqcore_\w+", expression)}
    assert named <= {each.name for each in METRICS}
    assert len(named) >= 10
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    for expression in targets:
        assert expression.count("(") == expression.count(")")
        for name in re.findall(r"rate\((mqcore_\w+)", expression):
            assert name.endswith(("_total", "_offset", "_bytes"))


def test_a_broker_whose_configuration_has_an_address_shows_itself_there_for_as_long_as_it_runs() -> None:
    async def main() -> None:
        async with open_broker(storage="memory://", http="127.0.0.1:0") as broker:
            request = b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert (await asked(broker.http_url, request)).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError):
            await asked(broker.http_url, b"")
        async with open_broker(storage="memory://") as broker:
            assert not broker.http_url

    trio.run(main)


def test_an_address_that_is_taken_ends_the_broker_that_wanted_it() -> None:
    async def main() -> None:
        async with open_broker(storage="memory://", http="127.0.0.1:0") as broker:
            taken = broker.http_url.removeprefix("http://")
            with pytest.raises(TransportError, match=taken):
                async with open_broker(storage="memory://", http=taken):
                    raise AssertionError("it runs without what it was told to show")

    trio.run(main)
