"""Producers: the end of one."""

from __future__ import annotations

import attrs

__all__ = ["EndProducer", "EndedProducer"]


@attrs.frozen(kw_only=True)
class EndProducer:
    """Forget a producer that has ended, everything that it ever sent having been answered.

    ``topic_id``: 32 hexadecimal digits. ``partitions``: one entry each, the partition's number, the producer's epoch
    there and its next sequence.
    """

    topic_id: str
    producer_id: int
    partitions: tuple[tuple[int, int, int], ...]


@attrs.frozen(kw_only=True)
class EndedProducer:
    """In how many ``partitions`` the producer will be forgotten: those in which it stands where it says."""

    partitions: int
