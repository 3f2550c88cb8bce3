"""Reading a topic of the demonstration back, whole, and saying what became of it in words."""

from __future__ import annotations

from typing import Any

import trio

from mqcore.cli._ledger import Comparison, Ledger
from mqcore.client import Client

__all__ = ["counts", "read_all", "verdict"]


async def read_all(client: Client, topic: str, ledger: Ledger) -> tuple[float, Comparison]:
    """Read ``topic`` from its start to its end; return the seconds of reading and the comparison with ``ledger``."""
    partitions = (await client.admin.resolve_topic(topic)).partitions
    ends = {number: (await client.admin.look_up_offset(topic, number, "end"))[0] for number in range(partitions)}
    batches, started = [], trio.current_time()
    comparison, seconds = ledger.comparison(), 0.0
    async with client.consumer(topic, start="start") as consumer:
        while any(consumer.positions[number][0] < offset for number, offset in ends.items()):
            batches.append(await consumer.next_batch())
            if len(batches) == 256:
                seconds += trio.current_time() - started
                for batch in batches:
                    comparison.take(batch)
                batches, started = [], trio.current_time()
    seconds += trio.current_time() - started
    for batch in batches:
        comparison.take(batch)
    return seconds, comparison


def counts(comparison: Comparison) -> dict[str, Any]:
    """What a comparison found, by name."""
    return {name: getattr(comparison, name) for name in ("read", "missing", "different", "invented")}


def verdict(comparison: Comparison) -> str:
    """What a comparison found, in words."""
    if comparison.is_good:
        return "0 missing, 0 invented"
    return f"{comparison.missing} MISSING, {comparison.different} DIFFERENT, {comparison.invented} INVENTED"
