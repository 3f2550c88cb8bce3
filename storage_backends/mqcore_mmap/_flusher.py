"""Making many logs durable by one flush: what goes where, and in which order.

A plan is made in Trio's thread (``plan``) and carried out in the flusher's thread (``execute``). One dirty log is
flushed in its own file. Of several, those with few unflushed bytes share one set in the journal, the others are
flushed in their files first: a set may name a segment that continues a file, never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from mqcore.errors import FlushFailedError, StorageError
from mqcore.ports import File, FileSystem
from mqcore_mmap._checkpoint import Journal
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._handles import Handles
from mqcore_mmap._journal import Range, set_bytes
from mqcore_mmap._layout import Layout
from mqcore_mmap._segment import Segment

if TYPE_CHECKING:
    from mqcore_mmap._log import MmapLog

__all__ = ["Flusher", "Job", "Plan"]


@attrs.define
class Job:
    """What one flush covers of one log: dirty ``segments`` (pinned unless closed), ``pending`` bytes, up to ``end``.

    ``pending`` is None when the bytes are in the files only.
    """

    log: MmapLog
    start: int
    end: int
    segments: list[Segment]
    pinned: list[Segment]
    pending: list[bytes] | None


@attrs.define
class Plan:
    """The logs flushed in their files, and those that share a set of the journal."""

    direct: list[Job]
    journaled: list[Job]

    failure: FlushFailedError | None = None

    @property
    def jobs(self) -> list[Job]:
        """All of them."""
        return self.direct + self.journaled

    def finish(self) -> None:
        """Note in every log what is durable now. The flusher's thread, after ``Flusher.execute``."""
        if self.failure is None:
            for job in self.jobs:
                job.log.flushed_to(job.end)

    def check(self) -> None:
        """Raise what carrying the plan out raised."""
        if self.failure is not None:
            raise self.failure


class Flusher:
    """See the module."""

    def __init__(
        self,
        filesystem: FileSystem,
        files: SegmentFiles,
        handles: Handles,
        layout: Layout,
        journal: Journal,
        all_logs: Callable[[], Iterable[MmapLog]],
        range_bytes_max: int,
    ) -> None:
        self._filesystem = filesystem
        self._files = files
        self._handles = handles
        self._layout = layout
        self._journal = journal
        self._all_logs = all_logs
        self._range_bytes_max = range_bytes_max

    def plan(self, jobs: list[Job]) -> Plan:
        """Decide which way each job goes. Trio's thread."""
        if len(jobs) == 1 or self._range_bytes_max == 0 or self._journal.broken:
            return Plan(jobs, [])
        direct: list[Job] = []
        journaled: list[Job] = []
        room = self._journal.set_bytes_max
        for job in sorted(jobs, key=lambda job: job.end - job.start):
            need = set_bytes(1, len(job.log.name), job.end - job.start)
            if job.pending is None or len(job.segments) != 1 or need > room:
                direct.append(job)
            else:
                room -= need
                journaled.append(job)
        return Plan(direct, journaled) if len(journaled) > 1 else Plan(jobs, [])

    def bytes_needed(self, plan: Plan) -> int:
        """Room that the plan's set takes in the journal."""
        jobs = plan.journaled
        return set_bytes(len(jobs), sum(len(job.log.name) for job in jobs), sum(job.end - job.start for job in jobs))

    def execute(self, plan: Plan) -> None:
        """Flush. The flusher's thread. Puts a ``FlushFailedError`` into the plan; then every log of it has stopped."""
        try:
            for job in plan.jobs:
                job.log.check_not_failed()
            if plan.direct:
                self._flush_files(plan.direct)
            if plan.journaled:
                self._flush_journal(plan.journaled)
            self._layout.check_in_place(self._filesystem)
            for job in plan.direct:
                self._write_mark(job)
        except BaseException as error:
            plan.failure = self._fail(plan, error)
        finally:
            for job in plan.jobs:
                for segment in job.pinned:
                    self._handles.release(segment)

    def _fail(self, plan: Plan, error: BaseException) -> FlushFailedError:
        """Stop what the failed flush covered: a flush of many files may have covered everything on the device."""
        covered = {job.log for job in plan.jobs}
        if sum(len(job.segments) for job in plan.direct) > 1:
            covered |= set(self._all_logs())
        failure = f"a flush failed ({error}); {len(covered)} logs stop here: restart, so that the device is read again"
        for log in covered:
            log.fail(failure)
        return FlushFailedError(failure, logs=[log.name for log in covered], path=self._layout.names.root)

    def _flush_files(self, jobs: Sequence[Job]) -> None:
        opened: list[File] = []
        try:
            files: list[File] = []
            for job in jobs:
                for segment in job.segments:
                    file = segment.file
                    if file is None or segment not in job.pinned:
                        file = self._files.open(segment)
                        opened.append(file)
                        rewrite_pending(segment, file, job)
                    _check_linked(file)
                    files.append(file)
            self._filesystem.flush_many(files) if len(files) > 1 else files[0].flush()
            self._files.give_names(segment for job in jobs for segment in job.segments)
        finally:
            for file in opened:
                file.close()

    def _flush_journal(self, jobs: Sequence[Job]) -> None:
        ranges: list[Range] = []
        for job in jobs:
            segment = job.segments[0]
            if segment.file is not None and segment in job.pinned:
                _check_linked(segment.file)
            data = job.pending or ()
            ranges.append(Range(segment.uid, segment.name, segment.base, job.start, data, job.end - job.start))
        self._journal.append(ranges)

    def _write_mark(self, job: Job) -> None:
        segment = job.segments[-1]
        file = segment.file
        if file is not None and segment in job.pinned:
            segment.write_mark(file, job.end)
            return
        file = self._files.open(segment)
        try:
            segment.write_mark(file, job.end)
        finally:
            file.close()


def rewrite_pending(segment: Segment, file: File, job: Job) -> None:
    """Write unflushed bytes again whose descriptor was closed: an error of theirs would not be told to another one."""
    if segment.rewrite_pending and job.pending:
        segment.write(file, job.pending, job.start)


def _check_linked(file: File) -> None:
    if file.link_count() == 0:
        raise StorageError(f"{file.path} was removed while it was in use", kind="missing", path=file.path)
