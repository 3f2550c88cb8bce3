"""How a member of a group ends: the others are told, whatever its last commit or its connection does (virtual time)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import mqcore
from mqcore.broker import Node
from mqcore.client import Client, GroupConsumer
from mqcore.testing import run_beside_broker

LONG: dict[str, Any] = {"start": "start", "session_ms": 600_000, "commit_interval_ms": 3_600_000}
"""A session that is not what ends a member in these tests."""


def beside(test: Callable[[str, Client], Awaitable[None]]) -> None:
    async def main(node: Node) -> None:
        async with mqcore.connect(node.urls[0]) as client:
            await client.admin.create_topic("lines", partitions=1)
            async with client.producer("lines") as producer:
                for number in range(10):
                    await producer.send(b"%d" % number)
            await test(node.urls[0], client)

    run_beside_broker(main)


async def members_of(client: Client) -> list[str]:
    return [member.name for member in (await client.groups.describe("g"))[0].members]


async def hang(*_: object) -> Any:
    await trio.sleep_forever()


def test_a_last_commit_that_hangs_does_not_keep_the_others_waiting_for_the_partitions() -> None:
    async def main(url: str, client: Client) -> None:
        async with client.consumer("lines", group="g", **LONG) as consumer:
            assert isinstance(consumer, GroupConsumer)
            await consumer.__anext__()
            await consumer.commit()
            await consumer.__anext__()
            for link in consumer._links:
                link.commit = hang  # type: ignore[method-assign]
        assert await members_of(client) == []

    beside(main)


def test_a_member_that_could_not_leave_is_none_any_more_when_its_session_is_over() -> None:
    async def main(url: str, client: Client) -> None:
        async with client.consumer("lines", group="g", **{**LONG, "session_ms": 1_000}) as consumer:
            assert isinstance(consumer, GroupConsumer)
            await consumer.__anext__()
            await consumer.commit()
            for link in consumer._links:
                link.leave = trio.lowlevel.checkpoint  # type: ignore[method-assign]
        await trio.sleep(3)
        assert await members_of(client) == []

    beside(main)


def test_a_member_whose_client_is_cancelled_leaves_and_has_committed_what_was_handled() -> None:
    async def main(url: str, client: Client) -> None:
        reading = trio.Event()

        async def read(scope: trio.CancelScope) -> None:
            with scope:
                async with mqcore.connect(url) as other:
                    async with other.consumer("lines", group="g", **LONG) as consumer:
                        assert isinstance(consumer, GroupConsumer)
                        for _ in range(3):
                            await consumer.__anext__()
                        reading.set()
                        await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(read, scope)
            await reading.wait()
            scope.cancel()
        assert await members_of(client) == []
        assert (await client.groups.describe("g"))[0].partitions[0].offset == 2, "the third was in hand"

    beside(main)


def test_what_is_being_given_up_when_its_member_leaves_is_committed_before_it_leaves() -> None:
    async def main(url: str, client: Client) -> None:
        by_name = {**LONG, "assignor": "range", "commit": "auto"}
        async with client.consumer("lines", group="g", member="b", **by_name) as first:
            assert isinstance(first, GroupConsumer)
            for _ in range(2):
                await first.__anext__()
            async with client.consumer("lines", group="g", member="a", **by_name) as second:
                assert isinstance(second, GroupConsumer)
                with trio.fail_after(60):
                    while first.assignment:  # noqa: ASYNC110 - virtual time, and it has no event
                        await trio.sleep(0.01)
                await first.leave(is_handled=True)
                assert (await second.__anext__()).offset == 2

    beside(main)


def test_what_was_handled_of_a_batch_is_committed_while_the_rest_of_it_is_read_one_by_one() -> None:
    async def main(url: str, client: Client) -> None:
        async with client.producer("lines") as producer:
            await producer.send_many([b"x"] * 90)
        async with client.consumer("lines", group="g", **{**LONG, "commit_interval_ms": 1_000}) as consumer:
            for offset in range(50):
                assert (await consumer.__anext__()).offset == offset
                await trio.sleep(0.1)
            await trio.sleep(2)
            assert (await client.groups.describe("g"))[0].partitions[0].offset == 49, "the one in hand is not handled"

    beside(main)


def test_a_member_that_joins_while_the_last_one_s_end_is_being_written_is_a_member() -> None:
    async def main(url: str, client: Client) -> None:
        generation = 0
        for assignor in ("sticky", "range", "range", "round-robin"):
            # Nothing is waited for in between: the broker still writes that the group is empty.
            async with client.consumer("lines", group="g", assignor=assignor, commit="manual", **LONG) as consumer:
                with trio.fail_after(60):
                    assert (await consumer.__anext__()).offset == 0
                (state,) = await client.groups.describe("g")
                assert (state.assignor, len(state.members)) == (assignor, 1)
                assert state.generation > generation, "what an earlier one was given is below"
                generation = state.generation

    beside(main)


def test_a_member_that_has_no_partition_and_waits_is_told_when_its_client_is_closed() -> None:
    async def main(url: str, client: Client) -> None:
        async def read(other: Client, joined: trio.Event) -> None:
            async with other.consumer("lines", group="g", **LONG) as consumer:
                joined.set()
                with pytest.raises(trio.ClosedResourceError):
                    await consumer.next_batch()
            told.append(True)

        told: list[bool] = []
        async with client.consumer("lines", group="g", **LONG) as first:
            await first.next_batch()
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    async with mqcore.connect(url) as other:
                        joined = trio.Event()
                        nursery.start_soon(read, other, joined)
                        await joined.wait()
                        await trio.sleep(1)
        assert told

    beside(main)
