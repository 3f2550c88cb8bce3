"""Producers: the end of one without a name; names, who has them, and what was sent under them.

Each set keeps the names for the partitions that it owns, with one id and one claim in all of them: the set of partition
0 gives a claim, and the others of the topic take it over. A caller asks every set.
"""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = [
    "ClaimProducer",
    "ClaimedProducer",
    "DeleteProducer",
    "DeletedProducer",
    "DescribeProducer",
    "EndProducer",
    "EndedProducer",
    "ListProducers",
    "ProducerDescription",
    "ProducerPartitionState",
    "ProducerSummary",
]


@attrs.frozen(kw_only=True)
class EndProducer:
    """Forget a producer that has ended, everything that it ever sent having been answered.

    ``topic_id``: 32 hexadecimal digits. ``partitions``: one entry each, the partition's number, the producer's epoch
    there and its next sequence. One that has a name is never forgotten by this.
    """

    topic_id: str
    producer_id: int
    partitions: tuple[tuple[int, int, int], ...]


@attrs.frozen(kw_only=True)
class EndedProducer:
    """In how many ``partitions`` the producer will be forgotten: those in which it stands where it says."""

    partitions: int


@attrs.frozen(kw_only=True)
class ClaimProducer:
    """Give the name of a producer of ``topic`` to who asks: what comes under an earlier claim is refused from then on.

    ``claim`` empty: give a new one, which the set of partition 0 does. Its epoch is to exceed ``above``, with which
    another set of the topic has the name under ``producer_id``; 0 and 0 where none is known to be ahead. Else take
    over, in another set of the topic, the claim that was given: 32 hexadecimal digits, with its ``producer_id``.
    """

    name: str
    topic: str
    above: int = attrs.field(default=0, validator=validators.ge(0))
    claim: str = ""
    producer_id: int = 0


@attrs.frozen(kw_only=True)
class ClaimedProducer:
    """The name is the asker's: ``producer_id`` of its batches, its epoch, and the ``claim`` that every send carries."""

    name: str
    producer_id: int
    epoch: int
    claim: str


@attrs.frozen(kw_only=True)
class ListProducers:
    """List names of producers by name and topic: those ``after`` one (name, topic), as many as fit one reply."""

    after: tuple[str, str] = ("", "")
    limit: int = attrs.field(default=10_000, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class ProducerSummary:
    """The name of a producer: its topic, and the epoch that was given out last."""

    name: str
    topic: str
    epoch: int
    producer_id: int


@attrs.frozen(kw_only=True)
class DescribeProducer:
    """Describe what was sent under a name: partitions ``after`` a number, at most ``limit``, as many as fit one reply.

    ``is_settled``: what is told is committed by then, which is waited for; else it may still be lost.
    """

    name: str
    topic: str
    after: int = -1
    limit: int = attrs.field(default=1_000, validator=validators.ge(1))
    is_settled: bool = False


@attrs.frozen(kw_only=True)
class ProducerPartitionState:
    """What a partition has of a producer. ``status``: ``stored``, ``none``, or ``forgotten``: it may have something.

    ``last_offset``: of the last message that was stored under the name. ``producer_epoch``: of the batch that has it,
    the number by which the log tells one run of sequences from the next.
    """

    partition: int
    status: str
    last_offset: int | None = None
    producer_epoch: int | None = None


@attrs.frozen(kw_only=True)
class ProducerDescription:
    """The name of a producer, the epoch that was given out last, and what partitions have of it."""

    name: str
    topic: str
    epoch: int
    producer_id: int
    partitions: tuple[ProducerPartitionState, ...]


@attrs.frozen(kw_only=True)
class DeleteProducer:
    """Forget the name of a producer: its process is fenced, and the next one begins as if nothing had been sent."""

    name: str
    topic: str


@attrs.frozen(kw_only=True)
class DeletedProducer:
    """The name that was forgotten, and the epoch that was given out last."""

    name: str
    topic: str
    epoch: int
