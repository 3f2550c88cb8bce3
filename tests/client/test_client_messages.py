"""Sending and reading through a running broker: in one process, in memory, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing
from crc32c import crc32c

import mqcore
from mqcore.client import Client
from mqcore.errors import (
    BatchUndecodableError,
    ConfigurationError,
    NotReachedError,
    RejectedError,
    RemoteProtocolError,
)
from mqcore.guarantees import Level
from mqcore.registry import create_transport, register, unregister


def with_client(test: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    """Run ``test`` with a client of a broker that keeps everything in memory."""

    async def main() -> None:
        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://broker"], flush="none"),
            mqcore.connect("inproc://broker", **options) as client,
        ):
            await test(client)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def read(client: Client, topic: str, count: int, **arguments: Any) -> list[mqcore.Message]:
    messages: list[mqcore.Message] = []
    arguments.setdefault("start", "start")
    async with client.consumer(topic, **arguments) as consumer:
        async for message in consumer:
            messages.append(message)
            if len(messages) == count:
                break
    return messages


async def append_all(consumer: mqcore.Consumer, values: list[bytes]) -> None:
    async for message in consumer:
        values.append(message.value)


def test_a_message_arrives_with_all_that_was_sent_and_its_receipt_tells_where() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t") as producer:
            first = await producer.send(b"plain")
            second = await producer.send(b"rich", key=b"key", headers={"name": b"value", "other": b""})
        assert (first.topic, first.partition, first.offset, first.duplicate) == ("t", 0, 0, False)
        assert (first.level, first.copies[0].incarnation, len(first.nodes)) == (Level.MEMORY, 1, 1)
        plain, rich = await read(client, "t", 2)
        assert (plain.value, plain.key, plain.headers, plain.offset) == (b"plain", None, (), first.offset)
        assert (rich.value, rich.key, rich.offset) == (b"rich", b"key", second.offset)
        assert rich.headers == (("name", b"value"), ("other", b""))
        assert rich.epoch == second.epoch
        assert abs(rich.timestamp_ms - datetime.now(UTC).timestamp() * 1000) < 60_000

    with_client(test)


def test_many_tasks_that_send_at_once_share_batches_and_each_gets_its_own_offset() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        receipts: dict[bytes, mqcore.Receipt] = {}

        async def send(value: bytes) -> None:
            receipts[value] = await producer.send(value)

        async with client.producer("t") as producer:
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(64):
                        nursery.start_soon(send, b"%d-%d" % (number, len(receipts)))
        async with client.consumer("t", start="start") as consumer:
            sizes, values = [], {}
            async for batch in consumer.batches():
                sizes.append(len(batch))
                values.update(zip(range(batch.offset, batch.next_offset), batch.values, strict=True))
                if len(values) == 192:
                    break
        assert {value: receipt.offset for value, receipt in receipts.items()} == {
            value: offset for offset, value in values.items()
        }
        assert len(sizes) <= 6

    with_client(test)


def test_keys_keep_their_partition_and_their_order() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t", 5)
        keys = [b"%d" % (number % 17) for number in range(500)]
        values = [b"%d" % number for number in range(500)]
        async with client.producer("t", batch_messages=20) as producer:
            receipts = await producer.send_many(values[:250], keys[:250])
            assert sum(receipt.count for receipt in receipts) == 250
            for value, key in zip(values[250:], keys[250:], strict=True):
                producer.post(value, key)
        messages = await read(client, "t", 500)
        assert {message.partition for message in messages} == set(range(5))
        for message in messages:
            assert message.key is not None
            assert message.partition == crc32c(message.key) % 5
        for key in set(keys):
            mine = [int(message.value) for message in messages if message.key == key]
            assert mine == sorted(mine)
            assert len(mine) == keys.count(key)

    with_client(test)


def test_send_many_gives_one_receipt_per_batch_in_order() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t", 3)
        values = [random.Random(1).randbytes(number % 50) for number in range(1_000)]
        async with client.producer("t", batch_messages=300) as producer:
            receipts = await producer.send_many(values, partition=1)
            assert [(receipt.partition, receipt.offset, receipt.count) for receipt in receipts] == [
                (1, 0, 300), (1, 300, 300), (1, 600, 300), (1, 900, 100),
            ]  # fmt: skip
            spread = await producer.send_many(values[:900])
            assert sorted(receipt.partition for receipt in spread) == [0, 1, 2]
        assert [message.value for message in await read(client, "t", 1_000, partitions=[1])] == values

    with_client(test)


def test_post_never_waits_its_buffer_is_bounded_and_flush_waits_for_all() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t", buffer_bytes_max=10_000, linger_ms=1_000) as producer:
            deliveries = []
            deliveries += [producer.post(bytes(1_000)) for _ in range(9)]
            with pytest.raises(trio.WouldBlock):
                producer.post(bytes(1_000))
            assert not deliveries[0].is_done
            started = trio.current_time()
            await producer.flush()
            assert trio.current_time() - started < 1
            assert [delivery.result().offset for delivery in deliveries] == list(range(9))
            producer.post(b"there is room again")
            await producer.wait_for_room(5_000)

    with_client(test)


def test_linger_waits_for_company_and_a_waiting_sender_gets_its_answer_after_it() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t", linger_ms=500) as producer:
            started = trio.current_time()
            await producer.send(b"alone")
            assert trio.current_time() - started == pytest.approx(0.5, abs=0.1)

    with_client(test)


def test_one_way_messages_arrive_without_an_answer() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t") as producer:
            for number in range(10):
                await producer.send_one_way(b"%d" % number)
            await producer.send(b"last")
        assert [message.value for message in await read(client, "t", 11)] == [b"%d" % n for n in range(10)] + [b"last"]

    with_client(test)


def test_a_cancelled_send_is_unknown_to_its_caller_and_harms_nobody_else() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t") as producer:
            with trio.CancelScope() as scope:
                scope.cancel()
                await producer.send(b"cancelled")
            assert scope.cancelled_caught
            receipt = await producer.send(b"next")
        messages = await read(client, "t", receipt.offset + 1)
        assert messages[-1].value == b"next"
        assert {message.value for message in messages} <= {b"cancelled", b"next"}

    with_client(test)


def test_the_reader_starts_at_the_start_the_end_an_offset_or_a_time() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t") as producer:
            await producer.send_many([b"0", b"1", b"2"])
            async with client.consumer("t", start="end") as follower:
                await producer.send(b"3")
                assert (await follower.__anext__()).value == b"3"
        assert [message.offset for message in await read(client, "t", 2, start=2)] == [2, 3]
        past = datetime.fromtimestamp(0, UTC)
        assert [message.offset for message in await read(client, "t", 4, start=past)] == [0, 1, 2, 3]
        assert await client.admin.look_up_offset("t", 0, "end") == (4, 1)
        with pytest.raises(ValueError, match="time zone"):
            await read(client, "t", 1, start=datetime(2020, 1, 1))
        for wrong in ("beginning", -1):
            with pytest.raises(ConfigurationError):
                await read(client, "t", 1, start=wrong)

    with_client(test)


def test_positions_are_exact_within_a_batch_and_take_another_reader_there() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.producer("t") as producer:
            await producer.send_many([b"%d" % number for number in range(10)])
        async with client.consumer("t", start="start") as consumer:
            assert [(await consumer.__anext__()).offset for _ in range(4)] == [0, 1, 2, 3]
            positions = consumer.positions
            assert positions == {0: (4, 1)}
            assert (await consumer.next_batch()).values == [b"%d" % number for number in range(4, 10)]
            assert consumer.positions == {0: (10, 1)}
            await consumer.seek(positions)
            assert (await consumer.__anext__()).offset == 4
            await consumer.seek("start", 0)
            assert (await consumer.__anext__()).offset == 0
        assert (await read(client, "t", 1, start=positions))[0].offset == 4

    with_client(test)


def test_a_reader_waits_for_hours_and_can_be_cancelled_without_losing_its_place() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        async with client.consumer("t", start="start") as consumer, client.producer("t") as producer:
            with trio.move_on_after(7_200) as scope:
                await consumer.__anext__()
            assert scope.cancelled_caught
            await producer.send(b"x")
            assert (await consumer.__anext__()).value == b"x"

    with_client(test)


def test_a_batch_that_cannot_be_decoded_is_one_error_that_names_its_offsets_and_reading_goes_on() -> None:
    class Secret(mqcore.registry.find("codecs", "zlib")):  # type: ignore[misc, name-defined]
        name = "secret"
        tag = 200

    async def test(client: Client) -> None:
        await client.admin.create_topic("t", config={"private_tags": [200]})
        register("codecs", "secret", Secret)
        try:
            async with client.producer("t") as producer, client.producer("t", codec="secret") as secret:
                await producer.send_many([b"0", b"1"])
                await secret.send_many([bytes(1_000)] * 3)
                await producer.send(b"5")
        finally:
            unregister("codecs", "secret")
        from mqcore.registry import _compose

        _compose._codecs.pop("secret", None)
        _compose._codecs_by_tag.pop(200, None)
        async with client.consumer("t", start="start") as consumer:
            values: list[bytes] = []
            with pytest.raises(BatchUndecodableError, match="offsets 2 to 4") as caught:
                await append_all(consumer, values)
            assert (caught.value.topic, caught.value.partition) == ("t", 0)
            assert (caught.value.first_offset, caught.value.next_offset) == (2, 5)
            assert values == [b"0", b"1"]
            assert (await consumer.__anext__()).value == b"5"

    with_client(test)


def test_an_unknown_topic_is_refused_and_says_how_to_create_it() -> None:
    async def test(client: Client) -> None:
        with pytest.raises(RejectedError, match="topic create"):
            async with client.producer("missing"):
                pass
        with pytest.raises(RejectedError, match="missing"):
            async with client.consumer("missing"):
                pass

    with_client(test)


def test_topics_are_created_listed_described_altered_and_deleted() -> None:
    async def test(client: Client) -> None:
        created = await client.admin.create_topic("t", 2)
        assert created.partitions == 2
        with pytest.raises(RejectedError) as caught:
            await client.admin.create_topic("t", 2)
        assert caught.value.name == "topic-exists"
        assert [topic.name for topic in await client.admin.list_topics()] == ["t"]
        await client.admin.alter_topic("t", 3)
        assert len((await client.admin.describe_topic("t")).logs) == 3
        await client.admin.delete_topic("t")
        assert await client.admin.list_topics() == []
        assert (await client.admin.status()).reigns

    with_client(test)


def test_an_option_that_does_not_exist_is_refused_by_name() -> None:
    async def main() -> None:
        with pytest.raises(ConfigurationError, match="connect_timeout"):
            async with mqcore.connect("inproc://x", connect_timout_ms=1):
                pass
        with pytest.raises(ConfigurationError, match="at least one server"):
            async with mqcore.connect():
                pass
        with pytest.raises(ConfigurationError, match=r"\['inproc://x', 'inproc://y'\] is no URL.*connect\(\*urls\)"):
            async with mqcore.connect(["inproc://x", "inproc://y"]):  # type: ignore[arg-type]
                pass

    trio.run(main)


def test_nobody_answering_names_every_url_and_why() -> None:
    async def main() -> None:
        started = trio.current_time()
        with pytest.raises(NotReachedError, match="within 3 s") as caught:
            async with mqcore.connect("inproc://one", "inproc://two", connect_timeout_ms=3_000):
                pass
        assert 2.9 < trio.current_time() - started < 3.1
        assert "inproc://one" in str(caught.value)
        assert "inproc://two" in str(caught.value)
        assert "\n" not in str(caught.value)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_first_server_that_answers_is_used() -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://b"], flush="none"),
            mqcore.connect("inproc://a", "inproc://b") as client,
        ):
            assert await client.admin.list_topics() == []

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_server_that_speaks_something_else_is_told_apart_at_once() -> None:
    async def main() -> None:
        async with await create_transport("inproc://web").listen() as listener, trio.open_nursery() as nursery:

            async def answer() -> None:
                stream = await (await listener.accept()).accept_stream()
                await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            nursery.start_soon(answer)
            with pytest.raises((RemoteProtocolError, NotReachedError)):
                async with mqcore.connect("inproc://web", connect_timeout_ms=2_000):
                    pass
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_error_in_the_block_reaches_the_caller_as_it_is() -> None:
    async def test(client: Client) -> None:
        await client.admin.create_topic("t")
        posted: list[tuple[mqcore.Producer, mqcore.Delivery]] = []

        async def fail_while_sending() -> None:
            async with client.producer("t", linger_ms=10_000) as producer:
                posted.append((producer, producer.post(b"never sent")))
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await fail_while_sending()
        producer, delivery = posted[0]
        with pytest.raises(RejectedError, match="never sent"):
            delivery.result()
        with pytest.raises(trio.ClosedResourceError):
            producer.post(b"too late")
        raise KeyError("outer")

    with pytest.raises(KeyError, match="outer"):
        with_client(test)
