"""Whether consumers read on after healing: each catches up, and a long poll is answered when there is something.

Asks and measures; whether it was soon enough is the checkers' business. Consumers that come and go are not asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from mqcore_conformance.clients._consumer import PlannedConsumer
from mqcore_conformance.clients._producer import send_once
from mqcore_conformance.histories import LivenessObserved
from mqcore_conformance.world import World

READ_S_MAX = 20.0
SEND_S_MAX = 5.0
LOOK_S = 0.02
ROUNDS = 2
"""The second message comes when the first one has just been read: then no long poll is about to end by itself."""


async def watch_consumers(world: World, consumers: Sequence[PlannedConsumer]) -> None:
    """Send one message after the other to what is read, and record how long each consumer took to stand beyond it.

    What they had to read before is a matter of their speed: then only a standstill counts.
    """
    followers = [consumer for consumer in consumers if not consumer.plan.stays_us and consumer.positions]
    partitions = sorted({partition for consumer in followers for partition in consumer.positions})
    for number in range(1 + ROUNDS):
        for partition in partitions:
            news = await send_once(world, f"news-{number}-{partition}", partition, SEND_S_MAX)
            if not news.acknowledged:
                return  # whether sends succeed is asked elsewhere
            readers = [consumer for consumer in followers if partition in consumer.positions]
            async with trio.open_nursery() as nursery:
                for consumer in readers:
                    nursery.start_soon(_follow, world, consumer, partition, news.next_offset)


async def _follow(world: World, consumer: PlannedConsumer, partition: int, end_offset: int) -> None:
    """Measure the longest standstill of a consumer until it stands at ``end_offset``."""
    moved_us = world.now_us()
    longest_us, position = 0, consumer.positions.get(partition, 0)
    with trio.move_on_after(READ_S_MAX):
        while consumer.positions.get(partition, 0) < end_offset:
            await trio.sleep(LOOK_S)
            now = consumer.positions.get(partition, 0)
            if now != position:
                longest_us = max(longest_us, world.now_us() - moved_us)
                position, moved_us = now, world.now_us()
    longest_us = max(longest_us, world.now_us() - moved_us)
    has_read = consumer.positions.get(partition, 0) >= end_offset
    world.note(
        LivenessObserved,
        what=f"{consumer.plan.name} reading partition {partition} up to offset {end_offset} after healing",
        took_us=longest_us if has_read else -1,
        bound_us=world.bounds.liveness_us,
        reason="" if has_read else f"it stands at offset {position}",
    )
