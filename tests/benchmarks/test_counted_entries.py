"""How many Python functions one operation enters, client and broker together: counts may be asserted, times never.

A frame entry is a call of a function of the project, or the resumption of one of its coroutines. The cost of a small
request is about proportional to it, and unlike a time it is the same on every machine. The bounds are what there is
now, and one more: what makes an operation cheaper lowers its bound.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

import mqcore
from mqcore.client import Client

ROOTS = ("/mqcore/", "/transports/mqcore_tcp/", "/storage_backends/mqcore_mmap/")
QUICK: dict[str, Any] = {"limits": {"flush_inline_us_max": 60_000_000}}
"""Else it would hang on how fast the device is at the moment whether a flush goes through a thread.

The entries of the flush itself count too then, about 20 of them, which a thread would do uncounted."""
WARM_UP = 30
ROUNDS = 100


@pytest.fixture
def counts() -> Counter[str]:
    """Entries by function, of everything in ``counted``."""
    return Counter()


@contextmanager
def counted(counts: Counter[str]) -> Iterator[None]:
    """Count every entry into a frame of the project's while the block runs."""

    def note(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and any(root in path for root in ROOTS):
            counts[f"{path.rpartition('/')[2]}:{frame.f_code.co_name}"] += 1

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def over_tcp(folder: Path, flush: str, play: Callable[[Client], object]) -> None:
    """Run ``play`` against a broker in the same process, so that both sides are counted."""

    async def main() -> None:
        storage = f"mmap://{folder}/store?segment_bytes=16MiB"
        async with mqcore.open_broker(storage=storage, listen=["tcp://127.0.0.1:0"], flush=flush, **QUICK) as broker:
            async with mqcore.connect(broker.urls[0]) as client:
                await client.admin.create_topic("lines")
                await play(client)  # type: ignore[misc]

    trio.run(main)


def per_operation(counts: Counter[str]) -> int:
    """Entries per operation; printed by function, which pytest shows when a bound is missed.

    Of each function, the nearest whole number: what a timer enters now and then is none, however slow the machine is
    and however many of its turns the same operations take.
    """
    for name, entries in counts.most_common():
        print(f"{entries / ROUNDS:7.2f} {name}")
    return sum(round(entries / ROUNDS) for entries in counts.values())


@pytest.mark.parametrize(("flush", "at_most"), [("sync", 170), ("async", 106)])
def test_one_acknowledged_send_enters_few_functions(
    tmp_path: Path, counts: Counter[str], flush: str, at_most: int
) -> None:
    async def play(client: Client) -> None:
        async with client.producer("lines") as producer:
            for _ in range(WARM_UP):
                await producer.send(bytes(1024))
            with counted(counts):
                for _ in range(ROUNDS):
                    await producer.send(bytes(1024))

    over_tcp(tmp_path, flush, play)
    assert 50 < per_operation(counts) <= at_most


@pytest.mark.parametrize(("flush", "at_most"), [("sync", 283), ("async", 241)])
def test_a_batch_of_256_that_a_waiting_consumer_reads_enters_few_functions(
    tmp_path: Path, counts: Counter[str], flush: str, at_most: int
) -> None:
    async def play(client: Client) -> None:
        values = [bytes(1024)] * 256
        async with client.producer("lines") as producer, client.consumer("lines", start="start") as consumer:

            async def round_trip() -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(producer.send_many, values)
                    assert (await consumer.next_batch()).values == values

            for _ in range(WARM_UP):
                await round_trip()
            with counted(counts):
                for _ in range(ROUNDS):
                    await round_trip()

    over_tcp(tmp_path, flush, play)
    assert 50 < per_operation(counts) <= at_most


def test_reading_message_by_message_enters_one_function_for_each(tmp_path: Path, counts: Counter[str]) -> None:
    async def play(client: Client) -> None:
        async with client.producer("lines") as producer:
            for _ in range(WARM_UP + ROUNDS):
                await producer.send_many([bytes(1024)] * 256)
        async with client.consumer("lines", start="start") as consumer:
            for _ in range(WARM_UP * 256):
                await anext(consumer)
            with counted(counts):
                for _ in range(ROUNDS * 256):
                    await anext(consumer)

    over_tcp(tmp_path, "async", play)
    assert 256 < per_operation(counts) <= 256 + 49
