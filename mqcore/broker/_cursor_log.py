"""The log of cursors: what groups of consumers have committed, in a log of the set beside the metadata log (R13, G16).

One task writes: what came in while the last batch was committed goes into the next one, so that commits share appends
and flushes with each other, and flushes with everything else that is flushed. The log is made short again by a snapshot
at its end, after which what lies before it is trimmed as retention trims any log (R15). Where an offset store keeps the
cursors (decision 0035), the log says so, and has the rest: how long sessions are. Must not know members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from mqcore.abc import Notice, OffsetStore
from mqcore.batch import HEADER_BYTES, unpack_header
from mqcore.broker._cursor_store import IN_LOG, StoredCursors
from mqcore.broker._partition import Partition
from mqcore.broker._sends import WaitingCaller
from mqcore.broker._topics import Topics
from mqcore.config import BrokerConfig
from mqcore.errors import CommandNotPossibleError, CorruptionError, MqcoreError, StorageError
from mqcore.groups import CursorTable, pack_place, unpack_change
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
from mqcore.protocol import SendPolicy

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


class CursorSet(Protocol):
    """What the log of cursors uses of the set."""

    @property
    def metadata_partition(self) -> Partition:
        """The metadata log under the commit rule."""
        ...


class CursorReign(Protocol):
    """What the log of cursors uses of the reign."""

    config: BrokerConfig
    limits: Limits
    store: LogStore
    topics: Topics
    offset_store: OffsetStore | None

    @property
    def set(self) -> CursorSet | None:
        """The replica set; None for a broker that is alone."""
        ...

    async def open_cursors(self) -> Partition:
        """Open the log."""
        ...

    def held_up_at(self, partition: Partition, hold_max_ms: int) -> int | None:
        """Offset from which a replica still copies the log."""


class CursorLog:
    """The cursors of one reign. ``open`` it, if it is there, before replicas are fed; ``run`` it.

    ``table`` is what is committed; it may be believed once ``is_ready``, and is damaged where ``failure`` is set. What
    it has besides cursors may be believed once ``is_read``, wherever those are kept.
    """

    def __init__(self, reign: CursorReign, report: Callable[[Notice], None]) -> None:
        self.table = CursorTable(
            reign.limits.partitions_per_topic_max, is_known=lambda topic_id: topic_id in reign.topics.by_id
        )
        self.partition: Partition | None = None
        self.is_ready = False
        self.is_read = False
        self.lives_before: dict[tuple[str, bytes], int] = {}
        """Longest sessions, in ms, of the members that groups had when the last reign ended; those that had any."""
        self.batches = 0
        """Written in this reign, each with whatever was waiting."""
        self._failure: MqcoreError | None = None
        self._over: MqcoreError | None = None
        self._stored: StoredCursors | None = None
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
            self._fail(error)

    @property
    def failure(self) -> MqcoreError | None:
        """Why cursors cannot be read, or kept any more; None while they can."""
        return self._failure or (self._stored.failure if self._stored is not None else None)

    @property
    def why_not_served(self) -> str:
        """Why no group is served, for an operator: what failed, or waits for something outside; else empty."""
        if self.failure is not None:
            return f"cursors cannot be read: {self.failure}"
        return self.why_not_ready if self._stored is not None and self._stored.is_down else ""

    @property
    def why_not_ready(self) -> str:
        """What those are told who ask before cursors are known, or while too many wait."""
        if self._stored is not None and self._stored.is_down:
            return (
                f"the offset store {self._stored.store.url} does not serve, as the broker's log says: it is asked again"
            )
        return "the broker is still reading cursors, or has too many to write: wait"

    def _fail(self, error: MqcoreError) -> None:
        self._failure = error
        self._report(Notice("cursors-not-read", f"no group is served: {error}"))

    async def run(self) -> None:
        """Read what there is, then write what is asked for, until cancelled."""
        await self.open()
        if self.partition is not None and self._failure is None:
            await self._replay(self.partition)
        self.lives_before = {key: each.session_ms for key, each in self.table.topics.items() if each.session_ms}
        self.is_read = self._failure is None
        if self._failure is None:
            await self._find_place()
        self.is_ready = self.failure is None
        async with trio.open_nursery() as nursery:
            if self._stored is not None:
                nursery.start_soon(self._stored.run)
            while True:
                await trio.lowlevel.checkpoint()  # a write that fails at once has none, and may be told to write again
                while not self._queue:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await self._write_queued()
                await self._make_short()

    async def _find_place(self) -> None:
        """Read cursors from where they are kept; have them kept where the configuration says."""
        reign, table = self._reign, self.table
        try:
            if reign.offset_store is not None:
                self._stored = StoredCursors(
                    reign.offset_store,
                    table,
                    set_id=reign.store.set_id,
                    reign=(reign.store.epoch, reign.store.reign_id),
                    earlier=reign.store.metadata.history,
                    topic_name=lambda topic_id: getattr(reign.topics.by_id.get(topic_id), "name", None),
                    is_settled=self._topics_are_settled,
                    report=self._report,
                )
                since = table.since if table.is_elsewhere else reign.store.epoch
                place = pack_place(is_elsewhere=True, marked=reign.store.epoch, since=since)
                if table.is_elsewhere:
                    await self._stored.mark(table.marked, table.since)
                    if self._stored.failure is None:
                        self._append(place, _needs_no_answer)  # a set that is short of nodes serves groups all the same
                else:
                    await self._stored.take_over()
                    await self._stored.mark()
                    if self._stored.failure is None:
                        await self._commit(place)
                await self._stored.load()
            elif table.is_elsewhere and reign.config.offset_store == IN_LOG:
                await self._commit(pack_place(is_elsewhere=False))
            elif table.is_elsewhere:
                text = "cursors are kept in an offset store, and none is named: write offset_store again"
                self._fail(CommandNotPossibleError(f'{text}, or offset_store = "{IN_LOG}" to begin without them'))
        except MqcoreError as error:
            self._fail(error)

    def _topics_are_settled(self) -> bool:
        own_set = self._reign.set
        if own_set is None:
            return True  # what the log has was flushed by whoever opened it
        metadata = own_set.metadata_partition
        return metadata.committed_offset >= metadata.log.end_offset

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
                # As a retry of the last of it would be answered: that ends, too, when the log stops first.
                caller = WaitingCaller()
                partition.answer_when_committed(end_offset, SendPolicy.TOPIC, (caller, 0, end_offset - 1, True))
                await caller.answered.wait()
                if not caller.is_committed and self._over is None:
                    text = f"log {log.name} has stopped before all of it was committed: {partition.failure}"
                    raise StorageError(f"{text}; restart the broker", kind="io")
        except (StorageError, CorruptionError) as error:
            self._fail(error)

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
        return self._queued_bytes > _QUEUED_BYTES_MAX or (self._stored is not None and self._stored.is_full)

    def write(self, record: bytes, done: Done) -> None:
        """Write ``record`` with whatever else waits, and call ``done`` once it is committed and in ``table``."""
        change = None if self._stored is None else unpack_change(record)
        if self._stored is None or change is None:
            self._append(record, done)
            return
        group, topic_id, entries = change

        def ended(error: MqcoreError | None) -> None:
            # The log forgets the group too: how long the sessions of its members were.
            if error is None:
                self._append(record, done)
            else:
                done(error)

        self._stored.write(group, topic_id, entries, done if entries is not None else ended)

    def _append(self, record: bytes, done: Done) -> None:
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
            # Not cancelled with the reign, which closes the log: that ends the wait, and what it says tells whether the
            # records may be in the log.
            with trio.CancelScope(shield=True):
                await self._commit(records)
        except MqcoreError as error:
            failure = error
        for _, done in taken:
            done(failure)

    async def _commit(self, records: bytes) -> None:
        try:
            partition = await self._opened()
        except MqcoreError as error:
            raise self._over or error from None
        if self._over is not None:
            raise self._over  # nothing would end a wait for the commit any more
        batch = pack_cursors_batch(records)
        try:
            await partition.commit(lambda: IncomingBatch(unpack_header(batch), batch))
        except StorageError as error:
            if self._over is None or error.kind != "closed" or error.appended:
                raise
            raise self._over from None
        self.batches += 1
        self.table.apply(records, f"log {CURSORS_NAME}")

    async def _opened(self) -> Partition:
        if self.partition is None:
            # R13: the metadata log says that there is one before its first byte is written.
            await self._reign.topics.write_starts({CURSORS_NAME: LogStart()})
            self.partition = await self._reign.open_cursors()
        return self.partition

    def close(self, error: MqcoreError) -> None:
        """Write nothing any more, which is what all are told who wait; of what is under way its own write tells."""
        self._over = error
        self.is_ready = self.is_read = False
        if self._stored is not None:
            self._stored.close(error)
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


def _needs_no_answer(error: MqcoreError | None) -> None:
    """Nobody waits for it."""
