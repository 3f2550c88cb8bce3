"""One partition as a replica has it: a log that follows another node's, flushed by the topic's policy, read up to what
is known to be committed.

The counterpart of ``Partition``: it appends what was stamped elsewhere and acknowledges nothing. Must not know of
streams.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from mqcore.abc import Buffer, Notice
from mqcore.broker._group_commit import FlushRequests
from mqcore.broker._parked import ParkedFetches, ParkedSink
from mqcore.errors import MqcoreError, StorageError
from mqcore.guarantees import AsyncFlush, Level, NoFlush
from mqcore.log import PartitionLog
from mqcore.protocol import Code
from mqcore.replication import CommitPolicy

__all__ = ["PartitionCopy"]

BEHIND_BYTES_MAX = 8 * 1024 * 1024
BEHIND_US_MAX = 1_000_000
"""How much a copy that is still behind what is committed takes in, and for how long, before it is flushed."""
AGE_MS_NEVER = 1 << 31
"""Age of what was never known."""


class PartitionCopy:
    """A replica's copy of one log, in one reign that it follows.

    ``policy``: of the topic; how it is flushed here too. ``flusher``: the group commit. ``moved`` is called when the
    copy has something new to report, ``known_age_ms`` returns how long ago the primary last confirmed its reign: that
    is how old what this copy knows is, as long as it has been told what is committed, and has all of it.
    """

    def __init__(
        self,
        log: PartitionLog,
        *,
        policy: CommitPolicy,
        flusher: FlushRequests,
        now_us: Callable[[], int],
        moved: Callable[[PartitionCopy], None],
        known_age_ms: Callable[[], int],
        report: Callable[[Notice], None],
    ) -> None:
        self.log = log
        log.least_level = Level.NONE  # a copy acknowledges nothing by itself, and states the level that it has
        self.policy = policy
        self.failure: MqcoreError | None = None
        self.closure: tuple[Code, str] | None = None
        """Why nothing is served any more, with its code."""
        self.passed_bytes = 0
        self.committed_offset = min(log.committed_offset, log.end_offset)
        self._flusher = flusher
        self._now_us = now_us
        self._moved = moved
        self._known_age_ms = known_age_ms
        self._is_current = False
        self._known_us: int | None = None  # while it is not current: when it last knew; None: it never did
        self._report = report
        self._parked: ParkedFetches[tuple[ParkedSink, int]] = ParkedFetches()
        if log.failed is not None:
            self.stop(log.failed)

    async def append(self, batches: Sequence[Buffer], position: int, committed_offset: int) -> None:
        """Append what the primary has at ``position``, this log's end; there ``committed_offset`` is committed.

        Raises ``CorruptionError`` for what cannot be a part of this log, ``StorageError``, ``OutcomeUnknownError``;
        nothing is in the log then, or the copy has stopped. So if cancelled.
        """
        try:
            await self.log.append_foreign(batches, position=position)
        except MqcoreError:
            if self.log.failed is not None:
                self.stop(self.log.failed)
            raise
        self._want_flush(committed_offset)
        if self.policy.level < Level.DISK:
            self._moved(self)  # else what it waits for is the flush, whose report says this, too

    def _want_flush(self, committed_offset: int) -> None:
        """Have the log flushed as the topic's policy has it flushed on its primary (guarantees, section 1)."""
        policy, log = self.policy, self.log
        flush = policy.flush
        is_waited_for = policy.level >= Level.DISK or policy.stable_only or not isinstance(flush, AsyncFlush | NoFlush)
        bounds = policy.bounds
        if not is_waited_for and bounds is None:
            return
        if log.end_offset < committed_offset:
            # Others hold what this copy is still to get: nobody waits for it, and a flush for each frame would take the
            # disk from those that are waited for. Often enough that little is fetched again after a power cut.
            if log.end_position - log.durable_position >= BEHIND_BYTES_MAX:
                self._flusher.flush_soon(self)
            else:
                self._flusher.flush_by(self, self._now_us() + BEHIND_US_MAX)
            return
        if is_waited_for or bounds is None:
            self._flusher.flush_soon(self)
            return
        # Half of a bound, as on the primary: so that acknowledgements there do not wait for what is late here.
        messages, size = log.end_offset - log.durable_offset, log.end_position - log.durable_position
        if (bounds.max_messages is not None and 2 * messages >= bounds.max_messages) or (
            bounds.max_bytes is not None and 2 * size >= bounds.max_bytes
        ):
            self._flusher.flush_soon(self)
        elif bounds.max_interval_ms is not None:
            self._flusher.flush_by(self, self._now_us() + bounds.max_interval_ms * 500)

    def flushed(self, replied: object = None) -> None:
        """Take in that a group commit covered this log, or left it out because it has failed."""
        if self.log.failed is not None:
            self.stop(self.log.failed)
        else:
            self._moved(self)

    def commit(self, offset: int) -> None:
        """Take in what the primary says is committed, after the histories met; parked reads up to it are woken."""
        if offset > self.log.end_offset or self.failure is not None:
            self.outdated()
        else:
            self._is_current = True
        # Not beyond the own end: what is not here cannot be served, and the next frame says it again.
        offset = min(offset, self.log.end_offset)
        if offset > self.committed_offset and self.failure is None:
            self.committed_offset = offset
            if self._parked.number_of:
                for sink, request_id in self._parked.wake(offset):
                    sink.unpark(request_id)

    async def part_at(self, position: int) -> str | None:
        """Give up what the primary's reign has not got, from ``position`` on; as ``PartitionLog.part_at``."""
        try:
            name = await self.log.part_at(position)
        except StorageError:
            if self.log.failed is not None:
                self.stop(self.log.failed)
            raise
        self.committed_offset = min(self.committed_offset, self.log.end_offset)
        return name

    def stop(self, error: MqcoreError) -> None:
        """Stop for good after a failed flush or append (G11); what is not durable is not served any more."""
        if self.failure is None:
            self.outdated()
            self.failure = error
            self.committed_offset = min(self.committed_offset, self.log.durable_offset)
            self._report(Notice("copy-stopped", f"the copy {self.log.name} stopped after a failure: {error}"))

    def close(self, code: Code, error: MqcoreError) -> None:
        """Serve nothing any more: what waits to read is told ``code`` at once."""
        if self.closure is None:
            self.log.committed_offset = max(self.log.committed_offset, self.committed_offset)
        self.closure = code, str(error)
        self.failure = self.failure or error
        for sink, request_id in self._parked.wake(sys.maxsize):
            sink.unpark(request_id)

    # reading

    @property
    def is_current(self) -> bool:
        """Whether all is here of which the primary said last that it is committed."""
        return self._is_current

    @property
    def known_age_ms(self) -> int:
        """How old the knowledge is that reads are answered from (G19)."""
        if self._is_current:
            return self._known_age_ms()
        return AGE_MS_NEVER if self._known_us is None else max(0, self._now_us() - self._known_us) // 1000

    @property
    def judged_epoch_max(self) -> int:
        """The latest epoch of which a reader may be told here that it has left the log's history; 0: of none.

        Of a reign only that is older than the last batch here, for then no more of it comes; and not before all is here
        of which the primary says that it is committed. A primary that has just begun may say less than it has: what a
        reader has read of a reign that this copy missed can be there, and on its way.
        """
        return min(self.log.term.epoch, self.log.last_batch[0] - 1) if self._is_current else 0

    def outdated(self) -> None:
        """What is known grows old from here on, until all is here of which the primary says that it is committed."""
        if self._is_current:
            age_ms = self._known_age_ms()
            self._known_us = None if age_ms >= AGE_MS_NEVER else self._now_us() - age_ms * 1000
            self._is_current = False

    def park(self, offset: int, sink: ParkedSink, request_id: int) -> None:
        """Wake ``sink`` once the committed offset is beyond ``offset``."""
        self._parked.park(offset, (sink, request_id))

    def forget_parked(self, sink: ParkedSink, request_id: int) -> None:
        """Drop one parked fetch of ``sink``."""
        self._parked.forget((sink, request_id))
