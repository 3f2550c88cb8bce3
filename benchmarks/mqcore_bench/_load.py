"""Load for mqcore through its own client, as a user writes it: what is measured is what a program sees.

Run as ``python -m mqcore_bench._load WORK URL ARGUMENTS...``; prints one JSON object. The topic is called ``bench``.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle
from typing import Any

import trio

import mqcore

MESSAGE_BYTES = 1024
PAYLOAD = bytes(MESSAGE_BYTES)
BATCHES_IN_FLIGHT_MAX = 64
TOPIC = "bench"
QUIET_TOPIC = "quiet"
QUIET_APART_S = 0.005
Result = dict[str, object]


def _timed(seconds: str) -> tuple[float, float]:
    """When measuring begins and ends: after a warm-up of a fifth, at most a second."""
    warm_up = min(1.0, float(seconds) / 5)
    now = time.perf_counter()
    return now + warm_up, now + warm_up + float(seconds)


async def publish(url: str, batch: str, window: str, seconds: str, total_bytes: str = "0") -> Result:
    """Keep ``window`` batches of ``batch`` messages in flight for ``seconds``, or for ``total_bytes`` in all."""
    count, in_flight = int(batch), int(window)
    values = [PAYLOAD] * count
    left = int(total_bytes) // (count * MESSAGE_BYTES) or sys.maxsize
    async with mqcore.connect(url) as client:
        await client.admin.create_topic(TOPIC)
        options: dict[str, Any] = {"batch_messages": count, "batch_bytes": count * MESSAGE_BYTES}
        async with client.producer(TOPIC, batches_in_flight_max=min(in_flight, 64), **options) as producer:
            begin, end = _timed(seconds) if not int(total_bytes) else (time.perf_counter(), float("inf"))
            acknowledged, started = 0, begin
            deliveries: deque[mqcore.Delivery] = deque()
            while left or deliveries:
                while left and len(deliveries) < in_flight:
                    deliveries += producer.post_many(values)
                    left -= 1
                await deliveries.popleft().wait()
                now = time.perf_counter()
                if now < begin:
                    acknowledged, started = 0, now
                    continue
                acknowledged += count
                if now >= end:
                    break
            return {"messages": acknowledged, "seconds": time.perf_counter() - started}


async def singles(url: str, window: str, seconds: str) -> Result:
    """One task that posts single messages, ``window`` of them in flight, and looks at every receipt."""
    in_flight, acknowledged = int(window), 0
    async with mqcore.connect(url) as client:
        await client.admin.create_topic(TOPIC)
        async with client.producer(TOPIC, batches_in_flight_max=BATCHES_IN_FLIGHT_MAX) as producer:
            begin, end = _timed(seconds)
            started = begin
            deliveries: deque[mqcore.Delivery] = deque()
            while True:
                while len(deliveries) < in_flight:
                    deliveries.append(producer.post(PAYLOAD))
                await deliveries.popleft().wait()
                done = 1
                while deliveries and deliveries[0].is_done:
                    deliveries.popleft().result()
                    done += 1
                now = time.perf_counter()
                if now < begin:
                    started = now
                    continue
                acknowledged += done
                if now >= end:
                    return {"messages": acknowledged, "seconds": time.perf_counter() - started}


async def senders(url: str, window: str, seconds: str) -> Result:
    """``window`` tasks, each sending one message after the other and waiting for its receipt."""
    acknowledged = 0
    latencies: list[float] = []
    async with mqcore.connect(url) as client:
        await client.admin.create_topic(TOPIC)
        async with client.producer(TOPIC, batches_in_flight_max=BATCHES_IN_FLIGHT_MAX) as producer:
            begin, end = _timed(seconds)

            async def sender() -> None:
                nonlocal acknowledged
                clock, keep = time.perf_counter, window == "1"
                now = clock()
                while now < end:
                    await producer.send(PAYLOAD)
                    before, now = now, clock()
                    if now >= begin:
                        acknowledged += 1
                        if keep:
                            latencies.append(now - before)

            async with trio.open_nursery() as nursery:
                for _ in range(int(window)):
                    nursery.start_soon(sender)
    result: Result = {"messages": acknowledged, "seconds": float(seconds)}
    if latencies:
        parts = statistics.quantiles(latencies, n=100)
        result["latency_us"] = {"median": parts[49] * 1e6, "p99": parts[98] * 1e6}
    return result


async def consume(url: str, form: str, messages: str) -> Result:
    """Take ``messages`` messages from the start, by batch or by message."""
    wanted = int(messages)
    async with mqcore.connect(url) as client, client.consumer(TOPIC, start="start") as consumer:
        started, taken = time.perf_counter(), 0
        if form == "messages":
            async for _ in consumer:
                taken += 1
                if taken == wanted:
                    break
        else:
            while taken < wanted:
                taken += len((await consumer.next_batch()).values)
        return {"messages": taken, "seconds": time.perf_counter() - started}


async def delete(url: str) -> Result:
    """Delete the topic, and give the broker a second to make its segments ready for others."""
    async with mqcore.connect(url) as client:
        await client.admin.delete_topic(TOPIC)
        await trio.sleep(1)
    return {}


async def describe(url: str) -> Result:
    """Open the topic's logs in the broker; the seconds until it has told what they hold."""
    async with mqcore.connect(url) as client:
        started = time.perf_counter()
        facts = await client.admin.describe_topic(TOPIC)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "messages": sum(log.end_offset for log in facts.logs)}


async def idle(url: str, count: str) -> Result:
    """Hold ``count`` idle connections until standard input ends; prints a line when they are there."""
    async with trio.open_nursery() as nursery:

        async def hold(*, task_status: trio.TaskStatus[None]) -> None:
            async with mqcore.connect(url):
                task_status.started()
                await trio.sleep_forever()

        for _ in range(int(count)):
            await nursery.start(hold)
        print("held", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    return {}


async def quiet(url: str, seconds: str) -> Result:
    """One message every 5 ms to a topic of its own: how long its acknowledgement takes."""
    async with mqcore.connect(url) as client:
        with suppress(mqcore.RejectedError):  # there since it was measured alone
            await client.admin.create_topic(QUIET_TOPIC)
        async with client.producer(QUIET_TOPIC) as producer:
            begin, end = _timed(seconds)
            latencies: list[float] = []
            due = time.perf_counter()
            while (sent := time.perf_counter()) < end:
                await producer.send(PAYLOAD)
                if sent >= begin:
                    latencies.append(time.perf_counter() - sent)
                due += QUIET_APART_S
                await trio.sleep(max(0.0, due - time.perf_counter()))
    return {"p99_us": statistics.quantiles(latencies, n=100)[98] * 1e6, "median_us": statistics.median(latencies) * 1e6}


async def flood(url: str) -> Result:
    """Publish and read all there is of the topic until standard input ends; prints a line once both are under way."""
    values = [PAYLOAD] * 256
    options: dict[str, Any] = {"batch_messages": 256, "batch_bytes": 256 * MESSAGE_BYTES}
    async with mqcore.connect(url) as writer, mqcore.connect(url) as reader, trio.open_nursery() as nursery:
        await writer.admin.create_topic(TOPIC)

        async def publish_all() -> None:
            async with writer.producer(TOPIC, batches_in_flight_max=BATCHES_IN_FLIGHT_MAX, **options) as producer:
                deliveries: deque[mqcore.Delivery] = deque()
                while True:
                    deliveries += producer.post_many(values)
                    if len(deliveries) >= BATCHES_IN_FLIGHT_MAX:
                        await deliveries.popleft().wait()

        async def read_all(*, task_status: trio.TaskStatus[None]) -> None:
            async with reader.consumer(TOPIC, start="start") as consumer:
                await consumer.next_batch()
                task_status.started()
                while True:
                    await consumer.next_batch()

        nursery.start_soon(publish_all)
        await nursery.start(read_all)
        print("flooding", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    return {}


async def spread(url: str, partitions: str, batch: str, window: str, seconds: str) -> Result:
    """Batches in turn over ``partitions`` partitions, ``window`` of them in flight in all."""
    count, in_flight = int(batch), int(window)
    values = [PAYLOAD] * count
    async with mqcore.connect(url) as client:
        await client.admin.create_topic(TOPIC, int(partitions))
        options: dict[str, Any] = {"batch_messages": count, "batch_bytes": count * MESSAGE_BYTES}
        async with client.producer(TOPIC, batches_in_flight_max=64, **options) as producer:
            deliveries: deque[mqcore.Delivery] = deque()
            for partition in range(int(partitions)):  # every log exists before the clock starts
                deliveries += producer.post_many([PAYLOAD], partition=partition)
            while deliveries:
                await deliveries.popleft().wait()
            begin, end = _timed(seconds)
            acknowledged, started = 0, begin
            for partition in cycle(range(int(partitions))):
                deliveries += producer.post_many(values, partition=partition)
                if len(deliveries) < in_flight:
                    continue
                await deliveries.popleft().wait()
                now = time.perf_counter()
                if now < begin:
                    acknowledged, started = 0, now
                    continue
                acknowledged += count
                if now >= end:
                    break
            return {"messages": acknowledged, "seconds": time.perf_counter() - started}


async def scale(url: str, partitions: str, connections: str, batch: str, seconds: str) -> Result:
    """So many connections, each sending a batch after the other to partitions in turn."""
    count, acknowledged = int(batch), 0
    values = [PAYLOAD] * count
    numbers = cycle(range(int(partitions)))
    begin = end = 0.0
    go = trio.Event()

    async def sender(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal acknowledged
        async with mqcore.connect(url, connect_timeout_ms=60_000) as client, client.producer(TOPIC) as producer:
            task_status.started()
            await go.wait()
            while time.perf_counter() < end:
                await producer.send_many(values, partition=next(numbers))
                acknowledged += count * (time.perf_counter() >= begin)

    async with mqcore.connect(url) as client:
        await client.admin.create_topic(TOPIC, int(partitions))
    async with trio.open_nursery() as nursery:
        for _ in range(int(connections)):
            await nursery.start(sender)
        begin, end = _timed(seconds)
        go.set()
    return {"messages": acknowledged, "seconds": float(seconds)}


WORK: dict[str, Callable[..., Awaitable[Result]]] = {
    function.__name__: function
    for function in (publish, singles, senders, consume, delete, describe, idle, quiet, flood, spread, scale)
}

if __name__ == "__main__":
    print(json.dumps(trio.run(functools.partial(WORK[sys.argv[1]], *sys.argv[2:]))))
