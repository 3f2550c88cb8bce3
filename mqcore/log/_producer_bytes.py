"""Producers as bytes: in a checkpoint of a log's state, and in the log itself before it is trimmed (rule R12). Pure.

Must not know what is made of them, nor of batches.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mqcore.ports import Buffer

__all__ = [
    "ENDED_BYTES",
    "KEPT_PART_BYTES",
    "KeptProducers",
    "RememberedProducer",
    "batches_that_fit",
    "facts_bytes",
    "pack_ended",
    "pack_kept",
    "pack_producers",
    "unpack_ended",
    "unpack_kept",
    "unpack_producers",
]

KEPT_PART_BYTES = 24 * 1024
"""What goes into one part before the next begins; with one producer more it fits the smallest frame limit."""

_PRODUCER = struct.Struct("<QIIqI")
_ENDED = struct.Struct("<QI")
# number of the part, whether it is the last, whether producers were forgotten, for how many hours more one may have
# rotted that nobody knows of, clock and newest append time in ms, how many producers, how many that ended
_KEPT = struct.Struct("<IBBHqqII")
_BATCH_BYTES = 16
ENDED_BYTES = _ENDED.size


class RememberedProducer(NamedTuple):
    """What is known of one producer; ``batches``: base offset, then checksum and count in one, of each batch kept."""

    producer_id: int
    producer_epoch: int
    next_sequence: int
    last_ms: int
    batches: array[int]


class KeptProducers(NamedTuple):
    """One part of what a log remembers of its producers where the part stands; ``ended``: ids with their epochs."""

    part: int
    is_last: bool
    has_forgotten: bool
    hidden_hours: int
    clock_ms: int
    newest_ms: int
    producers: Sequence[RememberedProducer]
    ended: Mapping[int, int]


def facts_bytes(batches: int) -> int:
    """How many bytes a producer takes of which so many ``batches`` are kept."""
    return _PRODUCER.size + _BATCH_BYTES * batches


def batches_that_fit(held: Iterable[int], bytes_max: int, *, batches_max: int) -> int:
    """How many batches of each producer fit ``bytes_max`` together, at least 1; ``held``: how many each has."""
    counts, most = Counter(held), batches_max
    while most > 1 and sum(facts_bytes(min(each, most)) * of for each, of in counts.items()) > bytes_max:
        most //= 2
    return most


def pack_producers(producers: Iterable[RememberedProducer]) -> bytes:
    """The inverse of ``unpack_producers``."""
    parts: list[bytes] = []
    for identity, epoch, next_sequence, last_ms, batches in producers:
        if sys.byteorder != "little":
            batches = array("Q", batches)
            batches.byteswap()
        parts.append(_PRODUCER.pack(identity, epoch, next_sequence, last_ms, len(batches) // 2))
        parts.append(batches.tobytes())
    return b"".join(parts)


def unpack_producers(view: memoryview, count: int) -> tuple[list[RememberedProducer], memoryview]:
    """``count`` producers, and what follows them. Raises ``ValueError``, ``struct.error``."""
    found: list[RememberedProducer] = []
    at = 0
    for _ in range(count):
        identity, epoch, next_sequence, last_ms, kept = _PRODUCER.unpack_from(view, at)
        at += _PRODUCER.size
        batches = array("Q")
        batches.frombytes(view[at : at + _BATCH_BYTES * kept])
        if not kept or len(batches) != 2 * kept:
            raise ValueError("batches missing")
        if sys.byteorder != "little":
            batches.byteswap()
        at += _BATCH_BYTES * kept
        found.append(RememberedProducer(identity, epoch, next_sequence, last_ms, batches))
    return found, view[at:]


def pack_ended(ended: Mapping[int, int]) -> bytes:
    """The inverse of ``unpack_ended``."""
    return b"".join(_ENDED.pack(*each) for each in ended.items())


def unpack_ended(view: memoryview, count: int) -> dict[int, int]:
    """``count`` producers that ended, with their epochs. Raises ``ValueError``, ``struct.error``."""
    ended = dict(_ENDED.iter_unpack(view))
    if len(ended) != count:
        raise ValueError("ended producers missing")
    return ended


def pack_kept(kept: KeptProducers) -> bytes:
    """The inverse of ``unpack_kept``."""
    head = _KEPT.pack(*kept[:6], len(kept.producers), len(kept.ended))
    return b"".join((head, pack_producers(kept.producers), pack_ended(kept.ended)))


def unpack_kept(data: Buffer) -> KeptProducers:
    """One part. Raises ``ValueError``, ``struct.error``."""
    view = memoryview(data)
    part, is_last, has_forgotten, hidden_hours, clock_ms, newest_ms, count, ended_count = _KEPT.unpack_from(view)
    producers, rest = unpack_producers(view[_KEPT.size :], count)
    ended = unpack_ended(rest, ended_count)
    facts = bool(is_last), bool(has_forgotten), hidden_hours, clock_ms, newest_ms
    return KeptProducers(part, *facts, producers, ended)
