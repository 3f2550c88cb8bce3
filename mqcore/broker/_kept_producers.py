"""What a log remembers of its producers, written into the log itself before what it was learned from goes (R12, R15).

Must not know why a log begins anew somewhere, nor who reads it from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.broker._partition import Partition
from mqcore.log import IncomingBatch

__all__ = ["keep_producers"]


async def keep_producers(partition: Partition, position: int) -> None:
    """Have a log say what it remembers of producers, if who begins at ``position`` would not be told.

    Raises as ``Partition.commit``, but waits for nothing. If cancelled, nothing is in the log.
    """
    log, made = partition.log, list[IncomingBatch]()

    def make() -> Sequence[IncomingBatch]:
        # Asked again in its turn: two may want it at once.
        made.extend(log.producers_batches() if log.lacks_producers(position) else ())
        return made

    if log.lacks_producers(position):
        await partition.append_own(make)
        if made:
            log.producers_kept(made)
