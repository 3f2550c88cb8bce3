"""How much a set's metadata log may have to say at once: made short it is one batch, and a batch has a bound (G20).

Reckoned before a topic is made, by what the batch can come to: a log that cannot be made short any more grows with
every trim. Must not know how records are written.
"""

from __future__ import annotations

__all__ = ["MetadataRoom"]

START_BYTES = 144
"""What is said of where a trimmed log begins, below an offset of 10^12 and a position of 10^15."""
_BESIDE_BYTES = 1024
"""The batch itself, and the record of a set without a coordinator."""


class MetadataRoom:
    """Room in ``bytes_max`` for topics, each with the bytes of its record and a start for each partition."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._of: dict[bytes, int] = {}
        self._taken = _BESIDE_BYTES

    def take(self, topic_id: bytes, record_bytes: int, partitions: int) -> None:
        """Take in that a topic is there, or is another than before."""
        self.give_back(topic_id)
        self._of[topic_id] = _bytes_of(record_bytes, partitions)
        self._taken += self._of[topic_id]

    def give_back(self, topic_id: bytes) -> None:
        """Take in that a topic is there no more."""
        self._taken -= self._of.pop(topic_id, 0)

    def refusal(self, topic_id: bytes, record_bytes: int, partitions: int) -> str:
        """Why a topic cannot be made, or altered, so; empty where it can, as where it takes no more than before."""
        before, after = self._of.get(topic_id, 0), _bytes_of(record_bytes, partitions)
        needed = self._taken - before + after
        if after <= before or needed <= self._bytes_max:
            return ""
        return (
            f"what the metadata log says of topics and partitions could come to {needed} bytes, and made short it is "
            f"one batch, of {self._bytes_max} at most (limit batch_bytes_max): delete topics, or raise the limit"
        )


def _bytes_of(record_bytes: int, partitions: int) -> int:
    return record_bytes + 1 + partitions * START_BYTES
