"""What all logs of one open storage share: threads, the cache of descriptors, the flusher, the journal, free files.

It orders the work: which thread does what, and what has to wait for what. It decides nothing about bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import trio

from mqcore.abc import StorageContext
from mqcore.errors import FlushFailedError, StorageError
from mqcore.ports import Buffer, File, Mapping
from mqcore_mmap._checkpoint import BATCH_FILES, Checkpoint, Journal
from mqcore_mmap._config import MmapOptions
from mqcore_mmap._errors import storage_error
from mqcore_mmap._flusher import FlushJob, FlushPlan, FlushPlanner
from mqcore_mmap._freeing import Freeing
from mqcore_mmap._handles import Handles
from mqcore_mmap._header import SegmentIdentity
from mqcore_mmap._inline import InlineFlushes
from mqcore_mmap._layout import StorageLayout
from mqcore_mmap._log import MmapLog
from mqcore_mmap._overwrite import overwrite
from mqcore_mmap._recovery import RECOVERY_FILES, Found, Recovered
from mqcore_mmap._removal import Removal
from mqcore_mmap._segment import Segment
from mqcore_mmap._shield import run_shielded

__all__ = ["Engine"]

DESCRIPTORS_BESIDE = BATCH_FILES + 8
"""Descriptors outside the cache: lock, journals, and what a checkpoint or a directory flush opens for a moment."""


class Engine:
    """See the module. ``logs`` are the open ones by name; ``found`` the files of the others."""

    def __init__(
        self,
        context: StorageContext,
        options: MmapOptions,
        layout: StorageLayout,
        recovered: Recovered,
        open_files_max: int,
        trio_token: trio.lowlevel.TrioToken,
    ) -> None:
        ports = context.ports
        self.clock = ports.clock
        self.storage_id = layout.storage_id
        self.append_inline_us_max = context.limits.append_inline_us_max
        self.append_inline = True
        self._inline = InlineFlushes(context.limits.flush_inline_us_max)
        self.kept_bytes = 0
        self.logs: dict[str, MmapLog] = {}
        self.found: dict[str, list[Found]] = recovered.logs
        self._unflushed = list(recovered.logs)
        self.failure: str | None = None
        self._stopped = context.stopped
        self._trio = trio_token
        self.append_thread = ports.threads.start("append")
        self.flush_thread = ports.threads.start("flush")
        self.filler = ports.threads.start("fill")
        self.reader = ports.threads.start("read")
        self.checkpointer = ports.threads.start("checkpoint")
        self._random = ports.random
        self._filesystem = ports.files
        self._options = options
        self.layout = layout
        self.files = recovered.files
        self.handles = Handles(self.files, open_files_max)
        self._journal = Journal(
            ports.files, self.files, self.handles, layout.storage_id, recovered.journals, options.journal_bytes
        )
        self.flusher = FlushPlanner(
            ports.files,
            self.files,
            self.handles,
            layout,
            self._journal,
            self.logs.values,
            options.journal_range_bytes_max,
        )
        self.freeing = Freeing(self.files, self.filler, self.clock)
        self._removal = Removal(ports.files, self.files, layout.names, self)
        self.flushing = trio.Lock()
        """Held by what flushes and by what removes: the one must not see the other half done."""
        self._abandoned = False
        self._checkpoint_run: Checkpoint | None = None
        for path in recovered.free:
            self.freeing.recycle(path)

    # Room for appends

    def new_uid(self) -> bytes:
        """A random identity for a new log."""
        return self._random.getrandbits(128).to_bytes(16, "little")

    def create(self, identity: SegmentIdentity, needed: int, busy: bool, durable_end: int, log_start: int) -> Segment:
        """Make a segment; see ``SegmentFiles.create``. The filler's thread."""
        segment = self.files.create(identity, needed, busy=busy)
        segment.log_start = log_start
        # A log that was begun above 0 says so from its first byte on, or what lies below would be missed.
        if (busy or identity.base) and segment.file is not None:
            segment.write_mark(segment.file, durable_end)
        return segment

    async def allocate(self, segment: Segment, needed: int) -> None:
        """Wait until ``needed`` bytes of the segment are allocated. Raises ``StorageError`` (kind ``full``)."""
        file = await self.open(segment)
        self.handles.pin(segment)
        target = self._next_extent(segment, needed)
        try:
            await run_shielded(self.filler, self.files.fill, segment, file, target, needed)
        except OSError as error:
            raise storage_error(error, "allocate space in", segment.path, position=segment.base + needed) from error
        finally:
            segment.pins -= 1

    def fill_ahead(self, segment: Segment, used: int) -> None:
        """Have more zeros written, or the next segment prepared, when the log nears the end of what is allocated."""
        if segment.allocated >= segment.capacity:
            if segment.capacity - used < self._options.extent_bytes_max and not self.files.ready:
                self.prepare_file()
            return
        file = segment.file
        if file is None or segment.allocated - used > self._options.extent_bytes_max // 2:
            return
        segment.filling = True
        self.handles.pin(segment)
        self.filler.submit(self._fill_submitted, segment, file, self._next_extent(segment, segment.allocated + 1))

    def prepare_file(self) -> None:
        """Have a ready file made, once."""
        if not self.files.preparing:
            self.files.preparing = True
            self.filler.submit(self.files.prepare)

    def _fill_submitted(self, segment: Segment, file: File, target: int) -> None:
        """Write zeros ahead. They are not flushed here: that would hold up the log that needs the next ones."""
        try:
            segment.fill(file, target, 0)
        finally:
            segment.filling = False
            self.handles.release(segment)

    def _next_extent(self, segment: Segment, needed: int) -> int:
        return segment.next_extent(needed, self._options.first_extent_bytes, self._options.extent_bytes_max)

    def may_keep(self, log: MmapLog, size: int) -> bool:
        """Whether ``size`` more bytes of ``log`` are kept in memory for the journal; counts them if so."""
        if log.pending_bytes + size > self._options.journal_range_bytes_max:
            return False
        if self.kept_bytes + size > self._options.journal_bytes:
            return False
        self.kept_bytes += size
        return True

    # Descriptors

    async def open(self, segment: Segment) -> File:
        """Return the open file of ``segment``. Waits only when descriptors are short. Raises ``StorageError``."""
        if segment.file is None:
            await self.make_room()
        return self.handles.file(segment)

    async def mapping(self, segment: Segment, size: int) -> Mapping:
        """Return a mapping of at least ``size`` bytes of the segment's positions. Raises ``StorageError``."""
        if segment.mapping is None or segment.mapped < size:
            await self.make_room()
        return self.handles.mapping(segment, size)

    async def make_room(self) -> None:
        """Have room for two descriptors; when unflushed bytes hold all, flush those. Raises ``StorageError``."""
        if self.handles.can_make_room(2):
            return
        await self.flush([log for log in self.logs.values() if log.failure is None and not log.end_is_unsure])

    # Flush

    async def flush(self, logs: Sequence[MmapLog]) -> None:
        """Flush what is dirty of ``logs``. If cancelled, a flush that began goes on. Raises ``FlushFailedError``.

        Raises ``StorageError`` (``too-many-files``, retryable) where a flush did not begin for want of descriptors.
        """
        if self.flushing.locked():
            await self.flushing.acquire()
        else:
            self.flushing.acquire_nowait()  # without the turn of the scheduler that ``acquire`` takes
        try:
            if self._abandoned:
                await self.flush_thread.run(_nothing)
                self._abandoned = False
            jobs = [job for log in logs if (job := log.take_job()) is not None]
            if not jobs:
                await trio.lowlevel.checkpoint()
            while jobs:
                jobs = await self._flush_jobs(jobs)
        finally:
            self.flushing.release()

    async def _flush_jobs(self, jobs: list[FlushJob]) -> list[FlushJob]:
        """Carry out one flush; return the jobs for which it had no descriptors."""
        try:
            plan = await self._prepare(jobs)
        except BaseException:
            for job in jobs:
                job.log.take_back(job)
            raise
        self._abandoned = True  # until this call knows that it has ended
        try:
            if self._inline.allows(plan):
                self._carry_out(plan)
            else:
                await self.flush_thread.run(self._carry_out, plan)  # one request: each one wakes the thread
            self._abandoned = False
            plan.finish()
            self.handles.settle()
            if plan.failure is not None:
                self._stopped(plan.failure)
                raise plan.failure
        except BaseException:
            for job in plan.left:
                job.log.take_back(job)
            if self._abandoned:  # cancelled: it goes on, or begins
                self.flush_thread.submit(self._carry_out, plan)
                self.flush_thread.submit(self._finish_abandoned, plan)
            raise
        if plan.journaled and self._journal.wants_fill():
            self.filler.submit(self._journal.fill_ahead)
        return plan.left

    def _carry_out(self, plan: FlushPlan) -> None:
        """Flush, once. The flusher's thread, or Trio's while that is idle."""
        if not plan.has_begun:
            plan.has_begun = True
            begun = self.clock.monotonic_us()
            self.flusher.execute(plan)
            self._inline.took(self.clock.monotonic_us() - begun)

    def _finish_abandoned(self, plan: FlushPlan) -> None:
        """End a flush whose caller has left: its failure would go unreported. The flusher's thread."""
        plan.finish()
        if plan.failure is not None:
            self._tell_stopped(plan.failure)

    def _tell_stopped(self, error: FlushFailedError) -> None:
        """Tell of a failure that no call raises. Any thread."""
        with contextlib.suppress(trio.RunFinishedError):
            self._trio.run_sync_soon(self._stopped, error)

    async def _prepare(self, jobs: list[FlushJob]) -> FlushPlan:
        """Decide where the jobs go and have the journal ready for them; where it cannot be, they go to their files."""
        plan = self.flusher.plan(jobs)
        if not plan.journaled:
            return plan
        try:
            if not self._journal.fits(plan.set_bytes):
                await self._checkpoint()
            if not self._journal.is_filled(plan.set_bytes):
                await self.filler.run(self._journal.fill, plan.set_bytes)
            self.flusher.cover(plan)
        except OSError:
            self.flusher.undo(plan)
            return self.flusher.plan_direct(jobs)
        except BaseException:
            self.flusher.undo(plan)
            raise
        return plan

    async def _checkpoint(self) -> None:
        """Switch the journals; the one before the full one has been set free when this returns."""
        await self.flush_thread.run(_nothing)
        await self.checkpointer.run(_nothing)
        if self._journal.broken is None:
            await self._finish_checkpoint()
            self._checkpoint_run = self._journal.switch()
            self.checkpointer.submit(self._run_checkpoint, self._checkpoint_run)

    async def _finish_checkpoint(self) -> None:
        """Run the last checkpoint again if descriptors were short. Raises ``StorageError`` if they still are."""
        checkpoint = self._checkpoint_run
        if checkpoint is None or not checkpoint.is_short:
            return
        self.handles.give_way(BATCH_FILES)
        await self.checkpointer.run(self._run_checkpoint, checkpoint)
        if checkpoint.is_short:
            raise StorageError(
                "the process has no descriptor left for a checkpoint of the journal; raise its limit (ulimit -n)",
                kind="too-many-files",
                retryable=True,
                path=self.layout.names.root,
            )

    def _run_checkpoint(self, checkpoint: Checkpoint) -> None:
        try:
            self._journal.run(checkpoint)
        except Exception as error:
            self.fail_all(f"the checkpoint of the journal failed: {error}")

    def fail_all(self, reason: str) -> None:
        """Stop every log, and tell: what failed may have covered all of them. Any thread."""
        self.failure = self.failure or reason
        logs = list(self.logs.values())
        for log in logs:
            log.fail(reason)
        error = FlushFailedError(
            f"{reason}; {len(logs)} logs stop here: restart, so that the device is read again",
            logs=[log.name for log in logs],
            path=self.layout.names.root,
        )
        self._tell_stopped(error)

    async def settle(self, segments: Sequence[Segment]) -> None:
        """See to it that no replay would write to ``segments``. ``flushing`` is held by the caller.

        Raises ``StorageError`` when that cannot be.
        """
        for _ in range(2):
            await self.flush_thread.run(_nothing)
            await self.checkpointer.run(_nothing)
            if not any(self._journal.is_live(segment) for segment in segments):
                break
            await self._checkpoint()
        await self.checkpointer.run(_nothing)
        self.handles.settle()
        if any(self._journal.is_live(segment) for segment in segments):
            raise StorageError(
                f"the journal cannot be checkpointed: {self._journal.broken}; restart, so that it is replayed",
                kind="flush",
                path=self.layout.names.root,
            )

    # Removals

    async def overwrite(self, log: MmapLog, position: int, data: Buffer) -> None:
        """Write over what stands at ``position``, durably; see ``_overwrite``."""
        await overwrite(log, self, position, data)

    async def truncate(self, log: MmapLog, position: int) -> None:
        """Cut ``log`` at ``position``; see ``Removal``."""
        await self._removal.truncate(log, position)

    async def trim(self, log: MmapLog, position: int) -> int:
        """Give up whole segments of ``log`` below ``position``; see ``Removal``."""
        return await self._removal.trim(log, position)

    async def delete(self, log: MmapLog) -> None:
        """Remove every segment of ``log``; see ``Removal``."""
        await self._removal.delete(log)

    # Logs

    def log_has_segments(self, log: MmapLog) -> None:
        """Count ``log`` among those that exist."""
        self.found.setdefault(log.name, [])

    def neighbours(self, name: str) -> list[Found]:
        """Last files of a few logs that are not open and may have to be flushed when they are."""
        others: list[Found] = []
        while self._unflushed and len(others) + 1 < RECOVERY_FILES:
            other = self._unflushed.pop()
            if other != name and other not in self.logs and self.found.get(other):
                others.append(self.found[other][-1])
        return others

    async def _write_clean_ends(self, logs: Sequence[MmapLog]) -> None:
        """State the exact end of each log, durably; a few dozen at a time share a flush."""
        wanted = [log for log in logs if log.segments and log.states_no_end and not log.segments[-1].is_missing]
        if not wanted:
            return
        async with self.flushing:
            await self.settle([segment for log in wanted for segment in log.segments])
            for first in range(0, len(wanted), BATCH_FILES):
                await self._write_clean_batch(wanted[first : first + BATCH_FILES])

    async def _write_clean_batch(self, logs: Sequence[MmapLog]) -> None:
        ends = [(log.segments[-1], log.end) for log in logs]
        try:
            await self.flush_thread.run(self._close_segments, ends)
        except OSError as error:
            raise storage_error(error, "close logs in", self.layout.names.root) from error

    def _close_segments(self, ends: Sequence[tuple[Segment, int]]) -> None:
        """Write the exact ends and flush them; the bytes below are flushed already. The flusher's thread."""
        opened: list[File] = []
        try:
            for segment, end in ends:
                file = self.files.open(segment)
                opened.append(file)
                segment.write_all_marks(file, end, closed_end=end)
            self._filesystem.flush_many(opened) if len(opened) > 1 else opened[0].flush()
            self.files.give_names([segment for segment, _ in ends])
        finally:
            for file in opened:
                file.close()

    async def close_logs(self, logs: Sequence[MmapLog]) -> None:
        """Flush ``logs``, state their exact ends durably, close them. They are closed whatever happens.

        Raises ``FlushFailedError`` for a failure too that happened beside every call and that was not reported yet.
        """
        try:
            with trio.CancelScope(shield=True):
                sound = [log for log in logs if log.failure is None and not log.end_is_unsure]
                await self.flush(sound)
                await self._write_clean_ends(sound)
        finally:
            silent = [log.name for log in logs if log.has_silent_failure]
            for log in logs:
                self._forget(log)
        if silent:
            raise FlushFailedError(
                f"log {silent[0]} was closed and is not flushed: {self.failure}",
                logs=silent,
                path=self.layout.names.root,
            )
        await trio.lowlevel.checkpoint_if_cancelled()

    def _forget(self, log: MmapLog) -> None:
        if log.segments:
            there = [segment for segment in log.segments if not segment.is_missing]
            self.found[log.name] = [Found(item.path, item.base, item.is_unnamed) for item in there]
        else:
            self.found.pop(log.name, None)
        log.close()
        self.logs.pop(log.name, None)

    async def aclose(self) -> None:
        """Close every log, then the threads, the journal and the lock, whatever happens. Raises the first error."""
        with trio.CancelScope(shield=True):
            try:
                await self.close_logs(list(self.logs.values()))
                if self._journal.broken is None and not self._journal.is_empty:
                    await self._checkpoint()
            finally:
                self.freeing.close()
                for thread in (self.append_thread, self.flush_thread, self.checkpointer, self.filler, self.reader):
                    await thread.aclose()
                self._journal.close()
                self.files.close()
                self.layout.lock.release()


def _nothing() -> None:
    """Waited for, it says that what was asked of a thread before has ended."""
