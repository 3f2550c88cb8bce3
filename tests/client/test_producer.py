"""The producer's shell: stalls, defects, shared credit."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import mqcore
from mqcore.client import Client
from mqcore.client._accumulator import Accumulator
from mqcore.client._partition_queue import PartitionQueue
from mqcore.errors import OutcomeUnknownError


def with_client(test: Callable[[Client], Awaitable[None]], **limits: Any) -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(
                storage="memory://",
                listen=["inproc://producer"],
                flush="none",
                topics={"t": {}, "u": {}},
                limits=limits,
            ),
            mqcore.connect("inproc://producer") as client,
        ):
            await test(client)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("owner", "method"),
    [(PartitionQueue, "produced"), (PartitionQueue, "next_to_send"), (Accumulator, "expire")],
)
def test_a_defect_ends_the_producer_that_has_it_and_no_other_of_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: type, method: str
) -> None:
    original = getattr(owner, method)

    def defective(self: Any, *arguments: Any) -> Any:
        if self.state.topic == "t":
            raise ZeroDivisionError("a defect")
        return original(self, *arguments)

    async def test(client: Client) -> None:
        async with client.producer("u", linger_ms=10) as sound:
            async with client.producer("t", linger_ms=10) as producer:
                monkeypatch.setattr(owner, method, defective)
                delivery = producer.post(b"x")
                other = sound.post(b"y")
                await trio.sleep(31)  # a round of the router's clock
                await other.wait()
                with pytest.raises(OutcomeUnknownError, match="a defect"):
                    await delivery.wait()
                with pytest.raises(trio.ClosedResourceError, match="a defect"):
                    await producer.send(b"x")
            monkeypatch.undo()
            await sound.send(b"z")
            await client.admin.list_topics()

    with caplog.at_level(logging.CRITICAL, "mqcore.client"):
        with_client(test)


def test_a_large_batch_gets_its_turn_among_small_ones_of_another_producer() -> None:
    """The credit in bytes never leaves room for the large one while the small ones take it first."""

    async def test(client: Client) -> None:
        many: dict[str, Any] = {"batch_messages": 1, "batches_in_flight_max": 64}
        async with client.producer("t", **many) as small, client.producer("u") as large, trio.open_nursery() as nursery:
            numbers = iter(range(1_000))

            async def send_small() -> None:
                for _ in numbers:
                    await small.send(os.urandom(9_000))

            for _ in range(40):
                nursery.start_soon(send_small)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            await large.send(bytes(60_000))
            assert next(numbers, None) is not None, "it had to wait until there were no small ones any more"
            nursery.cancel_scope.cancel()

    with_client(test, bytes_in_flight_max=65_536)


def test_one_way_sends_beyond_what_the_client_holds_unsent_are_given_up_with_their_time() -> None:
    async def main() -> None:
        async with (
            mqcore.open_broker(
                storage="memory://", listen=["tcp://127.0.0.1:0"], flush="none", topics={"t": {}}
            ) as broker,
            mqcore.connect(broker.urls[0]) as client,
            client.producer("t", delivery_timeout_ms=300) as producer,
        ):
            await producer.send(b"first")
            session = client._router.home
            assert session.stream is not None
            session.stream.is_sending = True  # as while a send to a broker that stands still is under way
            with trio.move_on_after(0.05):
                while True:
                    await producer.send_one_way(bytes(100_000))
            await trio.sleep(0.5)
            session.stream.is_sending = False
            session.bell.ring()
            await producer.send(b"after the stall")
            assert producer._state.bytes_held == 0
            await trio.sleep(0.5)
            await producer.send(b"later")

    trio.run(main)


def batches_of(
    rounds: int, in_flight: int, tmp: str, *, storage: str = "memory://", flush: str = "none"
) -> list[list[int]]:
    """The lengths of the batches that each of ``rounds`` bursts of posted messages was sent in, over a real socket."""
    bursts: list[list[int]] = []

    async def main() -> None:
        async with (
            mqcore.open_broker(storage=storage, listen=[f"unix://{tmp}/socket"], flush=flush, topics={"t": {}}),
            mqcore.connect(f"unix://{tmp}/socket") as client,
            client.producer("t") as producer,
        ):
            for _ in range(rounds):
                deliveries = [producer.post(b"x") for _ in range(in_flight)]
                offsets = [(await delivery.wait()).offset for delivery in deliveries]
                assert offsets == list(range(offsets[0], offsets[0] + in_flight))
                counts = Counter(delivery._batch for delivery in deliveries)
                bursts.append(list(counts.values()))

    trio.run(main)
    return bursts


def test_messages_posted_while_nothing_is_in_flight_are_sent_in_halves(tmp_path: Path) -> None:
    """The broker works on one half while the other gathers; a short batch is not worth a second frame."""
    _, second, *_ = batches_of(3, 64, str(tmp_path))
    assert len(second) == 2
    assert min(second) >= 16
    assert [len(burst) for burst in batches_of(5, 12, str(tmp_path))][1:] == [1, 1, 1, 1]


def test_messages_that_wait_for_a_flush_are_not_sent_in_halves(tmp_path: Path) -> None:
    """Each half would ask for a flush of its own."""
    bursts = batches_of(4, 64, str(tmp_path), storage=f"mmap://{tmp_path}/s", flush="sync")
    assert [len(burst) for burst in bursts][1:] == [1, 1, 1]
