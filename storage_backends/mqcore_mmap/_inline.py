"""Which flush runs in Trio's thread: a hand-over to another thread and back costs what a fast device's flush does.

The rule is that of appends (``append_inline_us_max``): inline while the device is fast. What counts is the mean of its
last flushes, so that one a little slower changes nothing, while a long one keeps those after it out of the event loop.
"""

from __future__ import annotations

from mqcore_mmap._flusher import FlushPlan

__all__ = ["INLINE_BYTES_MAX", "InlineFlushes"]

INLINE_BYTES_MAX = 64 * 1024
"""More is worth a thread: the device is busy with it for longer than a hand-over takes, and appends go on meanwhile."""

WEIGHT = 1 / 8
"""Of the last flush in the mean. One of 100 times the limit keeps about 20 out of the event loop."""

DISTRUST = 16
"""The mean begins at so many times the limit: about 20 flushes have to be fast before the first is inline."""


class InlineFlushes:
    """Decides for one device. ``limit_us``: the mean up to which flushes are inline; 0: none is."""

    def __init__(self, limit_us: int) -> None:
        self._limit_us = limit_us
        self._mean_us = float(DISTRUST * limit_us)

    def allows(self, plan: FlushPlan) -> bool:
        """Whether ``plan`` may be carried out in Trio's thread: one log, a few bytes, nothing that is known to be slow.

        Called for every plan: it also notes how much is allocated, since zeros written ahead are flushed with the bytes
        that are asked for, and take long.
        """
        if plan.journaled or len(plan.direct) != 1:
            return False
        job = plan.direct[0]
        segment = job.segments[-1]
        has_new_zeros = segment.filling or segment.allocated != segment.allocated_at_flush
        segment.allocated_at_flush = segment.allocated
        return (
            self._mean_us < self._limit_us
            and job.end - job.start <= INLINE_BYTES_MAX
            and len(job.segments) == 1
            and not has_new_zeros
            and not segment.is_unnamed
        )

    def took(self, time_us: int) -> None:
        """Take in how long a flush took, whichever thread it ran in. Any thread."""
        self._mean_us += WEIGHT * (time_us - self._mean_us)
