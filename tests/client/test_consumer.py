"""The consumer's shell: which partitions it reads, how it waits, what it says when it cannot."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.client import Client
from mqcore.client._reader import Reader
from mqcore.errors import RemoteProtocolError
from mqcore.limits import Limits


def with_client(
    test: Callable[[Client], Awaitable[None]], limits: Limits | None = None, partitions: int = 1, **broker: Any
) -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(
                storage="memory://",
                listen=["inproc://consumer"],
                flush="none",
                topics={"t": {"partitions": partitions}},
                limits=broker,
            ),
            mqcore.connect("inproc://consumer", limits=limits) as client,
        ):
            await test(client)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_partitions_that_are_added_are_read_from_their_start_by_a_consumer_of_the_whole_topic_only() -> None:
    async def test(client: Client) -> None:
        async with client.consumer("t") as whole, client.consumer("t", [0], refresh_ms=1) as one:
            assert await nothing(one, 12)
            await client.admin.alter_topic("t", partitions=3)
            async with client.producer("t") as producer:
                for number in range(3):
                    await producer.send(b"%d" % number, partition=number)
            began = trio.current_time()
            assert {(await anext(whole)).value for _ in range(3)} == {b"0", b"1", b"2"}
            assert trio.current_time() - began < 6
            assert whole.positions.keys() == {0, 1, 2}
            assert (await anext(one)).value == b"0"
            assert await nothing(one, 12)

    with_client(test)


async def nothing(consumer: mqcore.Consumer, seconds: float) -> bool:
    """Whether there is nothing to read for so long."""
    with trio.move_on_after(seconds) as scope:
        await anext(consumer)
    return scope.cancelled_caught


@pytest.mark.parametrize("partitions", [1_000, 1_001])
def test_an_idle_consumer_asks_once_for_each_partition_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    received = 0
    original = Reader.receive

    async def counted(self: Reader) -> None:
        nonlocal received
        await original(self)
        received += 1

    monkeypatch.setattr(Reader, "receive", counted)

    async def test(client: Client) -> None:
        async with client.consumer("t", wait_ms=20_000, refresh_ms=1_000_000) as consumer:
            assert await nothing(consumer, 19)
            assert received == 0
            async with client.producer("t") as producer:
                await producer.send(b"x", partition=partitions - 1)
            assert (await anext(consumer)).value == b"x"

    with_client(test, partitions=partitions)


def test_a_broker_that_lets_no_request_wait_is_not_asked_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    received = 0
    original = Reader.receive

    async def counted(self: Reader) -> None:
        nonlocal received
        received += 1
        await original(self)

    monkeypatch.setattr(Reader, "receive", counted)

    async def test(client: Client) -> None:
        async with client.consumer("t") as consumer:
            assert await nothing(consumer, 10)
            assert 80 < received <= 102  # every 100 ms; the first comes at once, and the last is cancelled
            async with client.producer("t") as producer:
                await producer.send(b"x")
            assert (await anext(consumer)).value == b"x"

    with_client(test, fetch_wait_ms_max=0)


def test_a_consumer_at_a_broker_that_lets_requests_wait_has_one_there_at_any_time() -> None:
    """A pause after some answers without a message, however late they came, made it deaf for a tenth of a second."""

    async def test(client: Client) -> None:
        async with client.consumer("t", wait_ms=200) as consumer, client.producer("t") as producer:
            for number in range(20):
                assert await nothing(consumer, 0.21 * (number + 1))
                await producer.send(b"%d" % number)
                began = trio.current_time()
                assert (await anext(consumer)).value == b"%d" % number
                assert trio.current_time() == began

    with_client(test)


def test_a_batch_that_is_too_large_for_this_client_is_raised_each_time_and_seeking_past_it_goes_on() -> None:
    async def test(client: Client) -> None:
        async with mqcore.connect("inproc://consumer") as large, large.producer("t") as producer:
            await producer.send(bytes(70_000))
            await producer.send(b"small")
        async with client.consumer("t", start="start", fetch_bytes=1) as consumer:
            for _ in range(2):
                with pytest.raises(RemoteProtocolError, match="raise frame_bytes_max of this client's limits"):
                    await anext(consumer)
            await consumer.seek(1)
            assert (await anext(consumer)).value == b"small"

    with_client(test, limits=Limits(frame_bytes_max=65_536, batch_bytes_max=60_000, message_bytes_max=50_000))


def test_a_connection_that_the_broker_refuses_is_logged_at_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(client: Client) -> None:
        with caplog.at_level(logging.WARNING, "mqcore.client"):
            async with client.consumer("t", start="start") as consumer:
                assert await nothing(consumer, 5)
        (record,) = caplog.records
        assert "this broker takes 1 connections (limit connections_max)" in record.getMessage()

    with_client(test, connections_max=1)
