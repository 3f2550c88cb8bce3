"""Members of groups, and handlers, in each of the three clients: the same words, and nothing passed over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from three_shells import Shell

import mqcore
import mqcore.aio
import mqcore.sync
from mqcore.client import Message

SLOW: dict[str, Any] = {"start": "start", "commit_interval_ms": 3_600_000, "session_ms": 60_000}
"""Nothing is committed by time, and no session ends."""


async def fill(shell: Shell, client: Any, topic: str, counts: list[int], **config: Any) -> None:
    await shell.do(client.admin.create_topic(topic, len(counts), config))
    async with shell.enter(client.producer(topic)) as producer:
        for partition, count in enumerate(counts):
            await shell.do(producer.send_many([b"%d" % number for number in range(count)], partition=partition))


async def offset_of(shell: Shell, client: Any, topic: str) -> int | None:
    (state,) = await shell.do(client.groups.describe(topic, topic))
    offset: int | None = state.partitions[0].offset
    return offset


def test_what_was_taken_of_a_batch_is_committed_when_the_block_is_left_and_no_more(
    shell: Shell, broker_url: str, topic: str
) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [10])
            async with shell.enter(client.consumer(topic, group=topic, **SLOW)) as consumer:
                assert [each.offset for each in await shell.take(consumer, 3)] == [0, 1, 2]
                assert (consumer.group, consumer.topic, consumer.assignment) == (topic, topic, [0])
                assert consumer.positions[0][0] == 3
            assert await offset_of(shell, client, topic) == 3
            async with shell.enter(client.consumer(topic, group=topic, **SLOW)) as consumer:
                assert [each.offset for each in await shell.do(consumer.poll(2, wait_ms=60_000))] == [3, 4]
                batch = await shell.do(consumer.next_batch())
                assert (batch.offset, len(batch)) == (5, 5)
            assert await offset_of(shell, client, topic) == 10

    shell.run(scenario)


def test_a_block_that_raised_has_not_handled_what_was_in_hand(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [10])

            async def fail() -> None:
                async with shell.enter(client.consumer(topic, group=topic, **SLOW)) as consumer:
                    await shell.take(consumer, 3)
                    await shell.do(consumer.commit())
                    await shell.take(consumer, 3)
                    raise LookupError

            with pytest.raises(LookupError):
                await fail()
            # The last one is in hand; around the client for Trio, what was taken since of its batch.
            assert await offset_of(shell, client, topic) == (5 if shell.name == "trio" else 3)

    shell.run(scenario)


def test_a_commit_is_of_what_was_taken_and_reading_goes_on_behind_it(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [10])
            async with shell.enter(client.consumer(topic, group=topic, commit="manual", **SLOW)) as consumer:
                assert [each.offset for each in await shell.take(consumer, 4)] == [0, 1, 2, 3]
                assert {number: at for number, (at, _) in (await shell.do(consumer.commit())).items()} == {0: 4}
                assert [each.offset for each in await shell.take(consumer, 2)] == [4, 5]
                assert (await shell.do(consumer.commit({0: (5, 0)})))[0][0] == 5
                await shell.do(consumer.seek(2))
                assert [each.offset for each in await shell.take(consumer, 2)] == [2, 3]
                with pytest.raises(mqcore.RejectedError, match="is not read by"):
                    await shell.do(consumer.commit({7: (0, 0)}))
            assert await offset_of(shell, client, topic) == 5

    shell.run(scenario)


def test_a_member_whose_session_was_lost_gives_out_no_more_of_the_batch_that_it_holds(
    shell: Shell, broker_url: str, topic: str
) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [10])
            async with shell.enter(client.consumer(topic, group=topic, **SLOW)) as consumer:
                assert [each.offset for each in await shell.take(consumer, 3)] == [0, 1, 2]
                member = consumer if shell.name == "trio" else consumer._member
                (link,) = member._links
                link.session.lives_until_us = 0
                # It begins anew where the group has its cursor, which is nowhere yet.
                assert (await shell.take(consumer, 1))[0].offset == 0

    shell.run(scenario)


def handler_for(shell: Shell, handle: Callable[[Message], None]) -> Any:
    """``handle`` as a handler of this client, which waits a moment as its kind of program does."""

    async def in_trio(message: Message) -> None:
        await trio.sleep(0.001)
        handle(message)

    async def in_asyncio(message: Message) -> None:
        await asyncio.sleep(0.001)
        handle(message)

    def in_thread(message: Message) -> None:
        time.sleep(0.001)
        handle(message)

    return {"trio": in_trio, "aio": in_asyncio, "sync": in_thread}[shell.name]


class Enough(BaseException):
    """Ends ``handle`` from within a handler."""


def test_a_handler_is_called_for_each_message_and_what_is_done_is_committed(
    shell: Shell, broker_url: str, topic: str
) -> None:
    done: Counter[tuple[int, int]] = Counter()
    tries: Counter[bytes] = Counter()

    def handle(message: Message) -> None:
        tries[message.value] += 1
        if message.value == b"3" and tries[b"3"] < 3:
            raise ValueError("no")
        done[message.partition, message.offset] += 1
        if len(done) == 20:
            raise Enough

    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [10, 10])
            options = {**SLOW, "pause_ms_first": 1, "order": "key", "group": topic}
            with pytest.raises(Enough):
                await shell.do(client.handle(topic, handler_for(shell, handle), **options))
            assert set(done) == {(partition, offset) for partition in range(2) for offset in range(10)}
            assert set(done.values()) == {1}
            (state,) = await shell.do(client.groups.describe(topic, topic))
            assert state.members == ()
            assert sum(each.offset or 0 for each in state.partitions) >= 10

    shell.run(scenario)


def test_a_handler_of_another_kind_is_refused_and_no_message_counts_as_handled_or_failed(
    shell: Shell, broker_url: str, topic: str
) -> None:
    """A coroutine that nobody runs has handled nothing; what is no coroutine has not failed."""

    def plain(message: Message) -> None:
        called.append(message.value)

    async def waits(message: Message) -> None:
        called.append(message.value)

    called: list[bytes] = []
    wrong: Any = waits if shell.name == "sync" else plain

    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [3])
            with pytest.raises(mqcore.ConfigurationError, match=r"handle: the handler .*: write it with (async )?def"):
                await shell.do(client.handle(topic, wrong, **SLOW, group=topic, pause_ms_first=1))
            assert called == ([] if shell.name == "sync" else [b"0"])
            assert await offset_of(shell, client, topic) in (None, 0)

    shell.run(scenario)


def test_what_reading_cannot_go_on_after_is_raised_as_it_is(shell: Shell, broker_url: str, topic: str) -> None:
    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await fill(shell, client, topic, [1])

            def delete(message: Message) -> None:
                delete_elsewhere(broker_url, topic)

            with pytest.raises(mqcore.RejectedError, match="the topic was deleted"):
                await shell.do(client.handle(topic, handler_for(shell, delete), start="start"))

    shell.run(scenario)


def delete_elsewhere(url: str, topic: str) -> None:
    """Delete a topic, from a thread of its own."""

    def run() -> None:
        with mqcore.sync.connect(url) as client:
            client.admin.delete_topic(topic)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_a_message_that_fails_goes_to_the_dead_letter_topic(shell: Shell, broker_url: str, topic: str) -> None:
    def handle(message: Message) -> None:
        if message.value == b"1":
            raise ValueError("no")
        if message.value == b"2":
            raise Enough

    async def scenario() -> None:
        async with shell.connect(broker_url) as client:
            await shell.do(client.admin.create_topic(f"{topic}.d"))
            await fill(shell, client, topic, [3], dead_letter=f"{topic}.d")
            with pytest.raises(Enough):
                await shell.do(client.handle(topic, handler_for(shell, handle), start="start", attempts_max=1))
            async with shell.enter(client.consumer(f"{topic}.d", start="start")) as consumer:
                assert [each.value for each in await shell.take(consumer, 1)] == [b"1"]

    shell.run(scenario)


def test_a_handler_of_asyncio_that_hangs_is_cancelled_and_so_is_handle(broker_url: str, topic: str) -> None:
    cancelled: list[bytes] = []

    async def handler(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(message.value)
            changed.set()
            raise

    async def main() -> None:
        shell = Shell("aio")
        async with mqcore.aio.connect(broker_url) as client:
            await fill(shell, client, topic, [2])
            options = {"start": "start", "handler_timeout_ms": 50, "pause_ms_first": 1}
            handling = asyncio.ensure_future(client.handle(topic, handler, **options))
            while len(cancelled) < 2:
                changed.clear()
                await changed.wait()
            handling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await handling
            handling = asyncio.ensure_future(client.handle(topic, handler, **options))
            while len(cancelled) < 4:
                changed.clear()
                await changed.wait()
        with pytest.raises(mqcore.ClosedError):
            await handling

    changed = asyncio.Event()
    asyncio.run(main())


def test_leaving_the_client_s_block_ends_what_is_handled_in_other_threads_and_waits_for_it(
    broker_url: str, topic: str
) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def handler(message: Message) -> None:
        begun.set()
        go_on.wait(120)
        done.set()

    def handle(client: mqcore.sync.Client) -> None:
        try:
            client.handle(topic, handler, group=topic, **SLOW)
        except BaseException as error:
            raised.append(error)

    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic) as producer:
            producer.send(b"x")
        thread = threading.Thread(target=handle, args=(client,))
        thread.start()
        assert begun.wait(120)
        threading.Timer(0.05, go_on.set).start()
    assert done.is_set()
    thread.join()
    assert [type(error) for error in raised] == [mqcore.ClosedError]
    with mqcore.sync.connect(broker_url) as client:
        (state,) = client.groups.describe(topic)
        assert (state.members, state.partitions[0].offset) == ((), 1)


def test_what_a_handler_that_blocks_cannot_have_is_refused(broker_url: str, topic: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        with pytest.raises(mqcore.ConfigurationError, match="handler_timeout_ms: a handler that blocks cannot be"):
            client.handle(topic, print, handler_timeout_ms=1_000)
        with pytest.raises(mqcore.ConfigurationError, match="threads_max: 0: at least 1"):
            client.handle(topic, print, threads_max=0)


@pytest.mark.parametrize("kind", ["aio", "sync"])
def test_a_handler_may_end_the_program_and_what_is_done_is_committed(broker_url: str, topic: str, kind: str) -> None:
    a, w = ("async ", "await ") if kind == "aio" else ("", "")
    program = f"""
import asyncio, sys, mqcore.aio, mqcore.sync
{a}def handler(message):
    if message.offset:
        sys.exit(3)
{a}def main():
    {a}with mqcore.{kind}.connect({broker_url!r}) as client:
        {w}client.handle({topic!r}, handler, group={topic!r}, **{SLOW!r})
{"asyncio.run(main())" if a else "main()"}
"""
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic) as producer:
            producer.send_many([b"x", b"y"])
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
        assert (ended.returncode, ended.stderr) == (3, b"")
        (state,) = client.groups.describe(topic)
        assert (state.members, state.partitions[0].offset) == ((), 1)
