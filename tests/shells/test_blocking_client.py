"""What only the client for programs that block can get wrong: threads, interrupts, forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import trio

import mqcore
import mqcore.sync
from mqcore.sync._portal import Portal, _Call


def interrupt_when(holds: Callable[[], object]) -> threading.Thread:
    """Ctrl-C for the main thread as soon as ``holds``."""

    def watch() -> None:
        while not holds():
            threading.Event().wait(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_many_threads_share_a_producer(broker_url: str, topic: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic) as producer:
            offsets: list[list[int]] = [[] for _ in range(8)]

            def send(number: int) -> None:
                offsets[number] += [producer.send(b"%d" % number).offset for _ in range(50)]
                deliveries = [producer.post(b"%d" % number) for _ in range(50)]
                offsets[number] += [each.wait().offset for each in deliveries]

            threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(offset for each in offsets for offset in each) == list(range(800))
        assert all(each == sorted(each) for each in offsets)


@pytest.mark.parametrize("group", [None, "readers"])
def test_two_threads_in_one_consumer_are_told_and_neither_takes_what_the_other_one_gets(
    broker_url: str, topic: str, group: str | None
) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.consumer(topic, start="start", group=group) as consumer, client.producer(topic) as producer:
            calls, found = len(client._portal._calls), Future[list[bytes]]()
            waiting = threading.Thread(target=lambda: found.set_result(list(consumer.next_batch().values)))
            waiting.start()
            while len(client._portal._calls) == calls:
                threading.Event().wait(0.001)
            told = f"another thread .* {topic}: give each thread"
            for use in (consumer.poll, consumer.next_batch, lambda: next(iter(consumer)), lambda: consumer.seek("end")):
                with pytest.raises(mqcore.errors.ConfigurationError, match=told):
                    use()
            producer.send(b"one")
            assert found.result(60) == [b"one"]
            waiting.join()
            producer.send(b"two")
            assert [bytes(each.value) for each in consumer.poll(wait_ms=60_000)] == [b"two"]


def test_ctrl_c_ends_the_waiting_and_nothing_is_lost(broker_url: str, topic: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic) as producer, client.consumer(topic, start="start") as consumer:
            calls = len(client._portal._calls)
            watcher = interrupt_when(lambda: len(client._portal._calls) > calls)
            with pytest.raises(KeyboardInterrupt):
                consumer.next_batch()
            watcher.join()
            producer.send(b"x")
            assert consumer.next_batch().values == [b"x"]


@pytest.mark.parametrize("is_begun", [False, True])
def test_an_interrupt_while_a_call_begins_leaves_none_that_goes_on_by_itself(
    broker_url: str, topic: str, monkeypatch: pytest.MonkeyPatch, is_begun: bool
) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        portal = client._portal
        with client.producer(topic) as producer, client.consumer(topic, start="start") as consumer:
            soon = portal.soon

            def interrupted(function: Callable[..., object], *arguments: object) -> None:
                monkeypatch.setattr(portal, "soon", soon)
                if is_begun:
                    soon(function, *arguments)
                raise KeyboardInterrupt

            monkeypatch.setattr(portal, "soon", interrupted)
            with pytest.raises(KeyboardInterrupt):
                consumer.next_batch()
            assert len(portal._calls) == 3, "the client's, the producer's and the consumer's own"
            producer.send(b"x")
            assert [message.value for message in consumer.poll(wait_ms=10_000)] == [b"x"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_a_block_is_entered_leaves_no_thread_behind(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ctrl-C may come between the lines that ask Trio's thread for a connection and those that wait for it."""
    begin = Portal._begin
    threads: list[threading.Thread] = []

    def interrupted(portal: Portal, call: Any, *arguments: Any) -> None:
        threads.append(portal._thread)
        if moment == "after":
            begin(portal, call, *arguments)
        raise KeyboardInterrupt

    def connect() -> None:
        with pytest.raises(KeyboardInterrupt), mqcore.sync.connect(broker_url):
            pass

    monkeypatch.setattr(Portal, "_begin", interrupted)
    connecting = threading.Thread(target=connect, daemon=True)
    connecting.start()
    connecting.join(60)
    assert not connecting.is_alive(), "it waits for what nobody ends"
    assert not threads[0].is_alive()


def test_an_interrupt_while_the_thread_of_a_client_begins_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Future.result

    def interrupted(future: Future[Any], timeout: float | None = None) -> Any:
        monkeypatch.setattr(Future, "result", result)
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Portal()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_what_an_interrupt_did_not_let_end_does_not_outlive_the_block(broker_url: str) -> None:
    """A second Ctrl-C, while the first waits for the end of what it cancelled."""

    async def never() -> None:
        await trio.sleep_forever()

    def connect() -> None:
        with mqcore.sync.connect(broker_url) as client:
            portal = client._portal
            portal._begin(_Call(), never)

    connecting = threading.Thread(target=connect, daemon=True)
    connecting.start()
    connecting.join(60)
    assert not connecting.is_alive(), "the end of the block waits for what nobody waits for"


def test_a_delivery_may_be_waited_for_with_an_end_and_again(broker_url: str, topic: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic, linger_ms=60_000) as producer:
            delivery = producer.post(b"x")
            with pytest.raises(TimeoutError):
                delivery.wait(0.01)
            with pytest.raises(RuntimeError, match="not known yet"):
                delivery.result()
            producer.flush()
            assert delivery.wait(0).offset == 0


def test_posting_waits_for_room_and_a_full_buffer_lets_later_ones_not_overtake(broker_url: str, topic: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic, buffer_bytes_max=200_000) as producer:
            deliveries = [producer.post(bytes(50_000) + b"%d" % number) for number in range(200)]
            (many,) = producer.post_many([b"a", b"b"])
            assert [each.wait().offset for each in deliveries] == list(range(200))
            assert many.wait().offset == 200


def test_what_was_posted_cannot_be_changed_any_more(broker_url: str, topic: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        client.admin.create_topic(topic)
        value, headers = bytearray(b"value"), {"name": b"1"}
        with client.producer(topic, linger_ms=60_000) as producer:
            producer.post(value, value, headers)
            value[:] = b"other"
            headers["name"] = b"2"
        with client.consumer(topic, start="start") as consumer:
            (message,) = consumer.next_batch().messages()
            assert (message.value, message.key, message.headers) == (b"value", b"value", (("name", b"1"),))


def test_what_is_used_after_its_block_says_that_it_is_closed(broker_url: str) -> None:
    with mqcore.sync.connect(broker_url) as client:
        pass
    with pytest.raises(mqcore.ClosedError):
        client.admin.status()
    assert not [thread for thread in threading.enumerate() if thread.name == "mqcore-client"]


def test_a_client_does_not_outlive_a_fork(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with mqcore.sync.connect(broker_url) as client:
        child = os.getpid() + 1
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: child)
            with pytest.raises(mqcore.ClosedError, match="fork"):
                client.admin.status()
        assert client.admin.status()


def test_a_trio_that_fails_ends_everyone_who_waits(broker_url: str, topic: str) -> None:
    async def fail() -> None:
        raise SystemExit

    def use(client: mqcore.sync.Client) -> None:
        client.admin.create_topic(topic)
        with client.producer(topic, linger_ms=60_000) as producer:
            delivery = producer.post(b"x")
            client._portal.soon(client._portal._nursery.start_soon, fail)
            with pytest.raises(mqcore.MqcoreError):
                delivery.wait()

    def connect() -> None:
        with mqcore.sync.connect(broker_url) as client:
            use(client)

    with pytest.raises(mqcore.ClosedError):
        connect()


def test_a_program_may_exit_within_the_block(broker_url: str, topic: str) -> None:
    program = f"""
import sys
import mqcore.sync
manager = mqcore.sync.connect({broker_url!r})
client = manager.__enter__()
client.admin.create_topic({topic!r})
producing = client.producer({topic!r})
producing.__enter__().post(b"goes its way or not")
sys.exit(3)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (3, b"")
