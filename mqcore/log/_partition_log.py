"""One log of batches on one ``Log`` of bytes: append, read, offsets, epochs, truncation, trimming.

Knows nothing of topics, requests or flush policies. One task appends, truncates or trims at a time; reads run beside.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.batch import BatchHeader
from mqcore.errors import StorageError
from mqcore.log._producers import ProducerTable, Verdict
from mqcore.log._types import Damage, EpochEntry, IncomingBatch, ReadResult, RetentionFacts

__all__ = ["PartitionLog"]


class PartitionLog:
    """Batches in order, with offsets. Made by ``LogStore.open_log``."""

    name: str
    salt: int
    start_offset: int
    """First offset kept; never goes back."""
    end_offset: int
    """Offset that the next message gets."""
    durable_offset: int
    """Offset below which everything is at the backend's flush level."""
    end_position: int
    durable_position: int
    failed: StorageError | None
    """Why the log takes no more appends, for good; None while it works."""
    producers: ProducerTable

    @property
    def bytes_total(self) -> int:
        """Bytes that the log holds."""
        raise NotImplementedError

    @property
    def dirty(self) -> bool:
        """Whether a flush would move ``durable_offset``."""
        raise NotImplementedError

    def check(self, headers: Sequence[BatchHeader]) -> list[Verdict]:
        """Verdicts of the producer table for batches about to be appended in this order.

        They hold if ``append`` follows without a checkpoint. Raises ``trio.BusyResourceError`` during an append.
        """
        raise NotImplementedError

    async def append(self, batches: Sequence[IncomingBatch]) -> list[int]:
        """Stamp and append ``batches`` in one go; return their base offsets. See the class for who may call it."""
        raise NotImplementedError

    async def read(self, offset: int, bytes_max: int, end_offset: int) -> ReadResult:
        """Return whole batches from the one that contains ``offset``, below ``end_offset``."""
        raise NotImplementedError

    @property
    def history(self) -> list[EpochEntry]:
        """The reigns of this log, oldest first."""
        raise NotImplementedError

    @property
    def damages(self) -> list[Damage]:
        """Damaged ranges met so far."""
        raise NotImplementedError

    def epoch_at(self, offset: int) -> int:
        """Epoch number of the batch that contains ``offset``; at the end, of the last batch; 0 in an empty log."""
        raise NotImplementedError

    def divergence(self, offset: int, epoch: int) -> int | None:
        """Where a reader's history leaves this log's, None if it does not."""
        raise NotImplementedError

    async def offset_at_time(self, time_ms: int) -> int:
        """First offset of the first batch whose append time is at least ``time_ms``; ``end_offset`` if none."""
        raise NotImplementedError

    async def trim(self, offset: int) -> int:
        """Give up whole segments below ``offset``, durably; return the new ``start_offset`` (at most ``offset``)."""
        raise NotImplementedError

    async def retention_facts(self) -> RetentionFacts:
        """What retention needs to know of the oldest part."""
        raise NotImplementedError

    async def truncate(self, offset: int) -> None:
        """Cut every batch from the one that contains ``offset`` on, durably; producer state rolls back with it."""
        raise NotImplementedError
