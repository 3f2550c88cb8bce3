"""R12: what a producer that closes tells its servers, so that they forget it: only what nothing can follow any more."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.client._producer_end import ANSWER_WITHIN_S, report_end
from mqcore.protocol import Message, Result

TOPIC = bytes(range(16))


class FakeStream:
    def __init__(self, *, credit: bool = True, hangs: bool = False) -> None:
        self.calls: list[dict[str, Any]] = []
        self._credit, self._hangs = credit, hangs

    def may_send(self, size: int) -> bool:
        return self._credit

    async def call(self, operation: str, arguments: dict[str, Any]) -> Message:
        assert operation == "producer.end"
        self.calls.append(arguments)
        if self._hangs:
            await trio.sleep_forever()
        return Result(1, {})


class FakeSession:
    def __init__(self, stream: FakeStream | None) -> None:
        self.stream = stream


def queue(partition: int, *, has_ended_in_order: bool = True) -> Any:
    return SimpleNamespace(partition=partition, epoch=2, next_sequence=5, has_ended_in_order=has_ended_in_order)


def report(session_of: dict[int, Any], *queues: Any) -> float:
    """Report the end of ``queues``; how long that took."""

    async def main() -> float:
        began = trio.current_time()
        await report_end(TOPIC, 7, queues, session_of)
        return trio.current_time() - began

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_each_server_is_told_of_its_partitions_that_ended_in_order() -> None:
    streams = [FakeStream(), FakeStream()]
    sessions = [FakeSession(stream) for stream in streams]
    queues = queue(0), queue(1), queue(2), queue(3, has_ended_in_order=False)
    report({0: sessions[0], 1: sessions[1], 2: sessions[0], 3: sessions[1]}, *queues)
    told = [[call["partitions"] for call in stream.calls] for stream in streams]
    assert told == [[[(0, 2, 5), (2, 2, 5)]], [[(1, 2, 5)]]]
    assert streams[0].calls[0]["topic_id"] == TOPIC.hex()
    assert streams[0].calls[0]["producer_id"] == 7


@pytest.mark.parametrize("stream", [None, FakeStream(credit=False), FakeStream(hangs=True)])
def test_a_server_that_cannot_be_told_holds_nothing_up(stream: FakeStream | None) -> None:
    assert report({0: FakeSession(stream)}, queue(0)) <= ANSWER_WITHIN_S


def test_leaving_a_producers_block_tells_its_broker_and_an_error_in_it_does_not() -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(storage="memory://", listen=["inproc://ends"], flush="none", topics={"t": {}}) as node,
            mqcore.connect("inproc://ends") as client,
        ):
            async with client.producer("t") as ended:
                await ended.send(b"x")
            with contextlib.suppress(ZeroDivisionError):
                async with client.producer("t") as broken:
                    await broken.send(b"x")
                    raise ZeroDivisionError
            assert node.reign is not None
            (partition,) = node.reign.partitions.values()
            assert list(partition.log.producers.ending) == [ended.producer_id]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
