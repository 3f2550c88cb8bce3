"""Results of administrative requests: values of their own, whatever a server answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.client import Client, PartitionState, Position, TopicInfo, TopicSummary
from mqcore.client._admin import Admin
from mqcore.errors import RemoteProtocolError


class Answering:
    """A router whose server answers what a test wants, page by page."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, object]]] = []

    def learn(self, info: object) -> None:
        """Know of no other servers."""

    async def call(
        self, operation: str, arguments: dict[str, object], *, is_repeatable: bool, at: object = None
    ) -> object:
        await trio.lowlevel.checkpoint()
        self.asked.append((operation, dict(arguments)))
        return self.answers.pop(0)


def ask(
    request: Callable[[Admin], Awaitable[Any]], *answers: object
) -> tuple[Any, list[tuple[str, dict[str, object]]]]:
    router = Answering(*answers)
    return trio.run(request, Admin(router)), router.asked  # type: ignore[arg-type]


def log(number: int) -> dict[str, object]:
    offsets = {"start_offset": 0, "committed_offset": 3, "durable_offset": 2, "end_offset": 4}
    return {"partition": number, **offsets, "bytes": 9, "epoch": 1, "failure": None, "damaged": [[1, 2]]}


TOPIC = {"name": "t", "id": "0" * 32, "partitions": 3}


def test_a_description_is_put_together_from_its_pages() -> None:
    answers = [{**TOPIC, "config": {}, "logs": [log(number) for number in numbers]} for numbers in ([0, 1], [2])]
    found, asked = ask(lambda admin: admin.describe_topic("t"), *answers)
    assert [each.partition for each in found.logs] == [0, 1, 2]
    assert isinstance(found.logs[0], PartitionState)
    assert found.logs[0].damaged == ((1, 2),)
    assert [arguments for _, arguments in asked] == [{"name": "t"}, {"name": "t", "after": 1}]


def test_topics_are_listed_page_by_page_until_there_is_none() -> None:
    found, asked = ask(lambda admin: admin.list_topics(), [TOPIC], [{**TOPIC, "name": "u"}], [])
    assert found == [TopicSummary(**TOPIC), TopicSummary(**{**TOPIC, "name": "u"})]
    assert [arguments for _, arguments in asked] == [{}, {"after": "t"}, {"after": "u"}]


def test_what_a_later_release_says_besides_is_passed_over_and_what_is_no_topic_is_told() -> None:
    found, _ = ask(lambda admin: admin.resolve_topic("t"), {**TOPIC, "config": {"flush": "sync"}, "colour": "red"})
    assert found == TopicInfo(**TOPIC, config={"flush": "sync"})
    for answer in (None, [], {"name": "t"}, {**TOPIC, "partitions": "many", "config": {}}):
        with pytest.raises(RemoteProtocolError, match="is no TopicInfo"):
            ask(lambda admin: admin.resolve_topic("t"), answer)


def test_every_request_is_answered_by_a_broker_with_a_value_of_its_own() -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://admin"], flush="none") as broker,
            mqcore.connect("inproc://admin") as client,
        ):
            await story(client, broker.urls)

    async def story(client: Client, urls: list[str]) -> None:
        admin = client.admin
        made = await admin.create_topic("t", partitions=2, config={"flush": "none"})
        assert (made.name, made.partitions, made.config) == ("t", 2, {"partitions": 2, "flush": "none"})
        assert (await admin.alter_topic("t", partitions=3)).partitions == 3
        assert await admin.resolve_topic("t") == await admin.alter_topic("t")
        async with client.producer("t") as producer:
            await producer.send(b"x", partition=1)
        described = await admin.describe_topic("t")
        assert [each.end_offset for each in described.logs] == [0, 1, 0]
        assert await admin.look_up_offset("t", 1, "end") == Position(offset=1, epoch=1)
        status = await admin.status()
        assert (status.topics, status.reigns, status.listen, status.failures) == (1, True, tuple(urls), ())
        assert await admin.list_topics() == [TopicSummary(name="t", id=made.id, partitions=3)]
        assert await admin.delete_topic("t") == made.id

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
