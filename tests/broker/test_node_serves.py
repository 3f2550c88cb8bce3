"""One broker on memory storage, spoken to frame by frame."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.errors import RefusedError
from mqcore.guarantees import Level
from mqcore.protocol import Code, Failed, Fatal, Fetched, Ping, Pong, Produced, Result, error_for

pytestmark = pytest.mark.quick


def test_what_is_produced_is_fetched_byte_for_byte(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            first = await client.produce(topic, [b"one", b"", b"three"])
            second = await client.produce(topic, [b"four"])
            assert (first.base_offset, second.base_offset) == (0, 3)
            assert first.epoch == client.welcome.epoch
            assert first.level == Level.MEMORY
            assert await client.read_all(topic) == [(0, b"one"), (1, b""), (2, b"three"), (3, b"four")]

    run_virtual(main)


def test_requests_of_one_write_are_answered_in_order_with_their_own_offsets(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines", partitions=2)
            sends = [client.produce_message(topic, [b"%d" % n], partition=n % 2) for n in range(20)]
            await client.send(*sends, Ping(9999))
            replies = {}
            for _ in range(21):
                reply = await client.receive()
                replies[reply.request_id] = reply
            assert isinstance(replies[9999], Pong)
            assert [replies[send.request_id].base_offset for send in sends] == [n // 2 for n in range(20)]
            assert [v for _, v in await client.read_all(topic, partition=1)] == [b"%d" % n for n in range(1, 20, 2)]

    run_virtual(main)


def test_a_long_poll_wakes_when_something_is_committed_and_ends_when_its_wait_is_over(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as reader, setup.client() as writer:
            topic = await writer.create("lines")
            before = trio.current_time()
            empty = await reader.fetch(topic, 0, wait_ms=700)
            assert (empty.next_offset, list(empty.batches)) == (0, [])
            assert trio.current_time() - before == pytest.approx(0.7)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.produce, topic, [b"x"])
                before = trio.current_time()
                full = await reader.fetch(topic, 0, wait_ms=50_000)
                assert trio.current_time() - before < 1
            assert full.next_offset == 1

    run_virtual(main)


def test_a_one_way_send_is_stored_and_not_answered(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            await client.send(client.produce_message(topic, [b"x"], one_way=True), Ping(77))
            assert await client.receive() == Pong(77)
            assert await client.read_all(topic) == [(0, b"x")]

    run_virtual(main)


def test_g07_a_rejected_batch_is_never_read(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            good = client.produce_message(topic, [b"good"])
            bad = bytearray(good.batch)
            bad[-1] ^= 1
            await client.send(good._replace(request_id=901, batch=bytes(bad)))
            refused = await client.receive()
            assert isinstance(refused, Failed)
            assert refused.code == Code.CHECKSUM
            unknown = await client.produce(b"\0" * 16, [b"x"])
            assert unknown.code == Code.UNKNOWN_TOPIC
            wrong = await client.produce(topic, [b"x"], partition=1)
            assert wrong.code == Code.UNKNOWN_PARTITION
            assert "0 to 0" in wrong.text
            assert await client.read_all(topic) == []

    run_virtual(main)


def test_g15_a_retry_is_answered_with_the_first_offset_and_stored_once(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            keys = {"producer_id": 7, "producer_epoch": 0}
            first = await client.produce(topic, [b"a", b"b"], first_sequence=0, **keys)
            again = await client.produce(topic, [b"a", b"b"], first_sequence=0, **keys)
            assert (again.base_offset, again.duplicate) == (first.base_offset, True)
            gap = await client.produce(topic, [b"d"], first_sequence=3, **keys)
            assert gap.code == Code.SEQUENCE_GAP
            assert (await client.produce(topic, [b"c"], first_sequence=2, **keys)).base_offset == 2
            assert len(await client.read_all(topic)) == 3

    run_virtual(main)


def test_g18_sends_of_another_strength_are_refused_by_name(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            strong = await client.produce(topic, [b"x"], policy=3)
            assert strong.code == Code.POLICY_TOO_STRONG
            refused = await client.call("topic.create", name="strong", config={"flush": "sync"})
            assert refused.code == Code.REFUSED
            assert isinstance(error_for(refused.code, refused.text), RefusedError)
            assert "flush" in refused.text
            unknown = await client.call("topic.create", name="odd", config={"colour": "red"})
            assert "'colour'" in unknown.text
            assert await client.read_all(topic) == []

    run_virtual(main)


@pytest.mark.parametrize("name", ["a/b", "..", "a\x07", "x" * 300, "", "é"])
def test_a_bad_topic_name_is_refused_with_the_rule(open_setup: Any, run_virtual: Any, name: str) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            refused = await client.call("topic.create", name=name)
            assert isinstance(refused, Failed)
            assert 100 <= refused.code < 200
            assert "name" in refused.text
            assert "\x07" not in refused.text

    run_virtual(main)


def test_topics_are_listed_altered_described_and_deleted(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            assert (await client.call("topic.create", name="lines")).code == Code.TOPIC_EXISTS
            await client.produce(topic, [b"x", b"y"])
            altered = await client.call("topic.alter", name="lines", partitions=3)
            assert altered.value["partitions"] == 3
            fewer = await client.call("topic.alter", name="lines", partitions=2)
            assert "never lowered" in fewer.text
            described = (await client.call("topic.describe", name="lines")).value
            assert [log["end_offset"] for log in described["logs"]] == [2, 0, 0]
            assert [each["name"] for each in (await client.call("topic.list")).value] == ["lines"]
            await client.call("topic.delete", name="lines")
            gone = await client.fetch(topic, 0)
            assert gone.code == Code.UNKNOWN_TOPIC
            again = await client.create("lines")
            assert again != topic
            assert await client.read_all(again) == []

    run_virtual(main)


def test_offsets_are_looked_up_at_start_end_and_time(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            await client.produce(topic, [b"x", b"y"])
            for at, offset in (("start", 0), ("end", 2), (0, 0), (2**60, 2)):
                found = await client.call("offsets.lookup", topic="lines", partition=0, at=at)
                assert isinstance(found, Result), found
                assert found.value["offset"] == offset
            odd = await client.call("offsets.lookup", topic="lines", partition=0, at="noon")
            assert "'noon'" in odd.text

    run_virtual(main)


def test_an_unknown_operation_and_an_unknown_argument_are_named(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            assert "'topic.paint'" in (await client.call("topic.paint")).text
            assert "'colour'" in (await client.call("topic.list", colour=1)).text
            assert (await client.call("operate", part="nobody", operation="x")).code == Code.UNKNOWN_OPERATION

    run_virtual(main)


def test_a_second_stream_presents_the_session_and_a_stranger_is_refused(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            async with setup.client(greet=False) as second:
                assert (await second.greet(client.welcome.session)).session == client.welcome.session
            async with setup.client(greet=False) as stranger:
                refused = await stranger.greet(b"x" * 16)
                assert isinstance(refused, Fatal)
                assert refused.code == Code.UNKNOWN_SESSION

    run_virtual(main)


def test_garbage_ends_that_connection_with_a_reason_and_no_other(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as good:
            async with setup.client(greet=False) as bad:
                await bad.stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                refused = await bad.receive()
                assert refused.code == Code.NOT_THIS_PROTOCOL
                assert await bad.receive() is None
            assert isinstance(await good.call("topic.list"), Result)

    run_virtual(main)


def test_g20_half_open_silent_and_stuck_peers_are_let_go(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup:
            async with setup.client(greet=False) as silent, setup.client() as stuck:
                await stuck.stream.send_all(b"\x40\x00")
                assert len(setup.broker.connections) == 2
                assert (await silent.receive()).code == Code.HANDSHAKE_TIMEOUT
                assert (await stuck.receive()).code == Code.STALLED
                assert await silent.receive() is None
                assert await stuck.receive() is None
            await trio.testing.wait_all_tasks_blocked()
            assert not setup.broker.connections

    run_virtual(main)


def test_the_connection_after_the_last_one_allowed_is_told_so(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup(limits={"connections_max": 2}) as setup:
            async with setup.client(), setup.client(), setup.client(greet=False) as third:
                refused = await third.receive()
                assert refused.code == Code.TOO_MANY_CONNECTIONS
                assert "connections_max" in refused.text

    run_virtual(main)


def test_a_slow_reader_costs_no_memory_and_holds_up_nobody(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as writer, setup.client() as slow, setup.client() as other:
            topic = await writer.create("lines")
            for _ in range(32):
                await writer.produce(topic, [b"x" * 100_000])
            for _ in range(200):
                await slow.send(client_fetch(slow, topic))
            reply = await other.fetch(topic, 0)
            assert isinstance(reply, Fetched)
            assert isinstance(await writer.produce(topic, [b"y"]), Produced)

    def client_fetch(client: Any, topic: bytes) -> Any:
        from mqcore.protocol import Fetch

        return Fetch(client.id(), topic, 0, 0, 0, 1 << 22, 0)

    run_virtual(main)


def test_an_orderly_stop_answers_what_is_in_flight_and_tells_the_clients(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            await client.produce(topic, [b"x"])
            async with trio.open_nursery() as nursery:
                replies: list[Any] = []

                async def long_poll() -> None:
                    replies.append(await client.fetch(topic, 1, wait_ms=60_000))
                    replies.append(await client.receive())

                nursery.start_soon(long_poll)
                await trio.testing.wait_all_tasks_blocked()
                setup.broker.stop()
            assert isinstance(replies[0], Fetched)
            assert isinstance(replies[1], Fatal)
            assert replies[1].code == Code.SHUTTING_DOWN

    run_virtual(main)
