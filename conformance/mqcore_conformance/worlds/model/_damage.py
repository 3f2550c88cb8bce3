"""Where bits shall rot: a stored message that flushes have covered long enough for its damage to be provable.

Knows the history, the messages' marks and what a batch looks like; nothing of how a storage lays out its files.
"""

from __future__ import annotations

import attrs

from mqcore.batch import HEADER_BYTES, MAGIC, unpack_header
from mqcore.errors import CorruptionError
from mqcore_conformance.histories import Appended, Flushed
from mqcore_conformance.worlds.model._machine import ModelMachine

__all__ = ["StoredMessage", "find_durable_message"]

FLUSHES_AFTER = 2
"""A durable mark trails its log by at most one flush; one more for good measure."""
TRIES = 8
MAGIC_BYTES = MAGIC.to_bytes(4, "little")


@attrs.frozen
class StoredMessage:
    """A message in a file, and the batch there that it is part of: ``first_offset`` up to ``next_offset``."""

    path: str
    position: int
    partition: str
    first_offset: int
    next_offset: int


def find_durable_message(world: ModelMachine) -> StoredMessage | None:
    """Return a message that two later flushes of its log have followed, or None."""
    durable = _durable_offsets(world)
    candidates = [(partition, mark) for partition, offset, mark in world.stored if offset < durable.get(partition, 0)]
    world.random.shuffle(candidates)
    for partition, mark in candidates[:TRIES]:
        for path in world.disk.paths():
            content = world.disk.content(path, durable=True)
            position = content.find(mark)
            if position >= 0 and "journal" not in path:
                batch = _batch_around(content, position)
                if batch is not None:
                    return StoredMessage(path, position, partition, *batch)
    return None


def _batch_around(content: bytes, position: int) -> tuple[int, int] | None:
    """First and next offset of the batch whose bytes hold ``position``, None where no header says so.

    It is read from the bytes that shall rot: a receipt knows neither the whole batch nor a copy of it elsewhere.
    """
    at = content.rfind(MAGIC_BYTES, 0, position)
    if at < 0 or position < at + HEADER_BYTES:
        return None
    try:
        header = unpack_header(memoryview(content)[at:])
    except CorruptionError:
        return None
    return (header.base_offset, header.end_offset) if position < at + header.size else None


def _durable_offsets(world: ModelMachine) -> dict[str, int]:
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
