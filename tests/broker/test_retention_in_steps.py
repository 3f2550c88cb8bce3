"""A trim of much goes in steps, between which senders and other logs have their turn (R15)."""

from __future__ import annotations

import itertools

import pytest
import trio

from mqcore.broker import Node
from mqcore.client import connect
from mqcore.log import LogStart, _facts
from mqcore.testing import run_beside_broker

STEP_BYTES = 16 * 1024


def test_r15_senders_have_their_turn_between_the_steps_of_a_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_facts, "TRIM_STEP_BYTES", STEP_BYTES)

    async def test(node: Node) -> None:
        async with connect(node.urls[0]) as client, client.producer("a") as producer:
            for _ in range(100):
                await producer.send(b"v" * 1000)
            assert node.reign is not None
            partition = await node.reign.open_partition(node.reign.topics.get("a").id, 0)
            log, steps = partition.log, []
            trim = log.trim

            async def watched(offset: int, position: int | None = None) -> int:
                steps.append((log.start_position, log.end_offset))
                nursery.start_soon(producer.send, b"between")
                while not partition._turns:  # it waits for this very trim
                    await trio.lowlevel.checkpoint()
                return await trim(offset, position)

            monkeypatch.setattr(type(log), "trim", lambda _, *at: watched(*at))
            end = LogStart(log.end_offset - 1, log.boundary_of(log.end_offset - 1))
            async with trio.open_nursery() as nursery:
                await partition.trim(end)
            starts, ends = zip(*steps, strict=True)
            assert log.start_offset == end.offset
            assert len(steps) >= 100_000 // STEP_BYTES
            assert all(after - before <= STEP_BYTES for before, after in itertools.pairwise(starts))
            assert list(ends) == list(range(100, 100 + len(steps))), "each step let one sender in before the next"

    run_beside_broker(test, topics={"a": {}})
