"""One log: appends, reads, and what a flush has to know of it.

All but ``flushed_to`` and ``fail`` runs in Trio's thread. It knows nothing of how a flush is shared, and leaves
removals to ``_removal``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import trio

from mqcore.abc import Log
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer, File
from mqcore_mmap._errors import storage_error
from mqcore_mmap._extending import extend, may_extend, wants_zeros
from mqcore_mmap._flusher import FlushJob
from mqcore_mmap._header import SegmentIdentity
from mqcore_mmap._host import LogHost
from mqcore_mmap._missing import zeros
from mqcore_mmap._segment import Segment
from mqcore_mmap._shield import run_shielded

__all__ = ["APPEND_BYTES_MAX", "MmapLog"]

APPEND_BYTES_MAX = 64 * 1024 * 1024
"""Largest single append."""

JOIN_BYTES_MAX = 64 * 1024
"""Appends up to this size are joined: one copy costs less than a long list of buffers."""

READ_INLINE_BYTES = 8 * 1024 * 1024
"""Bytes before the end, appended by this process, that are read in Trio's thread: they are in the page cache."""


class MmapLog(Log):
    """See ``Log``. ``segments`` in order; the last one takes the appends."""

    def __init__(self, name: str, engine: LogHost[MmapLog], uid: bytes | None, start: int = 0) -> None:
        self.name = name
        self._engine = engine
        self._uid = uid
        self.segments: list[Segment] = []
        self._bases: list[int] = []
        self._start = self._end = self._durable_end = self._appended_from = self._flush_start = start
        self._must_unclose = False
        self._pending: list[bytes] | None = []
        self._pending_bytes = 0
        self._dirty: list[Segment] = []
        self.end_is_unsure = False
        """Found after an unclean stop and not touched since: only the caller can say where the valid bytes end."""
        self._failure: str | None = None
        self.failure_told = False
        self._closed = False

    # What it is

    @property
    def level(self) -> Level:
        """The level of a flush: it does not change."""
        return Level.DISK

    @property
    def start(self) -> int:
        """Position of the first byte kept."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the last byte; after a failed flush, after the last byte that was durable before."""
        return self._end if self._failure is None else self._durable_end

    @property
    def durable_end(self) -> int:
        """Position below which everything is on the disk."""
        return self._durable_end

    @property
    def may_be_stale(self) -> bool:
        """Whether what stands above the durable end may be of another time; see ``Log.may_be_stale``."""
        return any(each.was_used for each in self.segments if each.end is None or each.end > self._durable_end)

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used."""
        return self._closed

    @property
    def failure(self) -> str | None:
        """Why the log has stopped, None while it has not."""
        return self._failure

    @property
    def uid(self) -> bytes | None:
        """The log's random identity, None before its first append."""
        return self._uid

    def load(self, segments: list[Segment], end: int, durable_end: int, *, clean: bool) -> None:
        """Take over what was found on the disk."""
        self.segments = segments
        self._bases = [segment.base for segment in segments]
        self._uid = segments[0].uid
        self._start = segments[0].base
        self._end = self._appended_from = end
        self._durable_end = self._flush_start = durable_end
        self._must_unclose = clean
        if not clean:
            self.end_is_unsure = True
            self._pending = None
            # A segment whose seal a power cut took is among them, so that the next flush states again what follows it.
            self._dirty = [
                segment
                for segment in segments
                if not segment.is_missing and (not segment.is_sealed or (segment.end or self._end) > durable_end)
            ]
            for segment in self._dirty:
                segment.dirty = True

    # Append

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Append ``chunks``; see ``Log.append``. If cancelled, it has appended or not begun."""
        self.check_usable()
        total = 0
        for chunk in chunks:
            total += len(chunk) if type(chunk) is bytes else memoryview(chunk).nbytes
        position = self._end
        if total == 0:
            await trio.lowlevel.checkpoint()
            return position
        if total > APPEND_BYTES_MAX:
            raise StorageError(f"an append of {total} bytes; at most {APPEND_BYTES_MAX}", kind="limit")
        engine = self._engine
        after = position + total
        segment = self.segments[-1] if self.segments else None
        if segment is None or after - segment.base > segment.capacity:
            if segment is not None and segment.base == position:
                segment.capacity = total  # an empty one: another of the same base must not be
            else:
                segment = await self._add_segment(total)
        joined = b"".join(chunks) if total <= JOIN_BYTES_MAX else None
        for extends in (True, False) if may_extend(segment, position, after) else (False,):
            while not extends and after - segment.base > segment.allocated:
                await engine.allocate(segment, after - segment.base)
            file = segment.file
            while file is None:
                file = await engine.open(segment)
            if self._must_unclose or segment.rewrite_pending:
                self._prepare_segment(segment, file)
            if not extends:
                await self._write(segment, file, chunks if joined is None else (joined,), position, after)
            elif await extend(segment, engine, file, chunks, position, after):
                break
        self._note_appended(segment, joined, position, after)
        await trio.lowlevel.checkpoint_if_cancelled()
        return position

    async def _write(self, segment: Segment, file: File, buffers: Sequence[Buffer], position: int, after: int) -> None:
        engine = self._engine
        clock = engine.clock
        try:
            begun = clock.monotonic_us()
            if engine.append_inline:
                segment.append(file, buffers, position, after)
                taken = clock.monotonic_us() - begun
            else:
                engine.handles.pin(segment)
                try:
                    taken = await run_shielded(
                        engine.append_thread, _timed_append, clock.monotonic_us, segment, file, buffers, position, after
                    )
                finally:
                    segment.pins -= 1
        except OSError as error:
            raise storage_error(error, "append to", segment.path, position=position, appended=True) from error
        engine.append_inline = taken <= engine.append_inline_us_max

    def _note_appended(self, segment: Segment, joined: bytes | None, position: int, after: int) -> None:
        if not segment.dirty:
            segment.dirty = True
            self._dirty.append(segment)
        pending = self._pending
        if pending is not None:
            if joined is not None and self._engine.may_keep(self, after - position):
                self._pending_bytes += after - position
                pending.append(joined)
            else:
                self._drop_pending()
        else:
            segment.keep_open = True
        self._end = after
        self.end_is_unsure = False
        if after - segment.base > segment.allocated // 2 and wants_zeros(segment, position, after):
            self._engine.fill_ahead(segment, after - segment.base)

    async def _add_segment(self, needed: int) -> Segment:
        """Begin a new segment at the end."""
        engine = self._engine
        if self._uid is None:
            self._uid = engine.new_uid()
        last = self.segments[-1] if self.segments else None
        if last is not None and not last.is_missing:
            if last.rewrite_pending:
                self._prepare_segment(last, await engine.open(last))
            if not last.dirty:
                # All of it is flushed, but the flush that covers the new one has to state in it what follows.
                last.dirty = True
                self._dirty.append(last)
            self._drop_pending()  # what is kept in memory is of one segment only
        identity = SegmentIdentity(engine.storage_id, self._uid, self.name, self._end)
        await engine.make_room()
        engine.handles.reserve()
        try:
            segment = await run_shielded(
                engine.filler, engine.create, identity, needed, bool(last), self._durable_end, self._start
            )
            engine.handles.adopt(segment)
        finally:
            engine.handles.unreserve()
        if last is not None:
            last.end = self._end
        else:
            self._start = self._end
        self.segments.append(segment)
        self._bases.append(segment.base)
        engine.log_has_segments(self)
        return segment

    def _prepare_segment(self, segment: Segment, file: File) -> None:
        """Take back the statement of a clean end, and write what a closed descriptor can no longer prove."""
        try:
            if self._must_unclose:
                segment.write_all_marks(file, self._durable_end)
                self._must_unclose = False
            if segment.rewrite_pending:
                if self._pending:
                    segment.write(file, self._pending, self._flush_start)
                segment.rewrite_pending = segment.in_job  # what the job holds is written again when it gets there
        except OSError as error:
            raise storage_error(error, "append to", segment.path, position=self._end) from error

    # Read

    async def read(self, position: int, size: int) -> memoryview:
        """Return up to ``size`` bytes as a view of the file; see ``Log.read``.

        The view is made in the last step, after every checkpoint: a caller that looks at it at once does not meet what
        an outsider may do to the file while other tasks run (cut off under a mapping, it would end the process).
        """
        await trio.lowlevel.checkpoint()
        self.check_open()
        if not self._start <= position <= self.end:
            raise ValueError(f"{self.name}: position {position} is outside the log ({self._start} to {self.end})")
        size = min(size, self.end - position)
        if size <= 0:
            return memoryview(b"")
        segment = self.segments[bisect_right(self._bases, position) - 1]
        if segment.end is not None:
            size = min(size, segment.end - position)
        if segment.is_missing:
            return zeros(size)
        try:
            if position < max(self._appended_from, self._end - READ_INLINE_BYTES):
                return await self._read_cold(segment, position, size)
            mapping = await self._engine.mapping(segment, position + size - segment.base)
            return mapping.view(segment.at(position), size)
        except OSError as error:
            raise storage_error(error, "read", segment.path, position=position) from error

    async def _read_cold(self, segment: Segment, position: int, size: int) -> memoryview:
        """Look at bytes that may not be in the page cache: unless they are, a thread brings them there first.

        The mapping may be closed to make room meanwhile: then it is made again.
        """
        while True:
            mapping = await self._engine.mapping(segment, position + size - segment.base)
            try:
                # A consumer that is behind mostly reads what the page cache still has: asking costs a few
                # microseconds, the hand-over to a thread and back many times that.
                if mapping.is_resident(segment.at(position), size):
                    return mapping.view(segment.at(position), size)
                await self._engine.reader.run(mapping.load, segment.at(position), size)
                return mapping.view(segment.at(position), size)
            except OSError:
                if segment.mapping is mapping:
                    raise

    # Flush

    def take_job(self) -> FlushJob | None:
        """Return what a flush has to cover now, None when nothing is dirty."""
        dirty = self._dirty
        if not dirty:
            return None
        job = FlushJob(self, self._flush_start, self._end, dirty, self._pending)
        for segment in dirty:
            segment.dirty = segment.keep_open = False
            segment.in_job = True
        if self._pending_bytes:
            self._engine.kept_bytes -= self._pending_bytes
            self._pending_bytes = 0
        self.end_is_unsure = False
        self._dirty = []
        self._pending = []
        self._flush_start = self._end
        return job

    def take_open_job(self) -> FlushJob | None:
        """The same, if it needs no descriptor that is not open."""
        if self._failure is not None or self.end_is_unsure or any(segment.file is None for segment in self._dirty):
            return None
        return self.take_job()

    def take_back(self, job: FlushJob) -> None:
        """Undo ``take_job`` of a flush that did not begin."""
        self._dirty = job.segments + [segment for segment in self._dirty if segment not in job.segments]
        for segment in job.segments:
            segment.dirty = True
            segment.in_job = False
        self._flush_start = job.start
        if job.pending is None or self._pending is None:
            self._drop_pending()
        else:
            size = sum(map(len, job.pending))
            self._pending_bytes += size
            self._engine.kept_bytes += size
            self._pending = job.pending + self._pending

    def _drop_pending(self) -> None:
        """Keep no bytes in memory: from now on the descriptors prove what they wrote, so they stay open."""
        self._engine.kept_bytes -= self._pending_bytes
        self._pending_bytes = 0
        self._pending = None
        for segment in self._dirty:
            segment.keep_open = True

    @property
    def is_dirty(self) -> bool:
        """Whether a flush has anything to cover."""
        return bool(self._dirty)

    @property
    def states_no_end(self) -> bool:
        """Whether the disk does not state the exact end."""
        return not self._must_unclose

    @property
    def pending_bytes(self) -> int:
        """Bytes kept in memory for the next flush."""
        return self._pending_bytes

    def flushed_to(self, position: int) -> None:
        """Note a successful flush. The flusher's thread."""
        self._durable_end = max(self._durable_end, position)

    def fail(self, reason: str) -> None:
        """Stop: what is not durable now is never served again. Any thread."""
        if self._failure is None:
            self._failure = reason

    @property
    def has_silent_failure(self) -> bool:
        """Whether the log has stopped and no caller has been told."""
        return self._failure is not None and not self.failure_told

    def check_not_failed(self) -> None:
        """Raise ``StorageError`` (kind ``flush``) when the log has stopped."""
        if self._failure is not None:
            self.failure_told = True
            raise StorageError(f"log {self.name} has stopped: {self._failure}", kind="flush")

    def check_open(self) -> None:
        """Raise ``StorageError`` (kind ``closed``) when the handle is closed."""
        if self._closed:
            raise StorageError(f"log {self.name} is closed; open it again", kind="closed")

    def check_usable(self) -> None:
        """Both checks."""
        if self._closed:
            self.check_open()
        if self._failure is not None:
            self.check_not_failed()

    # Removal and end

    async def overwrite(self, position: int, data: Buffer) -> None:
        """Write ``data`` over what stands at ``position``, durably; see ``Log.overwrite``."""
        self.check_usable()
        await self._engine.overwrite(self, position, data)

    async def truncate(self, position: int) -> None:
        """Cut everything from ``position`` on; see ``Log.truncate``."""
        self.check_usable()
        await self._engine.truncate(self, position)

    async def trim(self, position: int) -> int:
        """Give up whole segments below ``position``; see ``Log.trim``."""
        self.check_usable()
        return await self._engine.trim(self, position)

    async def aclose(self) -> None:
        """Flush, state the exact end, close. Raises ``FlushFailedError``; the handle is closed in any case."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        await self._engine.close_logs([self])

    def shut(self) -> None:
        """Make every later call an error. The descriptors stay: a flush that is under way may be using them."""
        self._closed = True

    def close(self) -> None:
        """Close descriptors and mappings; every later call is an error."""
        self.shut()
        for segment in self.segments:
            self._engine.handles.close(segment)

    def cut(self, kept: list[Segment], start: int, end: int, durable_end: int) -> None:
        """Take over the state after a removal."""
        self.segments = kept
        self._bases = [segment.base for segment in kept]
        self._start = start
        self._end = end
        self._durable_end = durable_end
        for segment in kept:
            segment.log_start = start
        self._appended_from = min(self._appended_from, end)
        self._dirty = [item for item in kept if item.dirty or durable_end < (end if item.end is None else item.end)]
        for segment in self._dirty:
            segment.dirty = True

    def begin_truncation(self) -> None:
        """Have the next flush go to the files, and no longer rely on a stated end: the bytes are about to change."""
        self._drop_pending()
        self._must_unclose = False
        self.end_is_unsure = False
        self._flush_start = self._durable_end


def _timed_append(
    clock_us: Callable[[], int], segment: Segment, file: File, buffers: Sequence[Buffer], position: int, after: int
) -> int:
    begun = clock_us()
    segment.append(file, buffers, position, after)
    return clock_us() - begun
