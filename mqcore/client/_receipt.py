"""What an acknowledged send was told: the outcome that a caller keeps."""

from __future__ import annotations

from typing import NamedTuple

from mqcore.guarantees import Copy, Level

__all__ = ["Receipt"]


class Receipt(NamedTuple):
    """What was reached for a message, or for ``count`` messages of one batch from ``offset`` on.

    ``topic``, ``partition``: where it was appended. ``epoch``: number of the reign that appended it, which makes the
    offset unique for ever. ``copies``: the nodes that hold it, each with its incarnation and level, as the broker
    stated when it answered. ``duplicate``: the log held it already, from an earlier attempt of the same send.
    """

    topic: str
    partition: int
    offset: int
    epoch: int
    copies: tuple[Copy, ...]
    duplicate: bool
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which has no use for a receipt

    @property
    def level(self) -> Level:
        """Level of the weakest of the copies."""
        return min(copy.level for copy in self.copies)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Ids of the nodes that hold a copy, in hexadecimal."""
        return tuple(copy.node_id.hex() for copy in self.copies)
