"""Push consumption: retries, dead letters and local recovery beside a broker, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import mqcore
from mqcore.abc import Filter, FilterInput
from mqcore.broker import Node
from mqcore.client import Client, Consumer, HandlingOptions, Message
from mqcore.client._handling import Handling
from mqcore.delivery import history_of, original_pairs
from mqcore.errors import ConfigurationError, CorruptionError, NotReachedError, PluginNotFoundError
from mqcore.registry import register, unregister
from mqcore.testing import ModelDisk, model_ports, run_beside_broker, seeded

QUICK: dict[str, Any] = {"start": "start", "pause_ms_first": 100, "pause_ms_max": 400, "attempts_max": 3}


class Seen:
    """A handler that notes what it was given; ``wrong`` says what to raise for a value."""

    def __init__(self, wrong: Callable[[Message, int], Exception | None] = lambda message, attempt: None) -> None:
        self.values: list[bytes] = []
        self.done: list[bytes] = []
        self.wrong = wrong
        self.changed = trio.Event()

    async def __call__(self, message: Message) -> None:
        self.values.append(message.value)
        error = self.wrong(message, self.values.count(message.value))
        self.changed.set()
        self.changed = trio.Event()
        if error is not None:
            raise error
        self.done.append(message.value)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until what was noted is as wanted, at most a minute."""
        with trio.fail_after(60):
            while not reached():
                with trio.move_on_after(0.05):
                    await self.changed.wait()


def beside(test: Callable[[Client], Awaitable[None]], seed: int = 1, disk: ModelDisk | None = None) -> None:
    async def main(node: Node) -> None:
        ports = model_ports(seed, disk or ModelDisk(seeded(seed, "disk")))
        async with mqcore.connect(node.urls[0], ports=ports) as client:
            await test(client)

    run_beside_broker(main, seed=seed)


async def fill(client: Client, topic: str, *values: bytes, keys: list[bytes] | None = None, **config: Any) -> None:
    await client.admin.create_topic(topic, 1, config)
    async with client.producer(topic) as producer:
        for number, value in enumerate(values):
            await producer.send(value, keys[number] if keys else None, {"trace": b"%d" % number})


async def dead(client: Client, topic: str, count: int) -> list[Message]:
    """The first ``count`` messages of a dead-letter topic."""
    found: list[Message] = []
    with trio.fail_after(60):
        async with client.consumer(topic, start="start") as consumer:
            while len(found) < count:
                found += (await consumer.next_batch()).messages()
    return found


def test_a_message_whose_handler_raises_is_tried_again_before_what_comes_after_it() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b", b"c")
        seen = Seen(lambda message, attempt: ValueError("no") if message.value == b"b" and attempt < 3 else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **QUICK))
            await seen.until(lambda: len(seen.done) == 3)
            nursery.cancel_scope.cancel()
        assert seen.values == [b"a", b"b", b"b", b"b", b"c"]

    beside(main)


def test_after_its_last_attempt_a_message_goes_to_the_dead_letter_topic_with_its_history() -> None:
    async def main(client: Client) -> None:
        await client.admin.create_topic("t.dead-letter", 1)
        await fill(client, "t", b"a", b"b", b"c", keys=[b"1", b"2", b"3"], dead_letter="t.dead-letter")
        seen = Seen(lambda message, attempt: ValueError("no\nway") if message.value == b"b" else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **QUICK))
            await seen.until(lambda: len(seen.done) == 2)
            nursery.cancel_scope.cancel()
        assert seen.values == [b"a", b"b", b"b", b"b", b"c"]
        (letter,) = await dead(client, "t.dead-letter", 1)
        assert (letter.value, letter.key, original_pairs(letter.headers)) == (b"b", b"2", (("trace", b"1"),))
        history = history_of(letter.headers)
        assert history is not None
        origin, failure = history
        assert (origin.topic, origin.partition, origin.offset) == ("t", 0, 1)
        assert (failure.attempts, failure.error) == (3, "ValueError: no\nway")
        assert failure.last_ms >= failure.first_ms + 300

    beside(main)


def test_a_handler_that_hangs_is_cancelled_and_has_failed() -> None:
    async def main(client: Client) -> None:
        await client.admin.create_topic("d", 1)
        await fill(client, "t", b"a", b"b")
        seen = Seen()

        async def handler(message: Message) -> None:
            if message.value == b"a":
                await trio.sleep_forever()
            await seen(message)

        async with trio.open_nursery() as nursery:
            options = {**QUICK, "dead_letter": "d", "handler_timeout_ms": 500}
            nursery.start_soon(lambda: client.handle("t", handler, **options))
            await seen.until(lambda: seen.done == [b"b"])
            nursery.cancel_scope.cancel()
        (letter,) = await dead(client, "d", 1)
        history = history_of(letter.headers)
        assert history is not None
        assert history[1].error == "the handler did not end within 500 ms"

    beside(main)


def test_while_the_dead_letter_topic_cannot_take_a_message_it_is_held_and_nothing_is_lost() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b", dead_letter="not-there")
        seen = Seen(lambda message, attempt: ValueError("no") if message.value == b"a" else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **QUICK))
            await seen.until(lambda: len(seen.values) == 3)
            await trio.sleep(5)
            assert seen.done == []
            await client.admin.create_topic("not-there", 1)
            await seen.until(lambda: seen.done == [b"b"])
            nursery.cancel_scope.cancel()
        assert [letter.value for letter in await dead(client, "not-there", 1)] == [b"a"]

    beside(main)


def test_with_nowhere_to_put_it_a_message_is_tried_on_and_on() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b")
        seen = Seen(lambda message, attempt: ValueError("no") if attempt < 9 and message.value == b"a" else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **QUICK))
            await seen.until(lambda: seen.done == [b"a", b"b"])
            nursery.cancel_scope.cancel()

    beside(main)


def test_a_topic_cannot_be_its_own_dead_letter_topic() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t")
        with pytest.raises(ConfigurationError, match="cannot be its own dead-letter topic"):
            await client.handle("t", Seen(), dead_letter="t")
        with pytest.raises(mqcore.MqcoreError, match="cannot be its own dead-letter topic"):
            await client.admin.alter_topic("t", None, {"dead_letter": "t"})

    beside(main)


def test_by_key_one_that_is_tried_again_holds_its_key_up_only() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a1", b"b1", b"a2", b"b2", keys=[b"a", b"b", b"a", b"b"])
        seen = Seen(lambda message, attempt: ValueError("no") if message.value == b"a1" and attempt < 3 else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, order="key", **QUICK))
            await seen.until(lambda: len(seen.done) == 4)
            nursery.cancel_scope.cancel()
        assert seen.done == [b"b1", b"b2", b"a1", b"a2"]

    beside(main)


def test_what_a_handler_raises_that_is_no_exception_ends_the_consumption() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a")

        async def handler(message: Message) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            await client.handle("t", handler, **QUICK)

    beside(main)


RECOVERY: dict[str, Any] = {**QUICK, "recovery_dir": "/kept", "recovery_pause_ms": 1_000}


def test_what_can_go_nowhere_is_kept_on_the_consumer_s_disk_and_handled_after_a_restart() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b")
        seen = Seen(lambda message, attempt: ValueError("no") if message.value == b"a" else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **RECOVERY))
            await seen.until(lambda: seen.done == [b"b"])
            nursery.cancel_scope.cancel()
        again = Seen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", again, **{**RECOVERY, "start": "end"}))
            await again.until(lambda: again.done == [b"a"])
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert again.done == [b"a"]

    beside(main)


def test_what_was_kept_goes_to_the_dead_letter_topic_once_that_is_there() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b", dead_letter="d")
        seen = Seen(lambda message, attempt: ValueError("no") if message.value == b"a" else None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **RECOVERY))
            await seen.until(lambda: seen.done == [b"b"])
            await client.admin.create_topic("d", 1)
            (letter,) = await dead(client, "d", 1)
            nursery.cancel_scope.cancel()
        assert letter.value == b"a"
        assert history_of(letter.headers) is not None

    beside(main)


def test_two_consumers_cannot_share_a_recovery_folder() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a")
        seen = Seen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **RECOVERY))
            await seen.until(lambda: seen.done == [b"a"])
            with pytest.raises(ConfigurationError, match="another process uses it"):
                await client.handle("t", seen, **RECOVERY)
            nursery.cancel_scope.cancel()

    beside(main)


def test_a_damaged_recovery_folder_is_told_and_left_as_it_is() -> None:
    disk = ModelDisk(seeded(1, "disk"))

    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b", b"c")
        seen = Seen(lambda message, attempt: ValueError("no"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, **{**RECOVERY, "recovery_pause_ms": 10**6}))
            await seen.until(lambda: len(seen.values) == 9)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        disk.rot("/kept/kept", 60)
        before = disk.content("/kept/kept")
        with pytest.raises(CorruptionError, match="line 2 is damaged"):
            await client.handle("t", seen, **RECOVERY)
        assert disk.content("/kept/kept") == before

    beside(main, disk=disk)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_message_that_ends_the_process_each_time_runs_out_of_attempts(kills: int) -> None:
    """Simulated by a disk that dies with the process, amid the handler."""
    disks = [ModelDisk(seeded(1, "disk"))]

    async def die(client: Client, disk: ModelDisk) -> None:
        seen = Seen()

        async def handler(message: Message) -> None:
            if message.value == b"poison":
                disk.process_kill()
                seen.values.append(b"killed")
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", handler, **{**RECOVERY, "attempts_max": kills}))
            await seen.until(lambda: seen.values == [b"killed"])
            nursery.cancel_scope.cancel()

    async def main(node: Node) -> None:
        async with mqcore.connect(node.urls[0], ports=model_ports(1, disks[0])) as client:
            await client.admin.create_topic("d", 1)
            await fill(client, "t", b"poison", b"b", dead_letter="d")
        for _ in range(kills):
            async with mqcore.connect(node.urls[0], ports=model_ports(1, disks[-1])) as client:
                await die(client, disks[-1])
            disks.append(disks[-1].restart())
        seen = Seen()
        async with mqcore.connect(node.urls[0], ports=model_ports(1, disks[-1])) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: client.handle("t", seen, **{**RECOVERY, "attempts_max": kills}))
                await seen.until(lambda: seen.done == [b"b"])
                nursery.cancel_scope.cancel()
            (letter,) = await dead(client, "d", 1)
        history = history_of(letter.headers)
        assert history is not None
        assert history[1].error == "the process ended while it was handled"
        assert history[1].attempts == kills

    run_beside_broker(main, seed=1)


class Cursors:
    """What a group has committed: outlives the consumers that commit."""

    def __init__(self) -> None:
        self.positions: dict[int, tuple[int, int]] = {0: (0, 0)}
        self.is_dead = False
        self.moved = trio.Event()

    async def until(self, offset: int) -> None:
        """Wait until the cursor is there."""
        while self.positions[0][0] < offset:
            await self.moved.wait()

    def join(self, consumer: Consumer) -> Consumer:
        """Give ``consumer`` what a member of a group has."""
        member: Any = consumer
        member.group, member.listener, member.commit = "g", None, self.commit
        return consumer

    async def commit(self, positions: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        await trio.lowlevel.checkpoint()
        if self.is_dead:
            raise NotReachedError("the process is dead")
        for partition, position in positions.items():
            assert position >= self.positions[partition], "a cursor goes back"
        self.positions.update(positions)
        self.moved.set()
        self.moved = trio.Event()
        return positions


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_whenever_a_consumer_dies(seed: int) -> None:
    """Each life ends at a time drawn from the seed, amid handlers, burials or commits; the last one goes on."""
    chance = random.Random(seed)
    wrong = {b"%d" % number for number in chance.sample(range(40), 8)}

    async def main(client: Client) -> None:
        await client.admin.create_topic("d", 1)
        values = [b"%d" % number for number in range(40)]
        await fill(client, "t", *values, keys=[b"%d" % (number % 5) for number in range(40)])
        cursors, done = Cursors(), set[bytes]()

        async def handler(message: Message) -> None:
            await trio.sleep(chance.uniform(0, 0.05))
            if message.value in wrong:
                raise ValueError("no")
            done.add(message.value)

        async def bury(message: Message, history: tuple[tuple[str, bytes], ...]) -> None:
            await trio.sleep(chance.uniform(0, 0.05))
            if chance.random() < 0.3:
                raise NotReachedError("not there")
            async with client.producer("d") as producer:
                await producer.send(message.value, message.key, (*message.headers, *history))

        options = HandlingOptions(
            order=chance.choice(["partition", "key"]), in_flight_max=4, attempts_max=2, commit_interval_ms=50,
            pause_ms_first=10, pause_ms_max=20, held_max=chance.choice([3, 100]),
        )  # fmt: skip

        async def live(seconds: float) -> None:
            cursors.is_dead = False
            async with client.consumer("t", start=dict(cursors.positions)) as consumer:
                handling = Handling(
                    cursors.join(consumer), handler, options, bury=bury, chosen=None, recovery=None, thread=None,
                    wall_ns=lambda: 0, report=lambda error: None,
                )  # fmt: skip
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(handling.run)
                    with trio.move_on_after(seconds):
                        await cursors.until(len(values))
                    cursors.is_dead = True
                    nursery.cancel_scope.cancel()

        for _ in range(8):
            await live(chance.uniform(0, 0.3))
        await live(60)
        assert cursors.positions[0][0] == len(values)
        assert done == set(values) - wrong
        letters = await dead(client, "d", len(wrong))
        while wrong - {letter.value for letter in letters}:
            letters = await dead(client, "d", len(letters) + 1)

    beside(main, seed)


def test_what_a_filter_does_not_match_is_done_without_the_handler() -> None:
    async def main(client: Client) -> None:
        await fill(client, "t", b"a", b"b", b"c")
        seen = Seen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.handle("t", seen, filter="header:trace=0|2", **QUICK))
            await seen.until(lambda: len(seen.done) == 2)
            nursery.cancel_scope.cancel()
        assert seen.values == [b"a", b"c"]
        with pytest.raises(PluginNotFoundError, match="no filter is called 'colour'"):
            await client.handle("t", seen, filter="colour:red")

    beside(main)


class Stumbling(Filter):
    """Raises at each message."""

    def matches(self, message: FilterInput) -> bool:
        raise RuntimeError("stumbled")


def test_a_filter_that_raises_fails_the_message_and_passes_over_nothing() -> None:
    async def main(client: Client) -> None:
        await client.admin.create_topic("d", 1)
        await fill(client, "t", b"a", dead_letter="d")
        register("filters", "stumbling", Stumbling)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: client.handle("t", Seen(), filter="stumbling:x", **QUICK))
                (letter,) = await dead(client, "d", 1)
                nursery.cancel_scope.cancel()
        finally:
            unregister("filters", "stumbling")
        history = history_of(letter.headers)
        assert history is not None
        assert history[1].error == "RuntimeError: stumbled"

    beside(main)
