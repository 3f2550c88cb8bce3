"""What a flush has to reach before it proves anything of a log that asks for it: more than a lame array reaches.

Knows levels only; why a build asks for one is its promises' subject.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from mqcore.abc import FlushedLog, Notice
from mqcore.log._partition_log import PartitionLog

__all__ = ["LeastLevel"]

RETRY_S = 0.1


class LeastLevel:
    """Takes the results of flushes. ``report`` is called when acknowledgements begin to wait, and when they go on."""

    def __init__(self, report: Callable[[Notice], None]) -> None:
        self._report = report
        self.is_missed = False
        """Whether the last flush reached too little for a log."""

    def take(self, marks: Sequence[tuple[PartitionLog, int, int]], reached: Sequence[FlushedLog]) -> None:
        """Note in each log of ``marks`` (log, end offset, end position) what a flush has ``reached``, in order."""
        short = None
        for (log, end_offset, end_position), (_, level) in zip(marks, reached, strict=False):
            log.durable_level = level
            if level < log.least_level:
                short = log
            else:
                log.flushed(end_offset, end_position)
                log.sidecar_flushed()
        if (short is not None) is not self.is_missed:
            self._tell(short)

    def _tell(self, short: PartitionLog | None) -> None:
        self.is_missed = short is not None
        if short is None:
            self._report(Notice("level-restored", "the storage is whole again: acknowledgements go on"))
        else:
            self._report(
                Notice(
                    "level-too-low",
                    f"a flush of log {short.name} reaches {short.durable_level.label}, and {short.least_level.label} "
                    "is asked for: what was sent is not acknowledged before the storage is whole again",
                )
            )

    async def pause(self) -> None:
        """Wait before a flush that reached too little is tried again: what the storage lacks an operator brings."""
        await trio.sleep(RETRY_S)
