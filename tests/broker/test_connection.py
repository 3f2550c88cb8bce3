"""One stream of one client at a running node: time limits that measure silence, and waits that are told the truth."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mqcore.abc import Notice
from mqcore.protocol import Code, Failed, Fetch, Fetched, Produced

SIZE = 4 * 1024 * 1024


@pytest.mark.parametrize(("bytes_a_second", "let_go"), [(100_000, False), (0, True)], ids=["slow", "silent"])
def test_g20_a_peer_that_takes_a_large_reply_slowly_is_served_and_one_that_takes_none_of_it_is_not(
    open_setup: Any, run_virtual: Any, bytes_a_second: int, let_go: bool
) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        keys = {"limits": {"send_stall_timeout_ms": 5_000, "idle_timeout_ms": 20_000}, "report": notices.append}
        async with open_setup(**keys) as setup, setup.client() as writer:
            topic = await writer.create("lines")
            assert isinstance(await writer.produce(topic, [bytes(SIZE)]), Produced)
            async with setup.client(url=f"{setup.broker.urls[0]}?buffer_bytes=4096") as reader:
                await reader.send(Fetch(reader.id(), topic, 0, 0, 0, 1 << 20, 0))
                taken, began = 0, trio.current_time()
                while bytes_a_second and taken < SIZE:
                    taken += len(await reader.stream.receive_some(4096))
                    await trio.sleep(4096 / bytes_a_second)
                if not bytes_a_second:
                    await trio.sleep(30)
                assert trio.current_time() - began > 25, "longer than both limits"
            assert any("replies left unread" in notice.text for notice in notices) is let_go

    run_virtual(main)


def test_g20_a_frame_that_arrives_slowly_is_waited_for_as_long_as_its_bytes_come(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        keys = {"limits": {"frame_timeout_ms": 2_000, "idle_timeout_ms": 3_000}}
        async with open_setup(**keys) as setup, setup.client() as client:
            topic = await client.create("lines")
            frame = b"".join(
                bytes(part) for part in client.connection.send(client.produce_message(topic, [b"x" * 200]))
            )
            for at in range(0, len(frame), 20):
                await trio.sleep(1.5)
                await client.stream.send_all(frame[at : at + 20])
            assert trio.current_time() > 15
            assert isinstance(await client.receive(), Produced)

    run_virtual(main)


def test_a_fetch_that_would_wait_is_not_answered_in_a_busy_loop_however_low_the_limit(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup(limits={"fetch_wait_ms_max": 0}) as setup, setup.client() as client:
            topic = await client.create("lines")
            began = trio.current_time()
            for _ in range(20):
                assert not (await client.fetch(topic, 0, wait_ms=5_000)).batches
            assert round(trio.current_time() - began, 3) == 1.0
            for _ in range(20):
                assert not (await client.fetch(topic, 0, wait_ms=0)).batches
            assert round(trio.current_time() - began, 3) == 1.0, "one that does not want to wait is answered at once"

    run_virtual(main)


def test_a_topic_that_is_deleted_under_a_waiting_consumer_is_told_at_once(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client, setup.client() as reader:
            topic = await client.create("lines")
            assert isinstance(await client.produce(topic, [b"x"]), Produced)
            assert isinstance(await reader.fetch(topic, 0), Fetched)
            await reader.send(Fetch(reader.id(), topic, 0, 1, 0, 1 << 20, 60_000))
            await trio.sleep(1)
            began = trio.current_time()
            await client.call("topic.delete", name="lines")
            reply = await reader.receive()
            assert isinstance(reply, Failed)
            assert reply.code == Code.UNKNOWN_TOPIC
            assert trio.current_time() == began

    run_virtual(main)
