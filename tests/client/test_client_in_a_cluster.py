"""One client, the nodes of a cluster: found from any of them, gone on without one, read as the consumer prefers.

Real brokers on a model network. ``topic.resolve`` is made to answer with the sets of the test, and a test makes a node
say that it does not reign, as a replica does: then everything goes on elsewhere by itself.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

import mqcore
from mqcore.broker import Node
from mqcore.broker._connection import ClientConnection
from mqcore.broker._topics import Topics
from mqcore.client import Client
from mqcore.errors import ConfigurationError
from mqcore.protocol import Code, Fetch, Ping
from mqcore.testing import ModelNetwork, model_ports, run_simulation, seeded

URLS = {name: f"tcp://10.0.0.{number}:7400" for number, name in enumerate("abc", 1)}
OPTIONS = {"connect_timeout_ms": 9_000}


class Cluster:
    """Three brokers as the nodes of one set, or of the sets that a test names; who reigns is the test's word."""

    def __init__(self) -> None:
        self.network = ModelNetwork(seeded(1, "network"), latency_s=0.001)
        self.sets: dict[str, str] = {"set": "abc"}
        self.primaries: dict[str, str] = {}
        """Said by ``topic.resolve`` and by ``not-primary``, by set."""
        self.owners: dict[int, str] = {0: "set", 1: "set"}
        self.reigning: set[str] = set("abc")
        self.asked: Counter[str] = Counter()
        self.fetches: list[tuple[str, bool]] = []
        self.answering: set[str] = set()

    def resolved(self, value: dict[str, Any]) -> dict[str, Any]:
        """What ``topic.resolve`` answers of the sets."""
        names = list(self.sets)
        sets = [
            {
                "name": name,
                "nodes": [{"name": node, "urls": [URLS[node]]} for node in self.sets[name]],
                "primary": self.primaries.get(name, ""),
            }
            for name in names
        ]
        return {**value, "sets": sets, "owners": [names.index(self.owners[number]) for number in sorted(self.owners)]}

    def refuses(self, connection: ClientConnection, message: Any) -> bool:
        """Answer as a node that does not reign, if it does not."""
        node = connection._node.config.name
        self.asked[node] += 1
        if isinstance(message, Fetch):
            self.fetches.append((node, message.from_replica))
            if message.from_replica and node in self.answering:
                return False
        if node in self.reigning:
            return False
        primary = self.primaries.get(self.owners[message.partition])
        facts: Mapping[str, object] = {} if primary is None else {"urls": [URLS[primary]]}
        connection.outbox.failed(message.request_id, Code.NOT_PRIMARY, "it does not reign", facts)
        return True

    def fail(self, node: str) -> None:
        """Have a machine be gone without a word: no reset, nothing is answered."""
        self.network.cut(node)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Nodes whose topics have ids in common."""
    made = Cluster()
    monkeypatch.setattr(Topics, "_random", property(lambda _: random.Random(7), lambda _, value: None), raising=False)
    for name in ("_take_produce", "_take_fetch"):
        original = getattr(ClientConnection, name)

        def taken(self: Any, partition: Any, message: Any, original: Any = original) -> None:
            if not made.refuses(self, message):
                original(self, partition, message)

        monkeypatch.setattr(ClientConnection, name, taken)
    call = Node.call

    async def answered(self: Node, operation: str, arguments: Mapping[str, Any], permit: object) -> object:
        value = await call(self, operation, arguments)
        return made.resolved(value) if operation == "topic.resolve" and isinstance(value, dict) else value

    monkeypatch.setattr(Node, "call", answered)
    return made


def play(cluster: Cluster, story: Callable[[Client], Awaitable[None]], *named: str) -> None:
    """Run ``story`` with a client that was told of the nodes ``named``."""

    async def main() -> None:
        with cluster.network.installed():
            async with AsyncExitStack() as stack:
                for number, (name, url) in enumerate(URLS.items()):
                    with cluster.network.host(name):
                        await stack.enter_async_context(
                            mqcore.open_broker(
                                name=name,
                                storage="memory://",
                                listen=[url],
                                insecure=True,
                                flush="none",
                                topics={"t": {"partitions": 2}},
                                ports=model_ports(number + 1),
                            )
                        )
                urls = [URLS[name] for name in named]
                async with mqcore.connect(*urls, ports=model_ports(9), **OPTIONS) as client:
                    await story(client)

    run_simulation(main, seed=1, seconds_max=600)


def test_r13_owners_of_several_sets_are_learnt_from_any_node_and_gone_to_at_once(cluster: Cluster) -> None:
    cluster.sets, cluster.owners = {"one": "ab", "two": "c"}, {0: "one", 1: "two"}
    cluster.primaries = {"one": "b", "two": "c"}
    cluster.reigning = {"b", "c"}

    async def story(client: Client) -> None:
        async with client.producer("t", batch_messages=1) as producer, client.consumer("t", start="start") as consumer:
            for partition in (0, 1):
                await producer.send(b"x", partition=partition)
            assert {(await anext(consumer)).partition for _ in range(2)} == {0, 1}
        assert cluster.asked["a"] == 0, "the node that was named owns nothing"
        assert set(cluster.asked) == {"b", "c"}

    play(cluster, story, "a")


def test_not_primary_without_a_url_asks_the_other_nodes_of_the_set_until_one_reigns(cluster: Cluster) -> None:
    cluster.reigning = set()

    async def story(client: Client) -> None:
        async with client.producer("t") as producer, client.consumer("t", start="start") as consumer:
            delivery = producer.post(b"x", partition=0)
            await trio.sleep(10)
            assert not delivery.is_done
            assert {name for name, count in cluster.asked.items() if count} == set("abc")
            assert sum(cluster.asked.values()) < 60, "ever more slowly"
            cluster.reigning = {"c"}
            with trio.fail_after(5):
                await delivery.wait()
                assert (await anext(consumer)).value == b"x"

    play(cluster, story, "a")


def test_batches_that_come_back_together_ask_one_more_node_and_not_one_each(cluster: Cluster) -> None:
    cluster.reigning = {"c"}

    async def story(client: Client) -> None:
        async with client.producer("t", batch_messages=1) as producer:
            deliveries = [producer.post(b"%d" % number, partition=0) for number in range(16)]
            receipts = [await delivery.wait() for delivery in deliveries]
        assert [receipt.offset for receipt in receipts] == list(range(16))
        assert cluster.asked["b"] <= 16, "the batches went there once"

    play(cluster, story, "a")


@pytest.mark.parametrize("named", ["a", "ab"])
def test_g13_a_node_that_is_gone_without_a_word_is_left_within_seconds_by_all_who_wait_there(
    cluster: Cluster, named: str
) -> None:
    cluster.primaries, cluster.reigning = {"set": "a"}, {"a"}

    async def story(client: Client) -> None:
        async with client.producer("t") as producer, client.consumer("t", [0], start="start") as consumer:
            await producer.send(b"before", partition=0)
            assert (await anext(consumer)).value == b"before"
            await consumer.seek(0)
            cluster.fail("a")
            cluster.primaries, cluster.reigning = {"set": "b"}, {"b"}
            began = trio.current_time()
            receipt = await producer.send(b"after", partition=0)
            assert receipt.offset == 0  # b is another log: what went there is what was sent after
            assert (await anext(consumer)).value == b"after"
            assert trio.current_time() - began < 10
            assert (await client.admin.status()).name == "b"

    play(cluster, story, *named)


def test_g13_a_node_that_lives_and_holds_a_send_back_is_not_left(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As synchronous replication does while a copy is missing: nothing that comes behind it is answered either."""
    held: list[Callable[[], None]] = []
    take, other = ClientConnection._take_produce, ClientConnection._take_other
    is_holding = True

    def taken(self: Any, partition: Any, message: Any) -> None:
        if is_holding:
            held.append(lambda: take(self, partition, message))
        else:
            take(self, partition, message)

    async def silent(self: Any, message: Any) -> bool:
        return True if is_holding and isinstance(message, Ping) else await other(self, message)

    monkeypatch.setattr(ClientConnection, "_take_produce", taken)
    monkeypatch.setattr(ClientConnection, "_take_other", silent)
    cluster.primaries, cluster.reigning = {"set": "a"}, {"a"}

    async def story(client: Client) -> None:
        nonlocal is_holding
        async with client.producer("t", batch_messages=1) as producer:
            stream = client._router.owner_of(producer._topic_id, 0).stream
            delivery = producer.post(b"x", partition=0)
            await trio.sleep(20)
            assert client._router.owner_of(producer._topic_id, 0).stream is stream
            assert len(held) == 1, "it was sent once"
            is_holding = False
            held.pop()()
            producer.post(b"y", partition=0)  # what comes in has the broker append what it holds
            await delivery.wait()

    play(cluster, story, "a")


def test_a_lone_server_is_given_its_time(cluster: Cluster) -> None:
    """A pause of some seconds, as a full disk makes one, is no reason to break the only connection there is."""
    cluster.sets = {}
    cluster.owners = {}

    async def story(client: Client) -> None:
        async with client.producer("t") as producer:
            stream = client._router.home.stream
            cluster.network.cut("a")
            delivery = producer.post(b"x", partition=0)
            await trio.sleep(5)
            cluster.network.heal()
            await delivery.wait()
            assert client._router.home.stream is stream

    play(cluster, story, "a")


@pytest.fixture
def replicas(cluster: Cluster) -> Cluster:
    """b reigns; a and c answer readers that take a replica."""
    cluster.primaries, cluster.reigning, cluster.answering = {"set": "b"}, {"b"}, {"a", "c"}
    return cluster


def test_g19_any_node_is_read_and_by_default_the_primary_only(replicas: Cluster) -> None:
    async def story(client: Client) -> None:
        for read_from, wanted in (("primary", {("b", False)}), ("any", {(name, True) for name in "abc"})):
            replicas.fetches.clear()
            for _ in range(20):
                async with client.consumer("t", [0], start=0, read_from=read_from) as consumer:
                    with trio.move_on_after(0.1):
                        await anext(consumer)
            assert set(replicas.fetches) == wanted

    play(replicas, story, "a")


def test_g19_a_replica_is_read_only_while_there_is_no_primary(replicas: Cluster) -> None:
    async def story(client: Client) -> None:
        options = {"read_from": "replica-when-primary-is-gone", "refresh_ms": 1_000}
        async with client.consumer("t", [0], start=0, **options) as consumer:  # type: ignore[arg-type]
            await read_for(consumer, 2)
            assert set(replicas.fetches) == {("b", False)}
            replicas.fail("b")
            replicas.primaries, replicas.reigning = {}, set()
            await read_for(consumer, 10)
            assert replicas.fetches[-1] in {("a", True), ("c", True)}
            new = "a" if replicas.fetches[-1][0] == "c" else "c"
            replicas.primaries, replicas.reigning = {"set": new}, {new}
            await read_for(consumer, 10)
            assert replicas.fetches[-1] == (new, False)

    play(replicas, story, "a")


async def read_for(consumer: Any, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await anext(consumer)
        raise AssertionError("there is nothing to read")


def test_g18_a_preference_that_there_is_not_is_refused(cluster: Cluster) -> None:
    async def story(client: Client) -> None:
        with pytest.raises(ConfigurationError, match="primary, any, replica-when-primary-is-gone"):
            async with client.consumer("t", read_from="nearest"):
                raise AssertionError("it reads")

    play(cluster, story, "a")
