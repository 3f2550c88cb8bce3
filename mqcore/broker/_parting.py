"""Whether a log may be cut where its history parts from another node's, or has to be begun anew (R5, R15).

Must not know who says that they part, nor what is done then.
"""

from __future__ import annotations

from mqcore.log import METADATA_NAME, LogStore, PartitionLog

__all__ = ["leaves_too_little"]


async def leaves_too_little(store: LogStore, log: PartitionLog, cut: int) -> bool:
    """Whether ``log`` cannot be cut at ``cut``: it begins only above that, or not enough of it would be left.

    Raises ``StorageError``.
    """
    if cut != log.start_position or log.name != METADATA_NAME:
        return cut < log.start_position
    # An empty metadata log beside partitions is damage to a start: only one that was begun anew says why it is empty.
    return bool(await store.list_logs())
