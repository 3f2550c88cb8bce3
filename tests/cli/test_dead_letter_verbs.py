"""``mqcore dead-letter``: from a handler that raises to a message that is handled after all."""

from __future__ import annotations

import json

import pytest
import trio

import mqcore
from mqcore.client import Message

QUICK = {"start": "start", "pause_ms_first": 1, "attempts_max": 2}


@pytest.fixture
def jobs(memory_broker, cli, request):
    """A topic of this test with two dead letters, its broker's URL, and the command."""
    url, topic = memory_broker.urls[0], request.node.name
    run = lambda *arguments: cli(*arguments, "--server", url)  # noqa: E731
    assert run("topic", "create", topic, "--dead-letter").status == 0
    trio.run(_fail_at, url, topic)
    return topic, url, run


async def _fail_at(url: str, topic: str) -> None:
    async with mqcore.connect(url) as client:
        async with client.producer(topic) as producer:
            for value in (b"good", b"bad 1", b"bad 2", b"last"):
                await producer.send(value, b"key", {"trace": b"x"}, tag="job")
        async with trio.open_nursery() as nursery:

            async def handler(message: Message) -> None:
                if message.value.startswith(b"bad"):
                    raise ValueError(f"cannot do {message.value!r}")
                if message.value == b"last":
                    nursery.cancel_scope.cancel()

            nursery.start_soon(lambda: client.handle(topic, handler, **QUICK))


async def _values(url: str, topic: str, count: int) -> list[Message]:
    found: list[Message] = []
    async with mqcore.connect(url) as client, client.consumer(topic, start="start") as consumer:
        with trio.fail_after(30):
            while len(found) < count:
                found += (await consumer.next_batch()).messages()
    return found


def listed(done):
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_letters_are_listed_with_their_history_and_shown_whole(jobs):
    topic, _, run = jobs
    first, second = listed(run("dead-letter", "list", topic, "--output", "json"))
    assert (first["name"], first["offset"], first["attempts"]) == ("0/0", 1, 2)
    assert second["error"] == "ValueError: cannot do b'bad 2'"
    (shown,) = listed(run("dead-letter", "show", topic, "0/1"))
    assert shown["message"]["value"] == "bad 2"
    assert shown["message"]["headers"] == [{"name": "trace", "value": "x"}]
    assert shown["message"]["tag"] == "job"
    assert shown["history"]["topic"] == topic
    assert "bad 1" in run("dead-letter", "list", topic).out


def test_a_letter_that_is_replayed_is_sent_as_it_was_and_listed_no_more(jobs):
    topic, url, run = jobs
    done = run("dead-letter", "replay", topic, "0/0")
    assert done.out == f"replayed 1 dead letter of {topic}\n"
    again = trio.run(_values, url, topic, 5)[-1]
    assert (again.value, again.key, again.headers, again.tag) == (b"bad 1", b"key", (("trace", b"x"),), "job")
    assert [each["name"] for each in listed(run("dead-letter", "list", topic, "--output", "json"))] == ["0/1"]
    (end,) = listed(run("dead-letter", "replay", topic, "--all", "--output", "json"))
    assert end["replayed"] == 1
    assert listed(run("dead-letter", "list", topic, "--output", "json")) == []


def test_deleting_wants_a_yes_and_then_they_are_gone(jobs):
    topic, _, run = jobs
    refused = run("dead-letter", "delete", topic, "--all")
    assert refused.status == 2
    assert "add --yes" in refused.err
    assert run("dead-letter", "delete", topic, "--all", "--yes").out == f"deleted 2 dead letters of {topic}\n"
    assert listed(run("dead-letter", "list", topic, "--output", "json")) == []


def test_what_cannot_be_asked_is_one_line_with_the_remedy(jobs):
    topic, _, run = jobs
    for arguments, said in (
        (("replay", topic), "or all of them by --all"),
        (("replay", topic, "0/0", "--all"), "or all of them by --all"),
        (("show", topic, "7/7"), f"has no dead letter '7/7': mqcore dead-letter list {topic} names those it has"),
        (("list", f"{topic}.dead-letter"), "has no dead-letter topic: name one by mqcore topic alter"),
    ):
        done = run("dead-letter", *arguments)
        assert done.status == 2, done.err
        assert said in done.err
        assert len(done.err.strip().splitlines()) <= 3


def test_a_topic_names_another_dead_letter_topic_and_takes_it_back(jobs):
    topic, _, run = jobs
    assert "dead_letter other" in run("topic", "alter", topic, "--dead-letter-topic", "other").out
    assert ", dead_letter" not in run("topic", "alter", topic, "--reset", "dead-letter-topic").out
    refused = run("topic", "alter", topic, "--dead-letter-topic", topic)
    assert "cannot be its own dead-letter topic" in refused.err
    assert refused.status != 0
    both = run("topic", "create", "x", "--dead-letter", "--dead-letter-topic", "y")
    assert "give one of the two" in both.err
