"""What was sent, what was acknowledged where, and what was read back: the demonstration's own comparison.

Does not trust the broker: the texts are kept on this side, and everything read is compared with the text that the
receipt for its partition and offset stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from mqcore.client import ConsumedBatch, Delivery

__all__ = ["Comparison", "Ledger"]


class Ledger:
    """Messages of one topic in the order in which they were posted, and what became of them."""

    def __init__(self) -> None:
        self._posts: list[tuple[Sequence[bytes], Sequence[Delivery]]] = []
        self._settled = 0
        self.posted = 0
        self.acknowledged = 0
        self.acknowledged_bytes = 0

    def add(self, values: Sequence[bytes], deliveries: Sequence[Delivery]) -> None:
        """Note what ``post_many(values)`` returned: the deliveries share the values out among them, in order."""
        self._posts.append((values, deliveries))
        self.posted += len(values)

    def settle(self) -> int:
        """Return how many messages have a receipt now; counts up to the first post that has no outcome yet."""
        while self._settled < len(self._posts):
            values, deliveries = self._posts[self._settled]
            if not all(delivery.is_done for delivery in deliveries):
                break
            for delivery in deliveries:
                delivery.result()
            self.acknowledged += len(values)
            self.acknowledged_bytes += sum(map(len, values))
            self._settled += 1
        return self.acknowledged

    async def wait_for_next(self) -> None:
        """Wait until the oldest post without an outcome has one; raises its error."""
        self.settle()
        for _, deliveries in self._posts[self._settled : self._settled + 1]:
            for delivery in deliveries:
                await delivery.wait()

    async def wait(self) -> None:
        """Wait until everything posted has its receipt; raises the error of what has none."""
        for _, deliveries in self._posts[self._settled :]:
            for delivery in deliveries:
                await delivery.wait()
        self.settle()

    def comparison(self) -> Comparison:
        """Return what has to be read, by partition and offset, according to the receipts."""
        expected: dict[tuple[int, int], Sequence[bytes]] = {}
        for values, deliveries in self._posts[: self._settled]:
            position = 0
            for delivery in deliveries:
                receipt = delivery.result()
                expected[receipt.partition, receipt.offset] = values[position : position + receipt.count]
                position += receipt.count
        return Comparison(expected)


@attrs.define
class Comparison:
    """Holds what is read against what was acknowledged: each batch once, at its place, text for text."""

    _expected: dict[tuple[int, int], Sequence[bytes]]
    read: int = 0
    different: int = 0
    """Messages at the place of a receipt, with another text."""
    invented: int = 0
    """Messages at a place for which there is no receipt: never sent, or stored twice."""

    @property
    def missing(self) -> int:
        """Messages that were acknowledged and have not been read, or not whole."""
        return sum(map(len, self._expected.values()))

    @property
    def is_good(self) -> bool:
        """Whether all that was acknowledged was read, and nothing else."""
        return not (self.missing or self.different or self.invented)

    def take(self, batch: ConsumedBatch) -> None:
        """Compare one batch that was read."""
        self.read += len(batch)
        key = (batch.partition, batch.offset)
        values = self._expected.get(key)
        if values is None:
            self.invented += len(batch)
        elif len(values) == len(batch):
            del self._expected[key]
            if batch.values != list(values):
                self.different += sum(map(bytes.__ne__, batch.values, values))
