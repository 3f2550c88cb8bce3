"""The metadata log of a set is made short: what is in force is written anew, and what lies before it goes (R13, R15).

The primary writes one batch that says everything, a snapshot; once that is committed every node trims its copy to where
it begins. A copy that ends below is begun anew there, as of any log that was trimmed. Only a reign has such a task, and
what it writes is committed like a topic: it needs the set. Must not know what the records mean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

import trio

from mqcore.abc import Notice
from mqcore.broker._partition import Partition
from mqcore.broker._topics import Topics
from mqcore.errors import MqcoreError
from mqcore.limits import Limits
from mqcore.log import LogStart

__all__ = ["MetadataShortener", "ShortenedReign"]

_SHARE = 3
"""A log that has grown by so many times its last snapshot is made short: a start reads no more than four times that."""
_HOLD_MS_MAX = 600_000
"""How long a trim waits for a replica that follows and has not got so far, and for one whose copying has begun."""
_AGAIN_S = 1.0
"""How long it waits for a replica that still copies what would go, before it looks again."""


class ShortenedReign(Protocol):
    """What it uses of the reign."""

    topics: Topics
    limits: Limits

    def held_up_at(self, partition: Partition, hold_max_ms: int) -> int | None:
        """Offset from which a replica still copies the log; None where none holds it up."""


class MetadataShortener:
    """Makes ``partition``, the metadata log of ``reign``, short whenever it has grown enough. ``run`` it."""

    def __init__(self, reign: ShortenedReign, partition: Partition, report: Callable[[Notice], None]) -> None:
        self._reign = reign
        self._partition = partition
        self._report = report
        self._wake = trio.Event()
        self._why = ""
        self._tried_at = 0
        self._waits_since: float | None = None
        """When it was first found that what is committed is to go; None once it went."""

    async def run(self) -> None:
        """Look whenever the log has moved, until cancelled."""
        partition = self._partition
        partition.watchers = (*partition.watchers, self)
        while partition.failure is None:
            self._wake = trio.Event()
            await self._look()
            with trio.move_on_after(_AGAIN_S if self._is_to_trim else float("inf")):
                await self._wake.wait()

    def moved(self, partition: Partition) -> None:
        """Take note that the log has grown, or that more of it is committed."""
        if self._is_due or self._is_to_trim:
            self._wake.set()

    @property
    def _is_due(self) -> bool:
        """Whether the log has grown so much since it last said everything, or since that could not be written."""
        log, snapshot = self._partition.log, self._reign.topics.snapshot
        begin, size = (
            (log.start_position, 0) if snapshot is None else (snapshot.position + snapshot.size, snapshot.size)
        )
        grown = log.end_position - max(begin, self._tried_at)
        return grown > max(self._reign.limits.metadata_log_bytes_max, _SHARE * size)

    @property
    def _is_to_trim(self) -> bool:
        snapshot = self._reign.topics.snapshot
        return snapshot is not None and snapshot.position > self._partition.log.start_position

    async def _look(self) -> None:
        try:
            if self._is_due:
                self._tried_at = self._partition.log.end_position
                await self._reign.topics.write_snapshot()
            await self._trim()
        except MqcoreError as error:
            if str(error) != self._why:
                self._why = str(error)
                text = f"the metadata log stays as it is for now: {error}"
                self._report(Notice("metadata-not-compacted", text))

    async def _trim(self) -> None:
        snapshot, partition = self._reign.topics.snapshot, self._partition
        if snapshot is None or not self._is_to_trim or partition.committed_offset <= snapshot.offset:
            return  # of an earlier reign it may be here, and not be committed yet
        if self._waits_since is None:  # not from each snapshot anew: a replica that takes nothing would outlast them
            self._waits_since = trio.current_time()
        # Where no replica is waited for it is committed before they have it. One that is a little behind would have to
        # begin its copy anew each time, under another incarnation.
        is_new = trio.current_time() - self._waits_since < _HOLD_MS_MAX / 1000
        held_up = self._reign.held_up_at(partition, sys.maxsize if is_new else _HOLD_MS_MAX)
        if held_up is None or held_up >= snapshot.offset:
            await partition.trim(LogStart(snapshot.offset, snapshot.position))
            self._waits_since = None
