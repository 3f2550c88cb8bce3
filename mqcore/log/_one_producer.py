"""What is remembered of one producer in one log: where it stands, and its last batches. Pure.

Must not know of the other producers, nor when one is forgotten.
"""

from __future__ import annotations

from array import array

from mqcore.log._producer_bytes import RememberedProducer
from mqcore.log._verdicts import Conflict, Duplicate, GivenUp, TooOld, Verdict

__all__ = ["GIVEN_UP", "SEQUENCE_MASK", "OneProducer", "facts_of"]

SEQUENCE_MASK = 0xFFFF_FFFF

GIVEN_UP = 1 << 63
"""Bit beside the base offset of a batch that rotted on every node: a retry of it is no duplicate of anything."""


class OneProducer:
    """State of one producer: two numbers per batch kept (base offset; body checksum and count in one).

    A last one of no messages says that what has rotted behind it may have been of this producer.
    """

    __slots__ = ("batches", "epoch", "last_ms", "next_sequence")

    def __init__(self, epoch: int, next_sequence: int, last_ms: int, batches: array[int]) -> None:
        self.epoch = epoch
        self.next_sequence = next_sequence
        self.last_ms = last_ms
        self.batches = batches

    @property
    def is_sure(self) -> bool:
        """Whether nothing that has rotted may have come after its last batch."""
        return self.batches[-1] & SEQUENCE_MASK > 0

    def find(self, first_sequence: int, count: int, checksum: int) -> Verdict:
        """Verdict on a batch that begins before ``next_sequence``."""
        sequence = self.next_sequence
        behind = (sequence - first_sequence) & SEQUENCE_MASK
        batches = self.batches
        reached = 0
        for at in range(len(batches) - 2, -1, -2):
            facts = batches[at + 1]
            kept_count = facts & SEQUENCE_MASK
            reached += kept_count
            if reached >= behind:
                base_offset = batches[at] & ~GIVEN_UP
                if batches[at] & GIVEN_UP:
                    return GivenUp(base_offset)
                if reached == behind and kept_count == count and facts >> 32 == checksum:
                    return Duplicate(base_offset, base_offset + count)
                return Conflict(base_offset)
        return TooOld((sequence - reached) & SEQUENCE_MASK)


def facts_of(item: tuple[int, OneProducer]) -> RememberedProducer:
    """A producer of a table, by its id, as it is written."""
    identity, producer = item
    return RememberedProducer(identity, producer.epoch, producer.next_sequence, producer.last_ms, producer.batches)
