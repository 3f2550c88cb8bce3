"""The three clients side by side: what crossing over from asyncio or from a thread costs. One broker, in memory.

Run as ``python -m mqcore_bench._clients SHELL URL TOPIC SECONDS``; prints one JSON object, a measure by name.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import trio

import mqcore
import mqcore.aio
import mqcore.sync
from mqcore_bench._children import measure, serving

__all__ = ["MEASURES", "SHELLS", "compare"]

SHELLS = ("trio", "aio", "sync")
MEASURES = {
    "post-many": "lists of 256 messages, 32 in flight, messages a second",
    "post": "single messages, 4 096 in flight, messages a second",
    "one": "one message in flight, messages a second",
    "read-batches": "reading by batch, messages a second",
    "read-messages": "reading by message, messages a second",
}
"""What is measured, in which unit; more is better in each."""
VALUE = bytes(100)
VALUES = [VALUE] * 256
LISTS_IN_FLIGHT = 32
SINGLES_IN_FLIGHT = 4_096
LOOK_EVERY = 1_000


def _until(seconds: float, every: int = 1) -> Iterator[None]:
    """Yield until ``seconds`` are over; the clock is looked at once in ``every`` times."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(every):
            yield


async def _measure_awaiting(connect: Callable[[str], Any], url: str, topic: str, seconds: float) -> dict[str, float]:
    """Trio and asyncio: the same program."""
    rates: dict[str, float] = {}
    async with connect(url) as client:
        await client.admin.create_topic(topic)
        async with client.producer(topic) as producer:
            for name, limit, every in (("post-many", LISTS_IN_FLIGHT, 1), ("post", SINGLES_IN_FLIGHT, LOOK_EVERY)):
                waiting: deque[Any] = deque()
                count, began = 0, time.perf_counter()
                for _ in _until(seconds, every):
                    if name == "post":
                        waiting.append(producer.post(VALUE))
                        count += 1
                    else:
                        waiting += producer.post_many(VALUES)
                        count += len(VALUES)
                    while len(waiting) > limit:
                        await waiting.popleft().wait()
                for delivery in waiting:
                    await delivery.wait()
                rates[name] = count / (time.perf_counter() - began)
            count, began = 0, time.perf_counter()
            for _ in _until(seconds):
                await producer.send(VALUE)
                count += 1
            rates["one"] = count / (time.perf_counter() - began)
        end = (await client.admin.look_up_offset(topic, 0, "end")).offset
        for name in ("read-batches", "read-messages"):
            async with client.consumer(topic, start="start") as consumer:
                count, began = 0, time.perf_counter()
                if name == "read-batches":
                    async for batch in consumer.batches():
                        count += len(batch.values)
                        if count >= end:
                            break
                else:
                    async for _message in consumer:
                        count += 1
                        if count >= end:
                            break
                rates[name] = count / (time.perf_counter() - began)
    return rates


def _measure_blocking(url: str, topic: str, seconds: float) -> dict[str, float]:
    """The same, blocking."""
    rates: dict[str, float] = {}
    with mqcore.sync.connect(url) as client:
        client.admin.create_topic(topic)
        with client.producer(topic) as producer:
            for name, limit, every in (("post-many", LISTS_IN_FLIGHT, 1), ("post", SINGLES_IN_FLIGHT, LOOK_EVERY)):
                waiting: deque[mqcore.sync.Delivery] = deque()
                count, began = 0, time.perf_counter()
                for _ in _until(seconds, every):
                    if name == "post":
                        waiting.append(producer.post(VALUE))
                        count += 1
                    else:
                        waiting += producer.post_many(VALUES)
                        count += len(VALUES)
                    while len(waiting) > limit:
                        waiting.popleft().wait()
                for delivery in waiting:
                    delivery.wait()
                rates[name] = count / (time.perf_counter() - began)
            count, began = 0, time.perf_counter()
            for _ in _until(seconds):
                producer.send(VALUE)
                count += 1
            rates["one"] = count / (time.perf_counter() - began)
        end = client.admin.look_up_offset(topic, 0, "end").offset
        for name in ("read-batches", "read-messages"):
            with client.consumer(topic, start="start") as consumer:
                count, began = 0, time.perf_counter()
                if name == "read-batches":
                    for batch in consumer.batches():
                        count += len(batch.values)
                        if count >= end:
                            break
                else:
                    for _message in consumer:
                        count += 1
                        if count >= end:
                            break
                rates[name] = count / (time.perf_counter() - began)
    return rates


def compare(rounds: int, seconds: float, progress: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Measure each client ``rounds`` times, in turns; return the medians by measure and client.

    ``progress`` is called with what is measured next. Raises ``ChildFailed``.
    """
    found: dict[str, dict[str, list[float]]] = {name: {shell: [] for shell in SHELLS} for name in MEASURES}
    for number in range(rounds):
        for shell in SHELLS:
            progress(f"{shell}, {number + 1} of {rounds}")
            with serving("_broker", "memory://", "tcp://127.0.0.1:0", "none", 0) as (line, _):
                rates = measure("_clients", shell, json.loads(line)["url"], "t", seconds, timeout_s=60 + 20 * seconds)
            for name, rate in rates.items():
                found[name][shell].append(rate)
    return {name: {shell: statistics.median(rates) for shell, rates in of.items()} for name, of in found.items()}


def _main(shell: str, url: str, topic: str, seconds: str) -> None:
    if shell == "trio":
        rates = trio.run(_measure_awaiting, mqcore.connect, url, topic, float(seconds))
    elif shell == "aio":
        rates = asyncio.run(_measure_awaiting(mqcore.aio.connect, url, topic, float(seconds)))
    else:
        rates = _measure_blocking(url, topic, float(seconds))
    print(json.dumps(rates))


if __name__ == "__main__":
    _main(*sys.argv[1:])
