"""One client, several servers: redirected partitions, a home that dies, addresses of one server (architecture 3a).

Two real brokers on a model network. A test makes one of them answer that it does not own a partition, as replication
will: then the queue goes on at the other with its sequences, and readers read there. Topics have the same id on both,
as members of one set do.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

import mqcore
from mqcore.broker._connection import ClientConnection
from mqcore.broker._topics import Topics
from mqcore.client import Client
from mqcore.client._router import Router
from mqcore.errors import BrokenLinkError, MqcoreError, NotReachedError, RejectedError
from mqcore.protocol import Code
from mqcore.testing import ModelDisk, ModelNetwork, model_ports, run_simulation, seeded

A, B, SAME_AS_A = "tcp://10.0.0.1:7400", "tcp://10.0.0.2:7400", "tcp://10.0.0.1:7401"
OPTIONS = {"connect_timeout_ms": 5_000, "keepalive_ms": 2_000}


class Servers:
    """Two brokers, and which partitions they say belong to another server."""

    def __init__(self) -> None:
        self.network = ModelNetwork(seeded(1, "network"), latency_s=0.001)
        self.owners: dict[tuple[str, int], str] = {}
        self.nowhere: list[str] = []
        self.refused: Counter[str] = Counter()

    def refuses(self, connection: ClientConnection, message: Any) -> bool:
        """Answer that the partition is another server's, if it is."""
        url = connection._node.urls[0]
        owner = self.owners.get((url, message.partition))
        if owner is None:
            return False
        self.refused[url] += 1
        facts = {"urls": [*self.nowhere, owner], "epoch": 1}
        connection.outbox.failed(message.request_id, Code.NOT_PRIMARY, "it is another server's", facts)
        return True


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    """Servers whose topics have ids in common, and that may say ``not-primary``."""
    both = Servers()
    monkeypatch.setattr(Topics, "_random", property(lambda _: random.Random(7), lambda _, value: None), raising=False)
    for name in ("_take_produce", "_take_fetch"):
        original = getattr(ClientConnection, name)

        def taken(self: Any, partition: Any, message: Any, original: Any = original) -> None:
            if not both.refuses(self, message):
                original(self, partition, message)

        monkeypatch.setattr(ClientConnection, name, taken)
    return both


async def open_servers(servers: Servers, stack: AsyncExitStack, *names: str) -> None:
    """Run brokers for the rest of ``stack``, each with a topic ``t`` of two partitions."""
    for number, name in enumerate(names):
        url = {"a": A, "b": B}[name]
        listen = [url, SAME_AS_A] if name == "a" else [url]
        with servers.network.host(name):
            await stack.enter_async_context(
                mqcore.open_broker(
                    storage="memory://",
                    listen=listen,
                    insecure=True,
                    flush="none",
                    topics={"t": {"partitions": 2}},
                    ports=model_ports(number + 1),
                )
            )


def play(servers: Servers, story: Callable[[Client], Awaitable[None]], *urls: str, running: str = "ab") -> None:
    async def main() -> None:
        with servers.network.installed():
            async with AsyncExitStack() as stack:
                await open_servers(servers, stack, *running)
                async with mqcore.connect(*urls, ports=model_ports(9), **OPTIONS) as client:
                    await story(client)

    run_simulation(main, seed=1, seconds_max=600)


async def stored(url: str, partition: int) -> list[bytes]:
    """What one broker has of a partition."""
    async with mqcore.connect(url, ports=model_ports(8)) as client:
        end, _ = await client.admin.look_up_offset("t", partition, "end")
        values: list[bytes] = []
        async with client.consumer("t", [partition], start="start") as consumer:
            while len(values) < end:
                values += (await consumer.next_batch()).values
        return values


def test_g15_a_queue_goes_on_at_the_owner_with_its_sequences_and_in_its_order(servers: Servers) -> None:
    servers.owners[A, 1] = B
    values = [b"%d" % number for number in range(50)]

    async def story(client: Client) -> None:
        async with client.producer("t", batch_messages=1) as producer:
            deliveries = [producer.post(value, partition=number % 2) for number, value in enumerate(values)]
            receipts = [await delivery.wait() for delivery in deliveries]
            assert not producer.losses
        assert not any(receipt.duplicate for receipt in receipts)
        nodes = {receipt.partition: receipt.nodes for receipt in receipts}
        assert nodes[0] != nodes[1], "a receipt names the node that holds the copy"
        del servers.owners[A, 1]
        assert [await stored(A, 0), await stored(B, 1)] == [values[0::2], values[1::2]]
        assert await stored(A, 1) == await stored(B, 0) == []
        # Whatever was in flight when the first refusal came was refused too; nothing was after it.
        assert servers.refused[A] <= 16

    play(servers, story, A)


def test_a_consumer_reads_every_partition_where_it_is_owned_also_while_one_of_them_is_busy(servers: Servers) -> None:
    servers.owners[A, 1] = B

    async def story(client: Client) -> None:
        async with client.producer("t", batch_messages=1) as producer, client.consumer("t", start="start") as consumer:
            seen: list[bytes] = []

            async def read() -> None:
                async for message in consumer:
                    seen.append(message.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for number in range(100):
                    await producer.send(b"%d" % number, partition=0 if number % 10 else 1)
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            assert sorted(map(int, seen)) == list(range(100))
            assert consumer.positions.keys() == {0, 1}

    play(servers, story, A)


def test_servers_that_name_each_other_are_asked_ever_more_slowly_until_one_owns_it(servers: Servers) -> None:
    servers.owners[A, 1], servers.owners[B, 1] = B, A

    async def story(client: Client) -> None:
        async with client.producer("t") as producer:
            delivery = producer.post(b"x", partition=1)
            await trio.sleep(10)
            assert not delivery.is_done
            assert sum(servers.refused.values()) < 40
            del servers.owners[B, 1]
            await delivery.wait()
        assert await stored(B, 1) == [b"x"]

    play(servers, story, A)


def test_an_owner_that_is_not_there_is_asked_for_at_home_again(servers: Servers) -> None:
    servers.owners[A, 1] = B

    async def story(client: Client) -> None:
        async with client.producer("t") as producer, client.consumer("t", start="start") as consumer:
            delivery = producer.post(b"x", partition=1)
            with trio.move_on_after(5):
                await anext(consumer)
            assert not delivery.is_done
            del servers.owners[A, 1]
            await delivery.wait()
            assert (await anext(consumer)).value == b"x"

    play(servers, story, A, running="a")


def test_a_redirection_to_the_same_server_by_another_address_makes_no_second_session(servers: Servers) -> None:
    servers.owners[A, 1] = SAME_AS_A

    async def story(client: Client) -> None:
        async with client.producer("t") as producer:
            delivery = producer.post(b"x", partition=1)
            await trio.sleep(3)
            assert {session.url for session in client._router._sessions.values()} == {A}
            assert not delivery.is_done
            del servers.owners[A, 1]
            await delivery.wait()
        assert await stored(A, 1) == [b"x"]

    play(servers, story, A, running="a")


def test_of_several_addresses_of_the_owner_those_that_lead_nowhere_are_passed_over(servers: Servers) -> None:
    servers.owners[A, 1], servers.nowhere = B, ["tcp://10.9.9.9:1", "tcp://10.9.9.8:1"]

    async def story(client: Client) -> None:
        async with client.producer("t") as producer:
            await producer.send(b"x", partition=1)
        assert await stored(B, 1) == [b"x"]

    play(servers, story, A)


def test_a_server_named_by_a_url_of_no_use_is_passed_over(servers: Servers) -> None:
    servers.owners[A, 1] = "carrier-pigeon://coop"

    async def story(client: Client) -> None:
        async with client.producer("t") as producer:
            delivery = producer.post(b"x", partition=1)
            await trio.sleep(2)
            del servers.owners[A, 1]
            await delivery.wait()

    play(servers, story, A, running="a")


def test_the_first_server_that_answers_is_used_and_when_it_dies_the_next(servers: Servers) -> None:
    """The second is started from the disk of the first, as the one that takes over has its log."""
    disk = ModelDisk(seeded(1, "disk"))

    async def life(name: str, url: str, disk: ModelDisk, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with contextlib.suppress(MqcoreError, ExceptionGroup), servers.network.host(name), trio.CancelScope() as scope:
            async with mqcore.open_broker(
                storage="mmap:///data?segment_bytes=1MiB", listen=[url], flush="sync", topics={"t": {}}, insecure=True,
                ports=model_ports(1, disk),
            ):  # fmt: skip
                task_status.started(scope)
                await trio.sleep_forever()

    async def main() -> None:
        with servers.network.installed():
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                first = await nursery.start(life, "a", A, disk)
                async with mqcore.connect(B, A, ports=model_ports(9), **OPTIONS) as client:
                    async with client.producer("t", batch_messages=1) as producer:
                        consumer = await stack.enter_async_context(client.consumer("t", start="start"))
                        for number in range(10):
                            await producer.send(b"%d" % number)
                        late = [producer.post(b"%d" % number) for number in range(10, 20)]
                        disk.process_kill()
                        servers.network.kill_host("a")
                        first.cancel()
                        await trio.sleep(1)
                        await nursery.start(life, "b", B, disk.restart())
                        for delivery in late:
                            await delivery.wait()
                        assert not producer.losses
                        seen = [(await anext(consumer)).value for _ in range(20)]
                        assert seen == [b"%d" % number for number in range(20)]
                    await stack.aclose()
                nursery.cancel_scope.cancel()

    run_simulation(main, seed=1, seconds_max=600)


def test_an_administrative_request_follows_a_redirection(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ClientConnection._call

    async def call(self: Any, message: Any) -> None:
        if self._node.urls[0] == A and message.operation == "topic.create":
            self.outbox.failed(message.request_id, Code.NOT_PRIMARY, "not here", {"urls": [B]})
            self._calls.release()
            await self.outbox.flush()
        else:
            await original(self, message)

    monkeypatch.setattr(ClientConnection, "_call", call)

    async def story(client: Client) -> None:
        await client.admin.create_topic("new")
        with pytest.raises(RejectedError, match="no topic 'new'"):
            await client.admin.resolve_topic("new")
        async with mqcore.connect(B, ports=model_ports(8)) as other:
            await other.admin.resolve_topic("new")

    play(servers, story, A)


def test_a_home_that_comes_back_while_others_are_tried_stays_home(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Router._connect_any

    async def slowly(self: Any, *arguments: Any, **named: Any) -> Any:
        found = await original(self, *arguments, **named)
        await trio.sleep(5)
        return found

    async def story(client: Client) -> None:
        router = client._router
        home = router.home
        monkeypatch.setattr(Router, "_connect_any", slowly)
        router._unreachable(home)  # it answers again before the others were tried
        await trio.sleep(6)
        assert router.home is home
        assert router._sessions == {A: home}
        await client.admin.list_topics()

    play(servers, story, A, B)


def test_a_home_that_dies_is_followed_to_a_server_that_has_a_session_by_another_name(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.owners[B, 1] = A

    async def refused() -> Any:
        raise BrokenLinkError("nobody is there")

    async def story(client: Client) -> None:
        home = client._router.home
        async with client.producer("t") as producer:
            await producer.send(b"x", partition=1)
            monkeypatch.setattr(home.transport, "connect", refused)
            assert home.stream is not None
            await home.stream.aclose()
            with trio.fail_after(60):
                await producer.send(b"y", partition=0)
        assert set(client._router._sessions.values()) == {client._router.home}
        assert await stored(A, 0) == [b"y"]

    play(servers, story, B, SAME_AS_A)


def test_a_home_that_comes_back_to_a_server_that_got_a_session_meanwhile_is_that_session(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(client: Client) -> None:
        router = client._router
        home, gate = router.home, trio.Event()
        connect = home.transport.connect

        async def late() -> Any:
            await gate.wait()
            return await connect()

        monkeypatch.setattr(home.transport, "connect", late)
        assert home.stream is not None
        await home.stream.aclose()
        session = router._session_at([A])
        await trio.sleep(1)
        gate.set()
        await trio.sleep(1)
        assert home.is_closed
        assert router.home is session
        with trio.fail_after(10):
            await client.admin.list_topics()

    play(servers, story, SAME_AS_A, running="a")


def test_g20_servers_that_a_server_makes_up_cost_bounded_memory(
    servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(client: Client) -> None:
        router = client._router
        most = router.context.limits.servers_max
        for number in range(6 * most):
            long = "tcp://" + "x" * 1_000_000
            urls = [long, 7, f"tcp://10.9.{number // 200}.{number % 200}:1", *[f"tcp://a:{port}" for port in range(99)]]
            router.redirect(bytes(16), 0, {"urls": urls})
            assert len(router._sessions) <= most
            if number % (2 * most) == 2 * most - 1:
                await trio.sleep(20)
        assert len(router._tries) <= most
        await client.admin.list_topics()

    play(servers, story, A, running="a")
    assert "limit servers_max" in caplog.text


def test_servers_that_are_all_away_are_named_with_the_reason_of_each(servers: Servers) -> None:
    async def story(client: Client) -> None:
        raise AssertionError("not reached")

    with pytest.raises(NotReachedError) as caught:
        play(servers, story, A, B, running="")
    assert A in str(caught.value)
    assert B in str(caught.value)
