"""What a store waits for between two terms: appends and flushes under way, whose bytes may still land.

Must not know of terms, nor why one ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from mqcore.log._flushing import SerialFlusher
from mqcore.log._partition_log import PartitionLog

__all__ = ["settled"]

WAIT_TOLD_S = 10


async def settled(logs: Iterable[PartitionLog], flusher: SerialFlusher, told: Callable[[], None]) -> None:
    """Wait until nothing is written to ``logs`` any more, for as long as it hangs; ``told`` is called of that."""
    waited_for = list(logs)
    while True:
        with trio.move_on_after(WAIT_TOLD_S) as patience:
            for log in waited_for:
                await log.wait_idle()
            await flusher.settle()
        if not patience.cancelled_caught:
            return
        told()
