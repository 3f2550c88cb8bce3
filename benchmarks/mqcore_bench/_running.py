"""How fast a running broker takes messages from here, over whichever transport it is reached by."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs
import trio

import mqcore

__all__ = ["Published", "publish"]


@attrs.frozen(kw_only=True)
class Published:
    """What was measured. ``median_us`` and ``p99_us`` are times from posting a batch to its acknowledgement."""

    server: str
    messages: int
    messages_per_second: float
    megabytes_per_second: float
    median_us: float
    p99_us: float
    level: str


async def publish(
    urls: tuple[str, ...],
    options: Mapping[str, Any],
    *,
    seconds: float,
    batch: int,
    message_bytes: int,
    in_flight: int,
) -> Published:
    """Publish for so many ``seconds`` into a topic that is made for it and deleted afterwards, also when it fails."""
    topic = f"bench-{os.urandom(6).hex()}"
    values = [os.urandom(message_bytes)] * batch
    times: list[float] = []
    waiting: deque[tuple[float, list[mqcore.Delivery]]] = deque()
    messages = 0
    receipt: mqcore.Receipt | None = None
    async with mqcore.connect(*urls, **options) as client:
        await client.admin.create_topic(topic)
        try:
            async with client.producer(topic, buffer_bytes_max=1 << 30) as producer:
                began = time.perf_counter()
                while (now := time.perf_counter()) < began + seconds or waiting:
                    while len(waiting) < in_flight and now < began + seconds:
                        waiting.append((now, producer.post_many(values, partition=0)))
                        messages += batch
                    posted, deliveries = waiting.popleft()
                    for delivery in deliveries:
                        receipt = await delivery.wait()
                    times.append(time.perf_counter() - posted)
                took = time.perf_counter() - began
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(10):
                await client.admin.delete_topic(topic)
    times.sort()
    assert receipt is not None
    return Published(
        server=",".join(urls),
        messages=messages,
        messages_per_second=messages / took,
        megabytes_per_second=messages * message_bytes / took / 1e6,
        median_us=times[len(times) // 2] * 1e6,
        p99_us=times[len(times) * 99 // 100] * 1e6,
        level=receipt.level.label,
    )
