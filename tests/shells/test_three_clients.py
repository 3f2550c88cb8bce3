"""What each of the three clients does, in the same words."""

from __future__ import annotations

from typing import Any

import pytest
from three_shells import Shell

import mqcore
import mqcore.aio
import mqcore.client
import mqcore.sync
from mqcore.guarantees import Level


def test_what_is_sent_is_read_with_all_that_belongs_to_it(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            assert (await shell.do(client.admin.create_topic(topic, partitions=2))).partitions == 2
            async with shell.enter(client.producer(topic)) as producer:
                first = await shell.do(producer.send(b"plain", partition=1))
                second = await shell.do(producer.send(b"rich", b"key", {"name": b"value"}, 1))
            assert (first.topic, first.partition, first.offset, first.level) == (topic, 1, 0, Level.MEMORY)
            assert second.offset == 1
            async with shell.enter(client.consumer(topic, start="start")) as consumer:
                plain, rich = await shell.take(consumer, 2)
            assert (plain.value, plain.partition, plain.key, plain.headers) == (b"plain", 1, None, ())
            assert (rich.value, rich.key, rich.headers, rich.offset) == (b"rich", b"key", (("name", b"value"),), 1)
            assert [each.name for each in await shell.do(client.admin.list_topics()) if each.name == topic] == [topic]
            assert client.node

    shell.run(scenario)


def test_messages_have_tags_by_which_consumers_choose(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic)) as producer:
                await shell.do(producer.send(b"0", tag="x"))
                deliveries = [producer.post(b"1", tag="y"), producer.post(b"2"), *producer.post_many([b"3"], tag="x")]
                for each in deliveries:
                    await shell.do(each.wait())
                await shell.do(producer.send_many([b"4", b"5"], tag="y"))
                await shell.do(producer.send_one_way(b"6", tag="x"))
            async with shell.enter(client.consumer(topic, start="start", tags=["x"])) as consumer:
                found = await shell.take(consumer, 3)
            assert [(each.offset, each.value, each.tag) for each in found] == [(n, b"%d" % n, "x") for n in (0, 3, 6)]
            async with shell.enter(client.consumer(topic, start="start", tags=["y"])) as consumer:
                batch = await shell.do(consumer.next_batch())
                assert batch.offset == 1
                assert [each.offset for each in batch.messages()] == list(batch.offsets)
                assert {each.tag for each in batch.messages()} == {"y"}

    shell.run(scenario)


def test_what_is_posted_keeps_its_order_and_each_delivery_has_its_own_receipt(
    shell: Shell, broker_url: str, topic: str
) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic)) as producer:
                singles = [producer.post(b"%d" % number) for number in range(1000)]
                (many,) = producer.post_many([b"a", b"b"])
                (receipt,) = await shell.do(producer.send_many([b"c", b"d", b"e"]))
                last = producer.post(b"last")
                await shell.do(producer.flush())
                assert last.is_done
                await shell.do(producer.send_one_way(b"unasked"))
                assert [(await shell.do(each.wait())).offset for each in singles] == list(range(1000))
                assert (many.count, many.result().offset, many.result().count) == (2, 1000, 2)
                assert (receipt.offset, receipt.count, last.result().offset) == (1002, 3, 1005)
            async with shell.enter(client.consumer(topic, start="start")) as consumer:
                values = [message.value for message in await shell.take(consumer, 1007)]
            assert values == [b"%d" % number for number in range(1000)] + [b"a", b"b", b"c", b"d", b"e"] + [
                b"last", b"unasked",
            ]  # fmt: skip

    shell.run(scenario)


def test_leaving_the_block_waits_for_what_was_posted(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic, linger_ms=60_000)) as producer:
                deliveries = [producer.post(b"x") for _ in range(100)]
            assert [each.result().offset for each in deliveries] == list(range(100))
            with pytest.raises(shell.closed_error):
                await shell.do(producer.send(b"late"))
            with pytest.raises(shell.closed_error):
                producer.post_many([b"late"])

    shell.run(scenario)


def test_an_error_in_the_block_is_raised_as_it_is_and_what_was_posted_is_dropped(
    shell: Shell, broker_url: str, topic: str
) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            deliveries: list[Any] = []

            async def leave_by_error() -> None:
                async with shell.enter(client.producer(topic, linger_ms=60_000)) as producer:
                    deliveries.append(producer.post(b"x"))
                    raise LookupError("mine")

            with pytest.raises(LookupError, match="mine"):
                await leave_by_error()
            (delivery,) = deliveries
            assert delivery.is_done
            with pytest.raises((mqcore.RejectedError, mqcore.OutcomeUnknownError)):
                delivery.result()

    with_client_left: list[Any] = []

    async def outer() -> None:
        async with shell.connect(broker_url) as client:
            with_client_left.append(client)
            raise LookupError("mine too")

    shell.run(scenario)
    with pytest.raises(LookupError, match="mine too"):
        shell.run(outer)
    assert with_client_left


def test_errors_are_those_of_the_client(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            with pytest.raises(mqcore.RejectedError, match="no topic"):
                async with shell.enter(client.producer("no-such-topic")):
                    pass
            with pytest.raises(mqcore.ConfigurationError, match="linger"):
                async with shell.enter(client.producer(topic, linger=1)):
                    pass
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic)) as producer:
                with pytest.raises(mqcore.RejectedError, match="at most"):
                    await shell.do(producer.send(bytes(9 << 20)))
                with pytest.raises(TypeError, match="bytes"):
                    await shell.do(producer.send("text"))
                with pytest.raises(mqcore.ConfigurationError, match="header"):
                    await shell.do(producer.send(b"", headers={"": b""}))
                with pytest.raises(mqcore.ConfigurationError, match="partitions 0 to 0"):
                    await shell.do(producer.send(b"", partition=7))
                assert (await shell.do(producer.send(b"goes on"))).offset == 0
            async with shell.enter(client.consumer(topic, start="start")) as consumer:
                with pytest.raises(mqcore.ConfigurationError, match="not read by this consumer"):
                    await shell.do(consumer.seek("start", 3))
                assert (await shell.take(consumer, 1))[0].value == b"goes on"
        with pytest.raises(mqcore.NotReachedError):
            async with shell.connect("tcp://127.0.0.1:1", connect_timeout_ms=50):
                pass

    shell.run(scenario)


def test_reading_by_message_and_by_batch_may_alternate_and_positions_tell_where(
    shell: Shell, broker_url: str, topic: str
) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic)) as producer:
                for start in range(0, 40, 10):
                    await shell.do(producer.send_many([b"%d" % number for number in range(start, start + 10)]))
            async with shell.enter(client.consumer(topic, start="start")) as consumer:
                assert consumer.positions[0][0] == 0
                assert [each.value for each in await shell.take(consumer, 3)] == [b"0", b"1", b"2"]
                middle = consumer.positions
                assert middle[0][0] == 3
                batch = await shell.do(consumer.next_batch())
                assert (batch.offset, len(batch)) == (3, 7)
                assert consumer.positions[0] == (10, batch.epoch)
                (batch,) = await shell.take(consumer.batches(), 1)
                assert (batch.offset, consumer.positions[0][0]) == (10, 20)
                await shell.do(consumer.seek(middle))
                assert consumer.positions == middle
                assert [each.offset for each in await shell.take(consumer, 37)] == list(range(3, 40))
                await shell.do(consumer.seek(35, 0))
                assert [each.offset for each in await shell.take(consumer, 5)] == list(range(35, 40))
            async with shell.enter(client.consumer(topic, start=middle)) as consumer:
                assert (await shell.take(consumer, 1))[0].offset == 3
                assert consumer.staleness_ms == {0: None}

    shell.run(scenario)


def test_a_poll_returns_what_is_there_or_nothing_in_time(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic)) as producer:
                await shell.do(producer.send_many([b"%d" % number for number in range(5)]))
            async with shell.enter(client.consumer(topic, start="start")) as consumer:
                found = [await shell.do(consumer.poll(3, wait_ms=20_000)) for _ in range(2)]
                assert [[each.offset for each in messages] for messages in found] == [[0, 1, 2], [3, 4]]
                assert await shell.do(consumer.poll(wait_ms=20)) == []

    shell.run(scenario)


def test_a_seek_that_fails_midway_leaves_no_reader_with_messages_from_before(
    shell: Shell, broker_url: str, topic: str
) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic, config={"partitions": 2}))
            async with shell.enter(client.producer(topic)) as producer:
                for partition in (0, 1):
                    for _ in range(4):
                        await shell.do(producer.send_many([b"v"] * 10, partition=partition))
            async with shell.enter(client.consumer(topic, start="start")) as consumer:
                await shell.take(consumer, 25)  # and more has come with them
                with pytest.raises(mqcore.ConfigurationError, match="offset -1"):
                    await shell.do(consumer.seek({0: (35, 0), 1: (-1, 0)}))
                position, other = (consumer.positions[number][0] for number in (0, 1))
                assert position == 35
                left = await shell.take(consumer, 5 + 40 - other)
                assert [each.offset for each in left if each.partition == 0] == list(range(35, 40))
                assert [each.offset for each in left if each.partition == 1] == list(range(other, 40))

    shell.run(scenario)


def test_a_producer_with_a_small_buffer_takes_all_in_the_end(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic, buffer_bytes_max=10_000)) as producer:
                receipts = [await shell.do(producer.send(bytes(900))) for _ in range(50)]
                receipts += await shell.do(producer.send_many([bytes(900)] * 9))
                deliveries = []
                for _ in range(50):
                    if shell.name != "sync":
                        await shell.do(producer.wait_for_room(900))
                    deliveries.append(producer.post(bytes(900)))
                receipts += [await shell.do(each.wait()) for each in deliveries]
            assert sum(each.count for each in receipts) == 109

    shell.run(scenario)


def test_r12_a_producer_with_a_name_goes_on_where_the_one_before_was(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.enter(shell.module.connect(broker_url)) as client:
            await shell.do(client.admin.create_topic(topic))
            async with shell.enter(client.producer(topic, name="billing")) as first:
                receipt = await shell.do(first.send(b"x"))
                async with shell.enter(client.producer(topic, name="billing")) as second:
                    assert (second.name, second.epoch, second.forgotten) == ("billing", 2, frozenset())
                    assert dict(second.last) == {receipt.partition: receipt.offset}
                    with pytest.raises(mqcore.errors.ProducerFencedError, match="epoch 2"):
                        await shell.do(first.send(b"late"))
                    await shell.do(second.send(b"y"))
            assert [each.epoch for each in await shell.do(client.producers.list_names()) if each.topic == topic] == [2]
            described = await shell.do(client.producers.describe("billing", topic))
            assert described.epoch == 2
            assert await shell.do(client.producers.delete("billing", topic)) == 2

    shell.run(scenario)


@pytest.mark.parametrize("module", [mqcore.aio, mqcore.sync])
@pytest.mark.parametrize("name", ["Client", "Producer", "Consumer", "Delivery", "GroupConsumer"])
def test_each_has_the_names_of_the_client_for_trio(module: Any, name: str) -> None:
    ours = {each for each in dir(getattr(module, name)) if not each.startswith("_")}
    theirs = {each for each in dir(getattr(mqcore.client, name)) if not each.startswith("_")}
    # What is for shells, what the client's own rounds call, and closing, which is leaving the block.
    internal = {"take_received", "add_done_callback", "move", "expire", "close", "aclose", "join", "leave", "may_go_on"}
    fields = {"Producer": {"losses"}, "Consumer": {"topic"}, "GroupConsumer": {"topic", "group", "member"}}
    waits = {"wait_for_room"} if module is mqcore.sync else set()  # there, ``post`` waits
    assert ours == (theirs | fields.get(name, set())) - internal - waits


@pytest.mark.parametrize("module", [mqcore.aio, mqcore.sync])
@pytest.mark.parametrize("name", ["Admin", "GroupAdmin", "ProducerAdmin", "SetAdmin"])
def test_each_has_every_request(module: Any, name: str) -> None:
    ours = getattr(__import__(f"{module.__name__}._client", fromlist=[name]), name)
    theirs = getattr(mqcore.client, name)
    names = {each for each in vars(theirs) if not each.startswith("_")}
    assert {each for each in vars(ours) if not each.startswith("_")} == names
    assert all(getattr(ours, each).__doc__ for each in names)
