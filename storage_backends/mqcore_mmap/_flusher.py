"""Making many logs durable by one flush: what goes where, and in which order.

A plan is made in Trio's thread (``plan``) and carried out in the flusher's thread (``execute``). One dirty log is
flushed in its own file. Of several, those with few unflushed bytes share one set in the journal, the others are
flushed in their files first: a set may name a segment that continues a file, never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs

from mqcore.errors import FlushFailedError, StorageError
from mqcore.ports import File, FileSystem
from mqcore_mmap._checkpoint import Journal
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._handles import Handles
from mqcore_mmap._journal import Range, set_bytes
from mqcore_mmap._layout import StorageLayout
from mqcore_mmap._segment import Segment

__all__ = ["FlushPlanner", "FlushJob", "FlushPlan"]


class FlushedByJob(Protocol):
    """What a flush does to a log: all that this module knows of one. Any thread."""

    name: str
    failure_told: bool

    def flushed_to(self, position: int) -> None:
        """Note that everything below ``position`` is durable."""

    def fail(self, reason: str) -> None:
        """Stop for good."""

    def check_not_failed(self) -> None:
        """Raise ``StorageError`` when it has stopped."""

    def take_open_job(self) -> FlushJob | None:
        """Return what a flush has to cover, if it needs no descriptor that is not open. Trio's thread."""

    def take_back(self, job: FlushJob) -> None:
        """Undo that ``job`` was taken."""


@attrs.define(eq=False)
class FlushJob:
    """What one flush covers of one log: dirty ``segments``, ``pending`` bytes from ``start`` to ``end``.

    ``pending`` is None when the bytes are in the files only. ``pinned``: the segments of a direct job, open until it
    ends; ``rewritten``: those of them whose bytes another descriptor wrote, which was closed.
    """

    log: FlushedByJob
    start: int
    end: int
    segments: list[Segment]
    pending: list[bytes] | None
    pinned: Sequence[Segment] = ()
    rewritten: Sequence[Segment] = ()


@attrs.define
class FlushPlan:
    """The logs flushed in their files, those that share a set of the journal, and those ``left`` to the next flush.

    ``added``: those of ``direct`` that nobody asked for, flushed so that others find descriptors.
    """

    direct: list[FlushJob]
    journaled: list[FlushJob]
    set_bytes: int
    left: list[FlushJob] = attrs.field(factory=list)
    added: Sequence[FlushJob] = ()
    removed: str | None = None
    has_begun: bool = False
    failure: FlushFailedError | None = None

    @property
    def jobs(self) -> list[FlushJob]:
        """All of them."""
        return self.direct + self.journaled if self.direct else self.journaled

    def finish(self) -> None:
        """Note in every log what is durable now, after ``FlushPlanner.execute`` has ended. Any thread."""
        if self.failure is None:
            for job in self.jobs:
                job.log.flushed_to(job.end)


class FlushPlanner:
    """See the module."""

    def __init__(
        self,
        filesystem: FileSystem,
        files: SegmentFiles,
        handles: Handles,
        layout: StorageLayout,
        journal: Journal,
        all_logs: Callable[[], Iterable[FlushedByJob]],
        range_bytes_max: int,
    ) -> None:
        self._filesystem = filesystem
        self._files = files
        self._handles = handles
        self._layout = layout
        self._journal = journal
        self._all_logs = all_logs
        self._range_bytes_max = range_bytes_max

    def plan(self, jobs: list[FlushJob]) -> FlushPlan:
        """Decide which way each job goes; pin the files of the direct ones. Trio's thread."""
        if len(jobs) == 1 or self._range_bytes_max == 0 or self._journal.broken:
            return self.plan_direct(jobs)
        journaled = [job for job in jobs if job.pending is not None and len(job.segments) == 1]
        size = _set_bytes(journaled)
        if size > self._journal.set_bytes_max:
            journaled.sort(key=_job_bytes)
            while size > self._journal.set_bytes_max:
                journaled.pop()
                size = _set_bytes(journaled)
        if len(journaled) <= 1:
            return self.plan_direct(jobs)
        shared = set(journaled)
        direct = self.plan_direct([job for job in jobs if job not in shared])
        return attrs.evolve(direct, journaled=journaled, set_bytes=size)

    def plan_direct(self, jobs: list[FlushJob]) -> FlushPlan:
        """Have every job go to its files, as many as there are descriptors for: the flush itself must need none.

        Where there are not even enough for the first, those go before it that need none, of ``jobs`` or else of other
        logs: their unflushed bytes are what holds the descriptors. Raises ``StorageError`` when there are none.
        """
        for number, job in enumerate(jobs):
            try:
                self._pin(job)
            except StorageError:
                if number:
                    return FlushPlan(jobs[:number], [], 0, jobs[number:])
                ready = [each for each in jobs if all(segment.file is not None for segment in each.segments)]
                others = () if ready else self._all_logs()
                added = [taken for log in others if (taken := log.take_open_job()) is not None]
                if not ready and not added:
                    raise
                for each in ready or added:
                    self._pin(each)
                return FlushPlan(ready or added, [], 0, [each for each in jobs if each not in ready], added)
        return FlushPlan(jobs, [], 0)

    def _pin(self, job: FlushJob) -> None:
        pinned: list[Segment] = []
        try:
            for segment in job.segments:
                self._handles.pin(segment)
                pinned.append(segment)
        except StorageError:
            for segment in pinned:
                segment.pins -= 1
            raise
        job.pinned = pinned
        job.rewritten = [segment for segment in pinned if segment.rewrite_pending] if job.pending else ()
        for segment in pinned:
            segment.in_job = segment.rewrite_pending = False

    def undo(self, plan: FlushPlan) -> None:
        """Forget a plan that is not carried out. Trio's thread."""
        for job in plan.direct:
            for segment in job.rewritten:
                segment.rewrite_pending = True
            for segment in job.pinned:
                segment.in_job = True
                segment.pins -= 1
        for job in plan.added:
            job.log.take_back(job)

    def cover(self, plan: FlushPlan) -> None:
        """Tell the journal what the plan's set will hold. Trio's thread. Raises ``OSError``."""
        for job in plan.journaled:
            file = job.segments[0].file
            if file is not None and file.link_count() == 0:
                plan.removed = file.path
        self._journal.cover([(job.segments[0], job.end) for job in plan.journaled])
        for job in plan.journaled:
            job.segments[0].in_job = False

    def execute(self, plan: FlushPlan) -> None:
        """Flush. The flusher's thread. Puts a ``FlushFailedError`` into the plan; then every log of it has stopped."""
        try:
            for job in plan.jobs:
                job.log.check_not_failed()
            if plan.direct:
                with self._journal.direct_flush(segment for job in plan.direct for segment in job.segments):
                    self._flush_files(plan.direct)
            if plan.journaled:
                self._flush_journal(plan)
            self.check_in_place()
            for job in plan.direct:
                if len(job.segments) > 1:
                    self._seal(job)
                self._write_mark(job)
        except BaseException as error:
            plan.failure = self._fail(plan, error)
        finally:
            for job in plan.direct:
                for segment in job.pinned:
                    self._handles.release(segment)

    def check_in_place(self) -> None:
        """Raise ``OSError`` or ``StorageError`` unless the storage is where it was opened. Any thread."""
        self._layout.check_in_place(self._filesystem)
        self._journal.check_in_place()

    def _fail(self, plan: FlushPlan, error: BaseException) -> FlushFailedError:
        """Stop what the failed flush covered: a flush of many files may have covered everything on the device."""
        covered: set[FlushedByJob] = {job.log for job in plan.jobs}
        if sum(len(job.segments) for job in plan.direct) > 1:
            covered |= set(self._all_logs())
        failure = f"a flush failed ({error}); {len(covered)} logs stop here: restart, so that the device is read again"
        for log in covered:
            log.fail(failure)
            log.failure_told = True
        return FlushFailedError(failure, logs=[log.name for log in covered], path=self._layout.names.root)

    def _flush_files(self, jobs: Sequence[FlushJob]) -> None:
        files: list[File] = []
        for job in jobs:
            for segment in job.pinned:
                file = _file_of(segment)
                if job.pending and segment in job.rewritten:
                    # an error of the descriptor that wrote them would not be told to this one
                    segment.write(file, job.pending, job.start)
                _check_linked(file)
                files.append(file)
        self._filesystem.flush_many(files) if len(files) > 1 else files[0].flush()
        self._files.give_names(segment for job in jobs for segment in job.segments)

    def _flush_journal(self, plan: FlushPlan) -> None:
        if plan.removed is not None:
            raise _removed(plan.removed)
        self._journal.append(
            [Range(job.segments[0].place, job.start, job.end - job.start, job.pending or ()) for job in plan.journaled]
        )

    def _seal(self, job: FlushJob) -> None:
        """State in each segment that is followed by another of this flush that it is, durably.

        Only these: of a segment that was begun since, nothing is on the disk yet.
        """
        for segment in job.segments[:-1]:
            if not segment.is_sealed:
                file = _file_of(segment)
                segment.seal(file)
                file.flush()

    def _write_mark(self, job: FlushJob) -> None:
        segment = job.segments[-1]
        segment.write_mark(_file_of(segment), job.end)


def _file_of(segment: Segment) -> File:
    assert segment.file is not None, "a pinned segment is open"
    return segment.file


def _check_linked(file: File) -> None:
    if file.link_count() == 0:
        raise _removed(file.path)


def _removed(path: str) -> StorageError:
    return StorageError(f"{path} was removed while it was in use", kind="missing", path=path)


def _job_bytes(job: FlushJob) -> int:
    return job.end - job.start


def _set_bytes(jobs: Sequence[FlushJob]) -> int:
    return set_bytes(len(jobs), sum(map(_job_bytes, jobs)))
