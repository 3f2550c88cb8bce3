"""Handlers of a group's members: what is done is committed, and what was begun is handled by whoever comes next."""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio

import mqcore
from mqcore.broker import Node
from mqcore.client import Message
from mqcore.testing import run_beside_broker

QUICK: dict[str, Any] = {"start": "start", "pause_ms_first": 10, "attempts_max": 2, "commit_interval_ms": 50}
COUNT = 60


async def fill(url: str) -> None:
    async with mqcore.connect(url) as client:
        await client.admin.create_topic("d", 1)
        await client.admin.create_topic("t", 2, {"dead_letter": "d"})
        async with client.producer("t") as producer:
            for number in range(COUNT):
                await producer.send(b"%d" % number, b"%d" % (number % 7))


def test_a_member_that_is_gone_is_taken_over_from_and_nothing_is_lost() -> None:
    async def main(node: Node) -> None:
        url = node.urls[0]
        await fill(url)
        done: Counter[bytes] = Counter()
        changed = trio.Event()

        async def handler(message: Message) -> None:
            await trio.sleep(0.02)
            if message.value == b"13":
                raise ValueError("no")
            done[message.value] += 1
            changed.set()

        async def member() -> None:
            async with mqcore.connect(url) as client:
                await client.handle("t", handler, group="g", **QUICK)

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()
            nursery.start_soon(_within, first, member)
            nursery.start_soon(member)
            while sum(done.values()) < COUNT // 3:
                changed = trio.Event()
                await changed.wait()
            first.cancel()
            with trio.fail_after(120):
                while len(done) < COUNT - 1:
                    changed = trio.Event()
                    await changed.wait()
            nursery.cancel_scope.cancel()
        assert set(done) == {b"%d" % number for number in range(COUNT)} - {b"13"}

        # What was committed is not handled again.
        again: Counter[bytes] = Counter()

        async def note(message: Message) -> None:
            again[message.value] += 1

        with trio.move_on_after(10):
            async with mqcore.connect(url) as client:
                await client.handle("t", note, group="g", **QUICK)
        assert sum(again.values()) <= 2

    run_beside_broker(main, seed=3)


async def _within(scope: trio.CancelScope, member: Any) -> None:
    with scope:
        await member()
