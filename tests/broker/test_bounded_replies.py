"""G20: administrative calls cost bounded memory, whatever a peer asks and however little it reads."""

from __future__ import annotations

from typing import Any

import trio

from mqcore.protocol import Call, Code, Fatal, Result

CALLS = 400


def test_g20_calls_whose_replies_are_left_unread_queue_no_more_than_a_few_replies(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client, setup.client() as lazy:
            for number in range(200):
                await client.create("n" * 190 + f"{number}")
            one_reply = len(str((await client.call("topic.list")).value))
            async with trio.open_nursery() as nursery:
                calls = [Call(lazy.id(), "topic.list", {}) for _ in range(CALLS)]
                nursery.start_soon(lazy.send, *calls)
                await trio.sleep(1)
                queued = max(sum(map(len, each.outbox._buffers)) for each in setup.broker.connections)
                assert queued < 1024 * 1024 + 10 * one_reply < CALLS * one_reply / 4
                assert len((await client.call("topic.list")).value) == 200
                replies = [await lazy.receive() for _ in range(CALLS)]
            assert all(isinstance(reply, Result) for reply in replies)
            assert sorted(reply.request_id for reply in replies) == [call.request_id for call in calls]

    run_virtual(main)


def test_g20_a_call_above_the_limit_is_refused_before_its_json_is_read(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup(limits={"admin_bytes_max": 8192}) as setup:
            for size, refused in ((8_000, False), (8_192, True)):
                async with setup.client() as client:
                    reply = await client.call("topic.list", x="y" * size)
                    assert isinstance(reply, Fatal) is refused
                    assert reply.code == (Code.FRAME_TOO_LARGE if refused else Code.INVALID_REQUEST)

    run_virtual(main)
