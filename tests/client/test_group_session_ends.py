"""A member whose session is over, or whose program asks for nothing, gives out nothing of another's (virtual time)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.broker import Node
from mqcore.client import Client, GroupConsumer, Message
from mqcore.testing import run_beside_broker

FAST: dict[str, Any] = {"start": "start", "session_ms": 1_000, "commit_interval_ms": 3_600_000}


def beside(test: Callable[[Client], Awaitable[None]]) -> None:
    async def main(node: Node) -> None:
        async with mqcore.connect(node.urls[0]) as client:
            await client.admin.create_topic("lines", partitions=2)
            async with client.producer("lines") as producer:
                for partition in range(2):
                    await producer.send_many([b"x"] * 10, partition=partition)
            await test(client)

    run_beside_broker(main)


def sleep_without_a_turn(seconds: float) -> None:
    """As of a process that is stopped: time goes on, and no task has a turn."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


async def at_once(consumer: GroupConsumer) -> Message | None:
    """The next message if it is given out without another task having a turn."""
    with trio.CancelScope(deadline=-float("inf")):
        return await consumer.__anext__()
    return None


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(600):
        while not holds():  # noqa: ASYNC110 - virtual time, and what is waited for has no event of its own
            await trio.sleep(0.01)


def test_after_its_session_a_member_gives_out_nothing_of_the_batch_that_it_holds() -> None:
    async def main(client: Client) -> None:
        async with client.consumer("lines", group="g", **FAST) as consumer:
            assert isinstance(consumer, GroupConsumer)
            assert (await consumer.__anext__()).offset == 0
            sleep_without_a_turn(0.8)
            second = await at_once(consumer)
            assert second is not None
            assert second.offset == 1
            sleep_without_a_turn(0.2)
            assert await at_once(consumer) is None, "a tenth before the broker may give it to another member"
            with trio.fail_after(60):
                again = [await consumer.__anext__() for _ in range(20)]
            assert {(each.partition, each.offset) for each in again} == {(p, o) for p in range(2) for o in range(10)}

    beside(main)


def test_after_the_time_to_give_something_up_nothing_else_is_given_out_either() -> None:
    """The commit of the partition that is to be given up hangs; the batch in hand is of the one that stays."""

    async def hang(*_: object) -> Any:
        await trio.sleep_forever()

    async def main(client: Client) -> None:
        slow = {**FAST, "session_ms": 60_000, "rebalance_ms": 5_000, "assignor": "range"}
        async with client.consumer("lines", group="g", member="b", **slow) as first:
            assert isinstance(first, GroupConsumer)
            stays = [await first.__anext__() for _ in range(11)][-1].partition
            for link in first._links:
                link.commit = hang  # type: ignore[method-assign]
            other = "c" if stays == 0 else "a"  # by range the first name has the first partition
            async with client.consumer("lines", group="g", member=other, **slow):
                await until(lambda: first.assignment == [stays])
                assert await at_once(first) is not None
                sleep_without_a_turn(5)
                assert await at_once(first) is None

    beside(main)


def test_a_program_that_asks_for_nothing_gives_its_partitions_up_and_is_back_when_it_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(client: Client) -> None:
        async with client.consumer("lines", group="g", poll_interval_max_ms=30_000, **FAST) as first:
            assert isinstance(first, GroupConsumer)
            for _ in range(4):
                await first.__anext__()
                await trio.sleep(20)  # less than the interval each, of one batch
            assert first.assignment == [0, 1]
            await trio.sleep(20)
            assert first.assignment == []
            assert (await client.groups.describe("g"))[0].members == ()
            async with client.consumer("lines", group="g", **FAST) as second:
                assert isinstance(second, GroupConsumer)
                seen = [await second.__anext__() for _ in range(17)]
                assert min(each.offset for each in seen if each.partition == 0) in (0, 3)
                assert min(each.offset for each in seen if each.partition == 1) in (0, 3)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(first.next_batch)
                    await until(lambda: len(first.assignment) == len(second.assignment) == 1)
                    nursery.cancel_scope.cancel()

    with caplog.at_level(logging.WARNING, "mqcore.client"):
        beside(main)
    (warning,) = [each.getMessage() for each in caplog.records if "poll_interval_max_ms" in each.getMessage()]
    assert "has asked for nothing for 30000 ms (poll_interval_max_ms): it gives its partitions of topic" in warning


def test_a_program_that_waits_for_a_message_asks_all_the_time_and_0_is_no_interval() -> None:
    async def main(client: Client) -> None:
        async with (
            client.consumer("lines", group="g", poll_interval_max_ms=1_000, **{**FAST, "start": "end"}) as first,
            client.consumer("lines", group="h", poll_interval_max_ms=0, **FAST) as second,
        ):
            assert isinstance(first, GroupConsumer)
            assert isinstance(second, GroupConsumer)
            with trio.move_on_after(30):
                await first.next_batch()
            assert (first.assignment, second.assignment) == ([0, 1], [0, 1])

    beside(main)
