"""Tags from producer to reader: chosen by the broker, what is passed over counts as read, nothing is skipped."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.abc import Filter, FilterInput
from mqcore.client import Client, Message
from mqcore.client._fetch_plan import Chunk
from mqcore.errors import ConfigurationError, MessagesMissingError, RejectedError
from mqcore.limits import Limits
from mqcore.protocol import Code
from mqcore.registry import register, unregister
from mqcore.testing import model_ports


def with_client(
    test: Callable[[Client], Awaitable[None]], limits: Limits | None = None, partitions: int = 1, **broker: Any
) -> None:
    ports = model_ports(1)

    async def main() -> None:
        async with (
            mqcore.open_broker(
                storage="memory://",
                listen=["inproc://tags"],
                flush="none",
                topics={"t": {"partitions": partitions}, "dead": {}},
                limits=broker,
                ports=ports,  # whose clock is Trio's: sessions of members last by the broker's
            ),
            mqcore.connect("inproc://tags", limits=limits, ports=ports) as client,
        ):
            await test(client)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def fill(client: Client) -> None:
    """Offsets 0 to 8: tags x, none, y, and so on; several batches, tags mixed in some of them."""
    async with client.producer("t") as producer:
        for number in range(3):
            await producer.send(b"%d" % number, tag=("x", None, "y")[number])
        deliveries = [producer.post(b"%d" % number, tag=("x", None, "y")[number % 3]) for number in range(3, 9)]
        for each in deliveries:
            await each.wait()


async def read(consumer: mqcore.Consumer, count: int) -> list[tuple[int, bytes, str | None]]:
    found = []
    with trio.fail_after(100):
        while len(found) < count:
            message = await anext(consumer)
            found.append((message.offset, message.value, message.tag))
    return found


X = [(0, b"0", "x"), (3, b"3", "x"), (6, b"6", "x")]
Y = [(2, b"2", "y"), (5, b"5", "y"), (8, b"8", "y")]
ALL = sorted([*X, *Y, *((n, b"%d" % n, None) for n in (1, 4, 7))])


@pytest.mark.parametrize("broker", [{}, {"fetch_tags_max": 0}], ids=["broker", "client"])
@pytest.mark.parametrize(
    ("tags", "expected"), [(["x"], X), (["y"], Y), (["x", "y"], sorted(X + Y)), ([], ALL)], ids=["x", "y", "xy", "all"]
)
def test_g06_a_reader_gets_every_message_that_has_one_of_its_tags_and_no_other(
    tags: list[str], expected: list[tuple[int, bytes, str | None]], broker: dict[str, int]
) -> None:
    async def test(client: Client) -> None:
        await fill(client)
        async with client.consumer("t", start="start", tags=tags) as consumer:
            assert await read(consumer, len(expected)) == expected
            with trio.move_on_after(30):
                await anext(consumer)
                raise AssertionError
            assert {offset for offset, _ in consumer.positions.values()} == {9}
        # In the middle of a batch, by batches, and by what was received at once: the same messages.
        async with client.consumer("t", start=4, tags=tags) as consumer:
            batch = await consumer.next_batch()
            later = [message for each in (batch, *consumer.take_received()) for message in each.messages()]
            assert [(each.offset, each.value, each.tag) for each in later] == [
                each for each in expected if each[0] >= 4
            ]
            assert list(batch.offsets) == [each.offset for each in batch.messages()]
            assert batch.next_offset == 9

    with_client(test, **broker)


def test_positions_amid_a_batch_lead_to_the_rest_of_what_was_asked_for() -> None:
    async def test(client: Client) -> None:
        await fill(client)
        async with client.consumer("t", start="start", tags=["x"]) as consumer:
            for number in range(3):
                assert await read(consumer, 1) == [X[number]]
                positions = consumer.positions
                async with client.consumer("t", start=positions, tags=["x"]) as other:
                    if number < 2:
                        assert await read(other, 1) == [X[number + 1]]
                    else:
                        assert positions[0][0] == 9
            await consumer.seek(4)
            assert await read(consumer, 1) == [X[2]]

    with_client(test)


def test_the_position_of_a_reader_for_whom_nothing_comes_moves() -> None:
    async def test(client: Client) -> None:
        async with client.consumer("t", start="start", tags=["none"], wait_ms=1_000) as consumer:
            await fill(client)
            assert await consumer.poll(wait_ms=5_000) == []
            (position,) = consumer.positions.values()
            assert position[0] == 9
            assert position[1] > 0

    with_client(test)


def test_of_a_group_the_cursor_moves_over_what_is_passed_over() -> None:
    async def test(client: Client) -> None:
        await fill(client)
        async with client.consumer("t", group="g", start="start", tags=["x"], wait_ms=1_000) as consumer:
            assert await read(consumer, 3) == X
            assert await consumer.poll(wait_ms=5_000) == []
            assert await cursor_of(client) == 9
            async with client.producer("t") as producer:
                await producer.send(b"no", tag="y")
            assert await consumer.poll(wait_ms=5_000) == []
            assert await cursor_of(client) == 10
            async with client.producer("t") as producer:
                await producer.send(b"yes", tag="x")
                await producer.send(b"no", tag="y")
            assert await read(consumer, 1) == [(10, b"yes", "x")]
            await trio.sleep(5)
            assert await cursor_of(client) == 10  # it is in hand, and not handled
        assert await cursor_of(client) == 11

    with_client(test)


async def cursor_of(client: Client) -> int:
    (state,) = await client.groups.describe("g")
    assert state.partitions[0].offset is not None
    return state.partitions[0].offset


def test_what_was_passed_over_is_not_to_be_committed_once_the_position_is_elsewhere() -> None:
    async def test(client: Client) -> None:
        await fill(client)
        async with client.consumer("t", start="start", tags=["none"], wait_ms=1_000) as consumer:
            assert await consumer.poll(wait_ms=5_000) == []
            assert [offset for offset, _ in consumer.passed.values()] == [9]
            (reader,) = consumer._readers
            lost = MessagesMissingError("lost", topic="t", partition=0, reason="loss", position=4)
            reader.plan.chunks.append(Chunk(reader.plan.cursors[0], None, memoryview(b""), lost))
            with pytest.raises(MessagesMissingError):
                await consumer.next_batch()
            assert consumer.passed == {}
            assert await consumer.poll(wait_ms=5_000) == []
            await consumer.seek(0)
            assert consumer.passed == {}

    with_client(test)


def test_handlers_get_what_they_ask_for_and_what_is_passed_over_is_committed() -> None:
    async def test(client: Client) -> None:
        await fill(client)
        handled: list[bytes] = []
        held = trio.Event()

        async def handler(message: Message) -> None:
            handled.append(message.value)
            if message.value == b"held":
                await held.wait()

        async with trio.open_nursery() as nursery:

            async def handle() -> None:
                await client.handle("t", handler, group="g", start="start", tags=["x"], wait_ms=1_000)

            nursery.start_soon(handle)
            await trio.sleep(60)
            assert handled == [b"0", b"3", b"6"]
            assert await cursor_of(client) == 9
            async with client.producer("t") as producer:
                await producer.send(b"held", tag="x")
                await producer.send(b"no", tag="y")
            await trio.sleep(10)
            assert await cursor_of(client) == 9  # what was begun is not done, whatever was passed over behind it
            held.set()
            await trio.sleep(10)
            assert await cursor_of(client) == 11
            nursery.cancel_scope.cancel()

    with_client(test)


class Even(Filter):
    """Even numbers with the tag x."""

    tags = ("x",)

    def matches(self, message: FilterInput) -> bool:
        assert message.tag == "x"
        return int(message.value) % 2 == 0


def test_of_a_filter_that_names_tags_the_broker_passes_over_the_rest() -> None:
    async def test(client: Client) -> None:
        await fill(client)
        handled: list[bytes] = []

        async def handler(message: Message) -> None:
            handled.append(message.value)

        register("filters", "even", Even)
        try:
            async with trio.open_nursery() as nursery:

                async def handle() -> None:
                    await client.handle("t", handler, start="start", filter="even:", attempts_max=1, dead_letter="dead")

                nursery.start_soon(handle)
                await trio.sleep(60)
                nursery.cancel_scope.cancel()
        finally:
            unregister("filters", "even")
        assert handled == [b"0", b"6"]
        assert (await client.admin.look_up_offset("dead", 0, "end")).offset == 0

    with_client(test)


def test_a_dead_letter_has_the_tag_of_its_message() -> None:
    async def test(client: Client) -> None:
        async def handler(message: Message) -> None:
            raise ValueError("never")

        async with client.producer("t") as producer:
            await producer.send(b"bad", tag="x")
        async with trio.open_nursery() as nursery:

            async def handle() -> None:
                await client.handle("t", handler, start="start", dead_letter="dead", attempts_max=1)

            nursery.start_soon(handle)
            async with client.consumer("dead", start="start", tags=["x"]) as consumer:
                message = await anext(consumer)
                assert (message.value, message.tag) == (b"bad", "x")
            nursery.cancel_scope.cancel()

    with_client(test)


def test_a_server_that_does_not_choose_by_tags_is_read_whole_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(client: Client) -> None:
        await fill(client)
        with caplog.at_level(logging.WARNING, "mqcore.client"):
            async with client.consumer("t", start="start", tags=["x", "y"]) as consumer:
                assert await read(consumer, 6) == sorted(X + Y)
        (record,) = caplog.records
        assert "does not choose by these tags" in record.getMessage()

    with_client(test, fetch_tags_max=1)


def test_a_server_that_takes_no_tags_refuses_the_message_that_has_one_and_no_other() -> None:
    async def test(client: Client) -> None:
        async with client.producer("t") as producer:
            deliveries = [producer.post(b"a"), producer.post(b"b", tag="x"), producer.post(b"c")]
            deliveries += producer.post_many([b"d", b"e"], tag="x")
            outcomes: list[object] = []
            for each in deliveries:
                try:
                    outcomes.append((await each.wait()).offset)
                except RejectedError as error:
                    assert error.code == Code.LIMIT_REACHED
                    assert "batch_tags_max" in str(error)
                    outcomes.append(None)
            assert outcomes == [0, None, 1, None]

    with_client(test, batch_tags_max=0)


@pytest.mark.parametrize("tag", ["", b"x", 7, "\udcff"])
def test_what_is_no_tag_is_refused_when_it_is_sent(tag: Any) -> None:
    async def test(client: Client) -> None:
        async with client.producer("t") as producer:
            for send in (producer.post, lambda value, tag: producer.post_many([value], tag=tag)):
                with pytest.raises(ConfigurationError, match=r"a tag is text|cannot be written in UTF-8"):
                    send(b"v", tag=tag)

    with_client(test)


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_a_tag_has_at_most_so_many_bytes_for_client_and_broker(above: int) -> None:
    tag = "é" * 50 + "x" * above if above >= 0 else "é" * 49 + "x"

    async def test(client: Client) -> None:
        async with client.producer("t") as producer:
            if above > 0:
                with pytest.raises(RejectedError, match="tag of 101 bytes; at most 100"):
                    await producer.send(b"v", tag=tag)
                assert (await producer.send(b"v")).offset == 0
            else:
                await producer.send(b"v", tag=tag)
                async with client.consumer("t", start="start", tags=[tag]) as consumer:
                    assert (await anext(consumer)).tag == tag

    with_client(test, tag_bytes_max=100)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (["t" * 201], "1 to 200 bytes"),
        ([""], "1 to 200 bytes"),
        ([str(n) for n in range(65)], "at most 64"),
        (["\udcff"], r"tag '\\udcff'.*cannot be written in UTF-8"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_when_the_consumer_is_opened(tags: Any, words: str) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(ConfigurationError, match=words):
            async with client.consumer("t", tags=tags):
                pass

    with_client(test)


def test_sixty_four_tags_may_be_asked_for_at_once() -> None:
    async def test(client: Client) -> None:
        await fill(client)
        async with client.consumer("t", start="start", tags=["x", *map(str, range(63))]) as consumer:
            assert await read(consumer, 3) == X

    with_client(test)


def test_more_tags_than_a_batch_may_have_go_into_several() -> None:
    async def test(client: Client) -> None:
        async with client.producer("t") as producer:
            deliveries = [producer.post(b"%d" % n, tag=str(n % 30)) for n in range(300)]
            for each in deliveries:
                await each.wait()
        async with client.consumer("t", start="start", tags=["7"]) as consumer:
            assert [offset for offset, _, _ in await read(consumer, 10)] == list(range(7, 300, 30))

    with_client(test, batch_tags_max=10)


def test_messages_that_are_sent_together_have_the_tag_of_all() -> None:
    async def test(client: Client) -> None:
        async with client.producer("t") as producer:
            await producer.send_many([b"a", b"b"], tag="x")
            await producer.send_many([b"c", b"d"], [b"k", None], tag="y")
            await producer.send_many([b"e"])
            await producer.send_one_way(b"f", tag="x")
        async with client.consumer("t", start="start", tags=["x"]) as consumer:
            assert [value for _, value, _ in await read(consumer, 3)] == [b"a", b"b", b"f"]
        async with client.consumer("t", start="start", tags=["y"]) as consumer:
            assert [(each.value, each.key) for each in (await consumer.next_batch()).messages()] == [
                (b"c", b"k"),
                (b"d", None),
            ]

    with_client(test)
