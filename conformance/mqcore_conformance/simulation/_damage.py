"""Where bits shall rot: a stored message that flushes have covered long enough for its damage to be provable.

Knows the history and the messages' marks; nothing of how a storage lays out its files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqcore_conformance.histories import Appended, Flushed

if TYPE_CHECKING:
    from mqcore_conformance.simulation._world import World

__all__ = ["find_durable_message"]

FLUSHES_AFTER = 2
"""A durable mark trails its log by at most one flush; one more for good measure."""
TRIES = 8


def find_durable_message(world: World) -> tuple[str, int] | None:
    """Return path and position of a message that two later flushes of its log have followed, or None."""
    durable = _durable_offsets(world)
    candidates = [mark for partition, offset, mark in world.stored if offset < durable.get(partition, 0)]
    world.random.shuffle(candidates)
    for mark in candidates[:TRIES]:
        for path in world.disk.paths():
            position = world.disk.content(path, durable=True).find(mark)
            if position >= 0 and "journal" not in path:
                return path, position
    return None


def _durable_offsets(world: World) -> dict[str, int]:
    """Offset by partition below which this life's flushes but the last two have covered everything."""
    flushes: dict[str, list[int]] = {}
    appends: dict[str, list[tuple[int, int]]] = {}
    for event in world.history:
        if isinstance(event, Appended) and event.life == world.life:
            appends.setdefault(event.partition, []).append((event.end_position, event.next_offset))
        elif isinstance(event, Flushed) and event.life == world.life and not event.failed:
            for partition, end in event.ends:
                flushes.setdefault(partition, []).append(end)
    return {
        partition: max(
            (offset for position, offset in appends.get(partition, []) if position <= ends[-1 - FLUSHES_AFTER]),
            default=0,
        )
        for partition, ends in flushes.items()
        if len(ends) > FLUSHES_AFTER
    }
