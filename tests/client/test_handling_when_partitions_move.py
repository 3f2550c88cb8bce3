"""A partition goes to another member with nothing of it running, and what is done of it committed (virtual time)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

import mqcore
from mqcore.broker import Node
from mqcore.client import Message
from mqcore.testing import run_beside_broker

OPTIONS: dict[str, Any] = {
    "start": "start", "group": "g", "assignor": "range", "commit_interval_ms": 3_600_000, "session_ms": 1_000,
}  # fmt: skip
"""By range all of a topic with one partition is the first name's. Nothing is committed by time."""


class Handled:
    """Notes what runs, in which order it was done, and what was begun twice at once."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.running: Counter[int] = Counter()
        self.begun: list[tuple[str, int]] = []
        self.done: list[tuple[str, int]] = []
        self.cancelled: list[tuple[str, int]] = []
        self.at_once: list[int] = []
        self.changed = trio.Event()

    def by(self, name: str) -> Any:
        async def handler(message: Message) -> None:
            if self.running[message.offset]:
                self.at_once.append(message.offset)
            self.running[message.offset] += 1
            self.note(self.begun, name, message)
            try:
                await trio.sleep(self.takes_s)
                self.note(self.done, name, message)
            except trio.Cancelled:
                self.note(self.cancelled, name, message)
                raise
            finally:
                self.running[message.offset] -= 1

        return handler

    def note(self, where: list[tuple[str, int]], name: str, message: Message) -> None:
        where.append((name, message.offset))
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, name: str, offset: int, where: list[tuple[str, int]]) -> None:
        with trio.fail_after(600):
            while (name, offset) not in where:
                await self.changed.wait()


async def fill(url: str, count: int) -> None:
    async with mqcore.connect(url) as client:
        await client.admin.create_topic("t", 1)
        async with client.producer("t") as producer:
            for number in range(count):
                await producer.send(b"%d" % number)


async def member(url: str, name: str, handled: Handled, options: dict[str, Any]) -> None:
    async with mqcore.connect(url) as client:
        await client.handle("t", handled.by(name), member=name, **{**OPTIONS, **options})


@pytest.mark.parametrize("order", ["partition", "key"])
def test_a_partition_is_given_up_when_its_handlers_have_ended_and_that_is_committed(order: str) -> None:
    async def main(node: Node) -> None:
        url = node.urls[0]
        await fill(url, 20)
        handled = Handled(takes_s=3)
        options = {"order": order, "in_flight_max": 4}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member, url, "b", handled, options)
            await handled.until("b", 0, handled.begun)
            nursery.start_soon(member, url, "a", handled, options)
            await handled.until("a", 19, handled.done)
            nursery.cancel_scope.cancel()
        assert handled.at_once == []
        assert handled.cancelled == []
        assert sorted(offset for _, offset in handled.done) == list(range(20)), "each once: what was done is committed"
        first = [offset for name, offset in handled.done if name == "b"]
        assert first
        assert len(first) <= 4, "nothing is begun of a partition that is to be given up"

    run_beside_broker(main, seed=1)


def test_a_handler_that_is_not_done_when_the_partition_is_lost_is_cancelled_before_another_member_begins() -> None:
    async def main(node: Node) -> None:
        url = node.urls[0]
        await fill(url, 3)
        handled = Handled(takes_s=30)
        options = {"rebalance_ms": 500}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member, url, "b", handled, options)
            await handled.until("b", 0, handled.begun)
            nursery.start_soon(member, url, "a", handled, options)
            await handled.until("a", 2, handled.done)
            nursery.cancel_scope.cancel()
        assert handled.at_once == []
        assert handled.cancelled == [("b", 0)]
        assert handled.done == [("a", 0), ("a", 1), ("a", 2)]

    run_beside_broker(main, seed=1)


def test_a_partition_that_was_lost_and_is_here_again_begins_when_what_ran_has_ended() -> None:
    """A handler that takes its time to be cancelled, of a member that is the only one."""

    async def main(node: Node) -> None:
        url = node.urls[0]
        await fill(url, 2)
        handled = Handled(takes_s=1)
        inner = handled.by("b")
        first = trio.Event()

        async def handler(message: Message) -> None:
            with trio.CancelScope(shield=not first.is_set()):
                is_first = not first.is_set()
                first.set()
                if is_first:
                    handled.running[message.offset] += 1
                    await trio.sleep(20)
                    handled.running[message.offset] -= 1
                await inner(message)

        async with trio.open_nursery() as nursery, mqcore.connect(url) as client:
            nursery.start_soon(lambda: client.handle("t", handler, member="b", rebalance_ms=500, **OPTIONS))
            await first.wait()
            # One that takes over and is gone again: the partition comes back.
            async with mqcore.connect(url) as other:
                async with other.consumer("t", member="a", commit="manual", **OPTIONS) as second:
                    assert (await second.__anext__()).offset == 0
            await handled.until("b", 1, handled.done)
            nursery.cancel_scope.cancel()
        assert handled.at_once == []

    run_beside_broker(main, seed=1)
