"""Broken connections, silent servers, restarts: what a send's outcome is then, and that reading goes on (G06, G15)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.abc import ByteStream, Link
from mqcore.client import Client
from mqcore.errors import OutcomeUnknownError, RejectedError
from mqcore.registry import create_transport


class Wire:
    """Stands between client and broker, byte by byte.

    ``forward_bytes``: how many bytes of the client's still reach the broker before the connection is cut.
    ``is_mute``: what the broker answers is dropped. ``is_down``: nobody is let in. ``greets_only``: a connection is cut
    after the client's first bytes.
    """

    def __init__(self) -> None:
        self.forward_bytes: int | None = None
        self.is_mute = False
        self.is_down = False
        self.greets_only = False
        self.links = 0
        self.next_link = trio.Event()
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Cut every connection."""
        for scope in self._scopes:
            scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with await create_transport("inproc://wire").listen() as listener:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: Link) -> None:
        self.links += 1
        self.next_link.set()
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            if not self.is_down:
                async with near, await create_transport("inproc://broker").connect() as far:
                    ours, theirs = await near.accept_stream(), await far.open_stream()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._forward, ours, theirs, scope)
                        nursery.start_soon(self._answer, theirs, ours, scope)
        self._scopes.discard(scope)
        await trio.aclose_forcefully(near)

    async def _forward(self, source: ByteStream, target: ByteStream, scope: trio.CancelScope) -> None:
        try:
            for number in itertools.count():
                data = await source.receive_some()
                if not data or (self.greets_only and number > 0):
                    break
                if self.forward_bytes is not None:
                    data, self.forward_bytes = data[: self.forward_bytes], max(0, self.forward_bytes - len(data))
                await target.send_all(data)
                if self.forward_bytes == 0:
                    self.forward_bytes = None
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _answer(self, source: ByteStream, target: ByteStream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some():
                if not self.is_mute:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


def over_wire(test: Callable[[Client, Wire], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://broker"], flush="none"),
            trio.open_nursery() as nursery,
        ):
            wire = Wire()
            await nursery.start(wire.run)
            async with mqcore.connect("inproc://wire", **options) as client:
                await client.admin.create_topic("t")
                await test(client, wire)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_server_that_drops_every_connection_after_the_greeting_is_asked_ever_more_slowly() -> None:
    async def test(client: Client, wire: Wire) -> None:
        wire.greets_only = True
        wire.cut()
        with trio.move_on_after(10):
            await client.admin.list_topics()
        assert 3 < wire.links < 30

    over_wire(test, request_timeout_ms=20_000)


async def stored(client: Client, topic: str = "t") -> list[bytes]:
    """Every message of partition 0."""
    end, _ = await client.admin.look_up_offset(topic, 0, "end")
    values: list[bytes] = []
    async with client.consumer(topic, start="start") as consumer:
        while len(values) < end:
            values.append((await consumer.__anext__()).value)
    return values


def test_g15_an_acknowledgement_that_was_lost_is_repeated_and_says_that_it_is_a_duplicate() -> None:
    async def test(client: Client, wire: Wire) -> None:
        async with client.producer("t") as producer:
            wire.is_mute = True
            delivery = producer.post(b"once")
            await trio.sleep(1)
            wire.is_mute = False
            wire.cut()
            receipt = await delivery.wait()
            assert receipt.duplicate
            assert receipt.offset == 0
            assert not (await producer.send(b"next")).duplicate
        assert await stored(client) == [b"once", b"next"]

    over_wire(test)


def test_g15_a_connection_cut_at_every_byte_doubles_nothing_and_loses_nothing() -> None:
    async def test(client: Client, wire: Wire) -> None:
        sent = []
        async with client.producer("t", batches_in_flight_max=3, batch_messages=2) as producer:
            for cut_after in range(0, 420, 3):
                wire.forward_bytes = cut_after
                values = [b"%d.%d" % (cut_after, index) for index in range(4)]
                deliveries = [producer.post(value) for value in values]
                offsets = [(await delivery.wait()).offset for delivery in deliveries]
                assert offsets == list(range(len(sent), len(sent) + 4))
                sent += values
        wire.forward_bytes = None
        assert await stored(client) == sent
        assert wire.links > 100

    over_wire(test)


def test_g06_a_reader_whose_connection_breaks_sees_every_message_once_and_in_order() -> None:
    async def test(client: Client, wire: Wire) -> None:
        source = random.Random(3)
        async with client.producer("t") as producer, trio.open_nursery() as nursery:

            async def break_now_and_then() -> None:
                while True:
                    await trio.sleep(source.random() / 20)
                    wire.cut()

            async def send() -> None:
                for number in range(300):
                    await producer.send(b"%d" % number)
                    if number % 10 == 0:
                        await trio.sleep(0.02)

            nursery.start_soon(break_now_and_then)
            nursery.start_soon(send)
            async with client.consumer("t", start="start") as consumer:
                for number in range(300):
                    message = await consumer.__anext__()
                    assert (message.offset, message.value) == (number, b"%d" % number)
            nursery.cancel_scope.cancel()
        assert wire.links > 10

    over_wire(test)


def test_a_send_that_may_have_arrived_ends_unknown_and_one_that_never_left_ends_rejected() -> None:
    async def test(client: Client, wire: Wire) -> None:
        async with client.producer("t", delivery_timeout_ms=5_000, batches_in_flight_max=1) as producer:
            wire.is_mute = True
            first = producer.post(b"first")
            await trio.sleep(1)
            second = producer.post(b"second")
            started = trio.current_time()
            with pytest.raises(OutcomeUnknownError, match="may or may not"):
                await first.wait()
            assert trio.current_time() - started == pytest.approx(4, abs=0.1)
            with pytest.raises(RejectedError, match="never sent"):
                await second.wait()
            wire.is_mute = False
            wire.cut()
            await producer.send(b"third")
        assert await stored(client) == [b"first", b"third"]

    over_wire(test)


def test_while_nobody_is_there_sends_wait_and_go_on_when_somebody_is() -> None:
    async def test(client: Client, wire: Wire) -> None:
        async with client.producer("t") as producer:
            wire.is_down = True
            wire.cut()
            deliveries = [producer.post(b"%d" % number) for number in range(100)]
            await trio.sleep(20)
            assert not any(delivery.is_done for delivery in deliveries)
            wire.is_down = False
            assert [(await delivery.wait()).offset for delivery in deliveries] == list(range(100))

    over_wire(test)


def test_a_server_that_falls_silent_is_left_and_connected_to_again() -> None:
    async def test(client: Client, wire: Wire) -> None:
        async with client.producer("t") as producer:
            wire.is_mute = True
            delivery = producer.post(b"into the silence")
            wire.next_link = trio.Event()

            async def speak_again() -> None:
                await wire.next_link.wait()
                wire.is_mute = False

            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak_again)
                await delivery.wait()
            assert trio.current_time() - started < 20

    over_wire(test, keepalive_ms=2_000, connect_timeout_ms=3_000)


def test_a_change_whose_answer_got_lost_is_unknown_and_a_question_is_asked_again() -> None:
    async def test(client: Client, wire: Wire) -> None:
        async def soon_cut() -> None:
            await trio.sleep(1)
            wire.is_mute = False
            wire.cut()

        async with trio.open_nursery() as nursery:
            wire.is_mute = True
            nursery.start_soon(soon_cut)
            with pytest.raises(OutcomeUnknownError, match=r"topic\.create"):
                await client.admin.create_topic("u")
        async with trio.open_nursery() as nursery:
            wire.is_mute = True
            nursery.start_soon(soon_cut)
            assert [topic.name for topic in await client.admin.list_topics()] == ["t", "u"]

    over_wire(test)


def test_a_client_that_is_left_wakes_who_still_waits() -> None:
    async def main() -> None:
        outcomes: list[str] = []

        async def wait_for(delivery: mqcore.Delivery) -> None:
            try:
                await delivery.wait()
            except (OutcomeUnknownError, RejectedError) as error:
                outcomes.append(type(error).__name__)

        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://broker"], flush="none"),
            trio.open_nursery() as nursery,
        ):
            async with mqcore.connect("inproc://broker") as client:
                await client.admin.create_topic("t")
                producers = client.producer("t", linger_ms=100_000)
                producer = await producers.__aenter__()
                nursery.start_soon(wait_for, producer.post(b"x"))
                await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            assert outcomes == ["RejectedError"]
            await producers.__aexit__(None, None, None)

    trio.run(main)


def test_a_broker_that_is_started_again_is_found_again_with_all_that_it_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        stop, stopped = trio.Event(), trio.Event()

        async def broker(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            listen = [f"unix://{tmp_path}/s"]
            async with mqcore.open_broker(storage=f"mmap://{tmp_path}/data", listen=listen, flush="sync"):
                task_status.started()
                await stop.wait()
            stopped.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(broker)
            async with mqcore.connect(f"unix://{tmp_path}/s") as client:
                await client.admin.create_topic("t")
                async with (
                    client.producer("t") as producer,
                    client.consumer("t", start="start") as consumer,
                ):
                    await producer.send_many([b"%d" % number for number in range(100)])
                    assert [(await consumer.__anext__()).offset for _ in range(50)] == list(range(50))
                    stop.set()
                    await stopped.wait()
                    stop = trio.Event()
                    delivery = producer.post(b"100")
                    await nursery.start(broker)
                    receipt = await delivery.wait()
                    assert (receipt.offset, receipt.duplicate) == (100, False)
                    messages = [await consumer.__anext__() for _ in range(51)]
                    assert [message.offset for message in messages] == list(range(50, 101))
                    assert messages[-1].epoch > messages[0].epoch
                    assert not producer.losses
            stop.set()

    trio.run(main)
