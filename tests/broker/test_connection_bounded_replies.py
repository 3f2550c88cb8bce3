"""G20: administrative calls cost bounded memory, whatever a peer asks and however little it reads."""

from __future__ import annotations

import json
from typing import Any

import trio

import mqcore.client
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
                    assert ("at most 8192 (limit admin_bytes_max)" in reply.text) is refused

    run_virtual(main)


def test_g20_lists_of_topics_come_in_pages_that_fit_the_limit(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup(limits={"admin_bytes_max": 8192}) as setup, setup.client() as client:
            names = sorted("n" * 150 + f"{number:03}" for number in range(100))
            for name in names:
                await client.create(name)
            found: list[str] = []
            pages = 0
            while page := (await client.call("topic.list", after=found[-1] if found else "")).value:
                assert len(json.dumps(page)) <= 8192
                found += [topic["name"] for topic in page]
                pages += 1
            assert found == names
            assert pages > 2
            assert [each["name"] for each in (await client.call("topic.list", limit=2)).value] == names[:2]
            assert (await client.call("topic.list", limit=0)).code == Code.INVALID_REQUEST

    run_virtual(main)


def test_g20_a_topic_of_many_partitions_is_described_in_pages(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup(limits={"admin_bytes_max": 8192}) as setup, setup.client() as client:
            await client.create("wide", partitions=300)
            first = (await client.call("topic.describe", name="wide")).value
            assert len(json.dumps(first)) <= 8192
            assert 0 < len(first["logs"]) < 300
            assert len(setup.broker.reign.partitions) <= len(first["logs"]) + 1
            (third,) = (await client.call("topic.describe", name="wide", after=1, limit=1)).value["logs"]
            assert third["partition"] == 2
            async with mqcore.client.connect(setup.broker.urls[0]) as whole:
                topic = await whole.admin.describe_topic("wide")
                assert [log.partition for log in topic.logs] == list(range(300))
                for number in range(60):
                    await client.create(f"{number:0>190}")
                assert len(await whole.admin.list_topics()) == 61

    run_virtual(main)
