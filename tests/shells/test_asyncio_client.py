"""What only the client for asyncio can get wrong: cancellation, Ctrl-C, loops and what else runs in them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

import mqcore
import mqcore.aio
from mqcore.aio._guest import _guests


def with_client(url: str, test: Callable[[mqcore.aio.Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with mqcore.aio.connect(url) as client:
            await test(client)

    asyncio.run(main())


def test_a_reader_that_is_cancelled_has_lost_nothing(broker_url: str, topic: str) -> None:
    async def test(client: mqcore.aio.Client) -> None:
        await client.admin.create_topic(topic)
        async with client.producer(topic) as producer, client.consumer(topic, start="start") as consumer:
            offsets: list[int] = []
            for number in range(200):
                reading = asyncio.ensure_future(consumer.next_batch())
                await producer.send(b"%d" % number)
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    offsets.append((await reading).offset)
            while len(offsets) < 200:
                batch = await consumer.next_batch()
                offsets.extend(range(batch.offset, batch.next_offset))
            assert offsets == list(range(200))

    with_client(broker_url, test)


def test_a_send_that_is_cancelled_goes_its_way(broker_url: str, topic: str) -> None:
    async def test(client: mqcore.aio.Client) -> None:
        await client.admin.create_topic(topic)
        async with client.producer(topic, linger_ms=60_000) as producer:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(producer.send(b"x"), 0.01)
            await producer.flush()
        assert (await client.admin.look_up_offset(topic, 0, "end")).offset == 1

    with_client(broker_url, test)


def test_a_full_buffer_is_told_and_its_room_is_waited_for(broker_url: str, topic: str) -> None:
    async def test(client: mqcore.aio.Client) -> None:
        await client.admin.create_topic(topic)
        async with client.producer(topic, buffer_bytes_max=1000, linger_ms=60_000) as producer:
            producer.post(bytes(900))
            with pytest.raises(mqcore.BufferFullError, match="wait_for_room"):
                producer.post(bytes(900))
            with pytest.raises(mqcore.BufferFullError):
                producer.post_many([bytes(900)])
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(producer.send(bytes(900)))
                waiting = tasks.create_task(producer.wait_for_room(10))
                await asyncio.sleep(0)
                tasks.create_task(producer.flush())
                await waiting
                await producer.flush()
            assert sending.result().offset == 1

    with_client(broker_url, test)


def test_clients_of_one_loop_live_side_by_side_and_each_loop_begins_anew(broker_url: str, topic: str) -> None:
    async def test(first: mqcore.aio.Client) -> None:
        await first.admin.create_topic(topic)
        async with mqcore.aio.connect(broker_url) as second:
            async with first.producer(topic) as producer, second.consumer(topic, start="start") as consumer:
                await producer.send(b"x")
                assert (await consumer.next_batch()).values == [b"x"]
        await first.admin.delete_topic(topic)

    for _ in range(3):
        with_client(broker_url, test)


def test_a_block_that_is_cancelled_ends_in_order(broker_url: str, topic: str) -> None:
    async def test(client: mqcore.aio.Client) -> None:
        await client.admin.create_topic(topic)

        async def work() -> None:
            async with client.producer(topic) as producer, client.consumer(topic) as consumer:
                await producer.send(b"x")
                started.set()
                await consumer.next_batch()
                await consumer.next_batch()

        started = asyncio.Event()
        working = asyncio.ensure_future(work())
        await started.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert (await client.admin.look_up_offset(topic, 0, "end")).offset == 1

    with_client(broker_url, test)


def test_connecting_may_be_cancelled(broker_url: str) -> None:
    async def main() -> None:
        async def connect() -> None:
            async with mqcore.aio.connect("tcp://127.0.0.1:1"):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect(), 0.05)
        async with mqcore.aio.connect(broker_url) as client:
            assert client.node

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(12))
def test_connecting_may_be_cancelled_at_any_turn_and_leaves_no_trio_behind(broker_url: str, turns: int) -> None:
    """The first turns are those in which Trio starts; one that is left running would be in its thread for good."""

    async def main() -> None:
        async def connect() -> None:
            async with mqcore.aio.connect(broker_url):
                await asyncio.sleep(3600)

        connecting = asyncio.ensure_future(connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        with suppress(asyncio.CancelledError):
            await connecting
        assert not _guests

    asyncio.run(main())
    trio.run(trio.lowlevel.checkpoint)  # which would be refused
    asyncio.run(main())


def test_where_trio_runs_already_its_own_client_is_named(broker_url: str) -> None:
    async def connect() -> None:
        async with mqcore.aio.connect(broker_url):
            pass

    async def main() -> None:
        with pytest.raises(mqcore.ConfigurationError, match=r"mqcore\.connect"):
            asyncio.run(connect())

    trio.run(main)


def test_a_loop_that_was_closed_within_a_block_is_named_where_that_is_in_the_way(broker_url: str) -> None:
    """In a process of its own: the thread is of no more use for Trio."""
    script = """
import asyncio, sys, mqcore.aio
loop = asyncio.new_event_loop()
block = mqcore.aio.connect(sys.argv[1])
loop.run_until_complete(block.__aenter__())
loop.close()
async def again():
    async with mqcore.aio.connect(sys.argv[1]):
        pass
try:
    asyncio.run(again())
except mqcore.ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, broker_url], capture_output=True, text=True, timeout=120)
    assert "a loop was closed within the block of a client" in done.stdout
    assert "leave the block first, and use another thread now" in done.stdout


def test_a_client_that_is_used_from_another_thread_or_loop_says_so_and_has_sent_nothing(
    broker_url: str, topic: str
) -> None:
    """Trio would be told of it in a thread that is not its own."""

    async def test(client: mqcore.aio.Client) -> None:
        await client.admin.create_topic(topic)
        async with client.producer(topic) as producer:

            async def send() -> None:
                await producer.send(b"x")

            async def ping() -> None:
                await client.ping()

            wrong: list[Callable[[], object]] = [lambda: asyncio.run(send()), lambda: asyncio.run(ping())]
            wrong += [lambda: producer.post(b"x"), lambda: producer.post_many([b"x"])]
            for call in wrong:
                with pytest.raises(mqcore.ConfigurationError, match="this client is of another loop"):
                    await asyncio.to_thread(call)
            assert (await producer.send(b"y")).offset == 0

    with_client(broker_url, test)


def test_ctrl_c_stays_with_whoever_had_it(broker_url: str) -> None:
    async def test(_: mqcore.aio.Client) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))

    async def main() -> None:
        async with mqcore.aio.connect(broker_url) as client:
            await test(client)

    handlers: list[object] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    assert handlers == [signal.default_int_handler]


def test_what_is_used_after_its_block_says_that_it_is_closed(broker_url: str) -> None:
    async def main() -> None:
        async with mqcore.aio.connect(broker_url) as client:
            pass
        with pytest.raises(mqcore.ClosedError):
            await client.admin.status()

    asyncio.run(main())
