"""Room in a producer's buffer: in turn, so that what is large is not overtaken for ever; nothing is lost by leaving."""

from __future__ import annotations

import random
from collections import deque

import trio
import trio.testing

import mqcore
from mqcore.client._accumulator import Accumulator
from mqcore.client._backoff import Backoff
from mqcore.client._options import ProducerOptions
from mqcore.client._producer_state import ProducerState
from mqcore.client._room import Room
from mqcore.limits import Limits


def room_of(buffer_bytes: int) -> tuple[Room, ProducerState]:
    state = ProducerState(
        "t",
        ProducerOptions(buffer_bytes_max=buffer_bytes),
        producer_id=1,
        limits=Limits(),
        backoff=Backoff(1, 1),
        random=random.Random(1),
        lost=lambda loss: None,
    )
    lines: deque = deque()
    accumulator = Accumulator(
        state, 1, now=lambda: 0.0, wall_ns=lambda: 0, line_of=lambda _: lines, own_limits=Limits()
    )
    return Room(accumulator), state


def test_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    async def main() -> None:
        order: list[str] = []
        room, state = room_of(1_000)
        state.bytes_held = 900

        async def ask(name: str, size: int) -> None:
            await room.wait(size)
            order.append(name)
            state.bytes_held += size

        async with trio.open_nursery() as nursery:
            for name, size in (("large", 800), ("small", 10), ("smaller", 1)):
                nursery.start_soon(ask, name, size)
                await trio.testing.wait_all_tasks_blocked()
            assert not room.is_there(1), "whoever does not wait comes after those who do"
            room.give()
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            state.bytes_held = 130
            room.give()
            await trio.testing.wait_all_tasks_blocked()
            assert order == ["large"]
            state.bytes_held = 0
            room.give()
        assert set(order) == {"large", "small", "smaller"}
        assert state.bytes_held == 11

    trio.run(main)


def test_a_task_that_leaves_lets_those_behind_it_go_on() -> None:
    async def main() -> None:
        room, state = room_of(1_000)
        state.bytes_held = 900
        left: list[str] = []

        async def give_up() -> None:
            with trio.move_on_after(1):
                await room.wait(800)
            left.append("large")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            await room.wait(10)
            left.append("small")
        assert sorted(left) == ["large", "small"]
        assert not room.waiting
        assert state.bytes_held == 900

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_was_granted_is_held_for_its_task_and_is_its_to_post() -> None:
    async def main() -> None:
        room, state = room_of(1_000)
        state.bytes_held = 900
        seen: list[bool] = []

        async def ask() -> None:
            await room.wait(500)
            seen.append(room.is_there(500))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(room.wait, 900)
            await trio.testing.wait_all_tasks_blocked()
            state.bytes_held = 100
            room.give()
            assert not room.is_there(1)
            assert state.bytes_held == 600
            await trio.testing.wait_all_tasks_blocked()
            assert seen == [True]
            state.bytes_held = 0
            room.give()

    trio.run(main)


def test_a_large_send_gets_its_turn_among_endless_small_ones() -> None:
    async def main() -> None:
        options = {"buffer_bytes_max": 100_000, "batch_bytes": 1_000}
        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://fair"], flush="none", topics={"t": {}}),
            mqcore.connect("inproc://fair") as client,
            client.producer("t", **options) as producer,
            trio.open_nursery() as nursery,
        ):
            small, many_sent = 0, trio.Event()

            async def send_small() -> None:
                nonlocal small
                while True:
                    await producer.send(bytes(1_000))
                    small += 1
                    if small == 500:
                        many_sent.set()

            for _ in range(200):
                nursery.start_soon(send_small)
            await many_sent.wait()
            before = small
            await producer.send(bytes(90_000))
            assert small - before < 1_000
            nursery.cancel_scope.cancel()

    trio.run(main)
