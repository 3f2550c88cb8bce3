"""The log of cursors: what groups of consumers have committed, in a log of the set beside the metadata log (R13, G16).

One task writes: what came in while the last batch was committed goes into the next one, so that commits share appends
and flushes with each other, and flushes with everything else that is flushed. The log is made short again by a snapshot
at its end, after which what lies before it is trimmed as retention trims any log (R15). Must not know members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from mqcore.abc import Notice
from mqcore.batch import HEADER_BYTES, unpack_header
from mqcore.broker._partition import Partition
from mqcore.broker._topics import Topics
from mqcore.errors import CorruptionError, MqcoreError, StorageError
from mqcore.groups import CursorTable
from mqcore.limits import Limits
from mqcore.log import (
    IncomingBatch,
    LogStart,
    LogStore,
    PartitionLog,
    pack_cursors_batch,
    partition_log_name,
    partition_salt,
    unpack_cursors_batch,
)

__all__ = ["CURSORS_KEY", "CURSORS_NAME", "CursorLog", "CursorReign", "Done", "open_cursor_log"]

CURSORS_KEY: tuple[bytes, int] = (bytes(15) + b"\x01", 0)
"""By which replicas follow the log of cursors; no topic has this id."""
CURSORS_NAME = partition_log_name(*CURSORS_KEY)

_READ_BYTES = 4 * 1024 * 1024
_BATCH_BYTES_MAX = 512 * 1024
_QUEUED_BYTES_MAX = 64 * 1024 * 1024
_COMPACT_BYTES_MIN = 4 * 1024 * 1024
_COMPACT_SHARE = 3
"""A log that is so many times as large as a snapshot of it is made short."""
_HOLD_MS_MAX = 600_000

Done = Callable[[MqcoreError | None], None]
"""Called when a record is committed, or with why it may not be."""


class CursorReign(Protocol):
    """What the log of cursors uses of the reign."""

    limits: Limits
    topics: Topics

    async def open_cursors(self) -> Partition:
        """Open the log."""
        ...

    def held_up_at(self, partition: Partition, hold_max_ms: int) -> int | None:
        """Offset from which a replica still copies the log."""


class CursorLog:
    """The cursors of one reign. ``open`` it, if it is there, before replicas are fed; ``run`` it.

    ``table`` is what is committed; it may be believed once ``is_ready``, and is damaged where ``failure`` is set.
    """

    def __init__(self, reign: CursorReign, report: Callable[[Notice], None]) -> None:
        self.table = CursorTable(
            reign.limits.partitions_per_topic_max, is_known=lambda topic_id: topic_id in reign.topics.by_id
        )
        self.partition: Partition | None = None
        self.is_ready = False
        self.lives_before: dict[tuple[str, bytes], int] = {}
        """Longest sessions, in ms, of the members that groups had when the last reign ended; those that had any."""
        self.failure: MqcoreError | None = None
        self.batches = 0
        """Written in this reign, each with whatever was waiting."""
        self._reign = reign
        self._report = report
        self._queue: list[tuple[bytes, Done]] = []
        self._queued_bytes = 0
        self._wake = trio.Event()
        self._trim_to: int | None = None

    async def open(self) -> None:
        """Open the log where there is one. What cannot be opened is ``failure``, and groups are refused for it."""
        begins = self._reign.topics.starts.get(CURSORS_NAME)
        if begins is None or self.partition is not None:
            return
        try:
            self.partition = await self._reign.open_cursors()
        except (StorageError, CorruptionError) as error:
            self.failure = error
        if self.failure is not None:
            self._report(Notice("cursors-not-read", f"no group is served: {self.failure}"))

    async def run(self) -> None:
        """Read what there is, then write what is asked for, until cancelled."""
        await self.open()
        if self.partition is not None and self.failure is None:
            await self._replay(self.partition)
        self.lives_before = {key: each.session_ms for key, each in self.table.topics.items() if each.session_ms}
        self.is_ready = self.failure is None
        while True:
            await trio.lowlevel.checkpoint()  # a write that fails at once has none, and what it is told to may write
            while not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            await self._write_queued()
            await self._make_short()

    # reading

    async def _replay(self, partition: Partition) -> None:
        """Read the log to its end; believed once all of it is committed, in this reign too (R10)."""
        log = partition.log
        try:
            position, end_position, end_offset = log.start_position, log.end_position, log.end_offset
            if log.damages:
                raise CorruptionError(f"the log of cursors is damaged: {log.damages[0].text}", where=f"log {log.name}")
            while position < end_position:
                chunks, position, _ = await log.read_stored(position, _READ_BYTES, end_position)
                if not chunks:
                    raise StorageError(f"log {log.name} cannot be read to its end: {log.failed}", kind="io")
                for chunk in chunks:
                    self._take(chunk, f"log {log.name}")
            if end_offset > partition.committed_offset:
                committed = _Woken()
                partition.park(end_offset - 1, committed, 0)
                await committed.event.wait()
        except (StorageError, CorruptionError) as error:
            self.failure = error
            self._report(Notice("cursors-not-read", f"no group is served: {error}"))

    def _take(self, chunk: memoryview, where: str) -> None:
        at = 0
        while at < len(chunk):
            header = unpack_header(chunk[at : at + HEADER_BYTES], where)
            if header.count:
                self.table.apply(unpack_cursors_batch(chunk[at : at + header.size], where), where)
            at += header.size

    # writing

    @property
    def has_stopped(self) -> bool:
        """Whether the log has stopped for good (G11): nothing more gets into it in this reign."""
        return self.partition is not None and self.partition.failure is not None

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that no more is taken in."""
        return self._queued_bytes > _QUEUED_BYTES_MAX

    def write(self, record: bytes, done: Done) -> None:
        """Write ``record`` with whatever else waits, and call ``done`` once it is committed and in ``table``."""
        self._queue.append((record, done))
        self._queued_bytes += len(record)
        self._wake.set()

    async def _write_queued(self) -> None:
        size, count = 0, 0
        for record, _ in self._queue:
            if count and size + len(record) > _BATCH_BYTES_MAX:
                break
            size, count = size + len(record), count + 1
        taken, self._queue = self._queue[:count], self._queue[count:]
        self._queued_bytes -= size
        records = b"".join(record for record, _ in taken)
        failure: MqcoreError | None = None
        try:
            await self._commit(records)
        except MqcoreError as error:
            failure = error
        except trio.Cancelled:
            self._queue[:0] = taken  # ``close`` tells them
            raise
        for _, done in taken:
            done(failure)

    async def _commit(self, records: bytes) -> None:
        partition = self.partition
        if partition is None:
            # R13: the metadata log says that there is one before its first byte is written.
            await self._reign.topics.write_starts({CURSORS_NAME: LogStart()})
            partition = self.partition = await self._reign.open_cursors()
        batch = pack_cursors_batch(records)
        await partition.commit(IncomingBatch(unpack_header(batch), batch))
        self.batches += 1
        self.table.apply(records, f"log {CURSORS_NAME}")

    def close(self, error: MqcoreError) -> None:
        """Write nothing any more; what waits may or may not be committed."""
        self.is_ready = False
        queue, self._queue = self._queue, []
        for _, done in queue:
            done(error)

    # making short

    async def _make_short(self) -> None:
        """Write a snapshot if the log is much larger than one, and have what is before it trimmed."""
        partition = self.partition
        if partition is None or partition.failure is not None:
            return
        log = partition.log
        try:
            if self._trim_to is None:
                large = max(_COMPACT_BYTES_MIN, _COMPACT_SHARE * self.table.snapshot_bytes)
                if log.end_position - log.start_position <= large:
                    return
                begin = log.end_offset
                await self._write_snapshot()
                self._trim_to = begin
            await self._trim(partition, self._trim_to)
        except MqcoreError as error:
            self._report(Notice("cursors-not-compacted", f"the log of cursors stays as it is for now: {error}"))

    async def _write_snapshot(self) -> None:
        """Write everything anew, with what is committed meanwhile in between: a later record holds."""
        part: list[bytes] = []
        size = 0
        for record in self.table.records():
            part.append(record)
            size += len(record)
            if size >= _BATCH_BYTES_MAX:
                await self._commit(b"".join(part))
                part, size = [], 0
                if self._queue:
                    await self._write_queued()
        if part:
            await self._commit(b"".join(part))

    async def _trim(self, partition: Partition, offset: int) -> None:
        held_up = self._reign.held_up_at(partition, _HOLD_MS_MAX)
        if held_up is not None and held_up < offset:
            return  # a replica still copies what would go
        begins = await partition.log.start_at(offset)
        if begins is not None:
            await self._reign.topics.write_starts({CURSORS_NAME: begins})
            await partition.trim(begins)
        self._trim_to = None


async def open_cursor_log(store: LogStore, topics: Topics) -> PartitionLog:
    """Open the log for a reign, so that it begins where the metadata log says: a trim may be told, and not done.

    Raises ``CorruptionError`` where what was committed is gone, and as ``LogStore.open_log``.
    """
    log = await store.open_log(CURSORS_NAME, salt=partition_salt(*CURSORS_KEY))
    begins = topics.starts.get(CURSORS_NAME, LogStart())
    if log.end_offset < begins.offset:
        raise CorruptionError(
            "cursors that were committed are gone; restore the log from a good copy",
            where=f"log {CURSORS_NAME}",
            expected=f"an end beyond offset {begins.offset}",
            found=str(log.end_offset),
        )
    if log.start_offset < begins.offset and log.failed is None:
        await log.trim(begins.offset, begins.position)
    return log


class _Woken:
    """Waits, as a parked fetch does, for a committed offset."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def unpark(self, request_id: int) -> None:
        """Wake it."""
        self.event.set()
