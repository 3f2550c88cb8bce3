"""The journal in use: its two files, which segments each covers, and the checkpoint that sets a full one free.

A checkpoint flushes the segments of one generation in their own files, names those that are unnamed, and only then
lets the generation's sets count no longer. If it fails, the generation stays: nothing that was durable is lost.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import attrs

from mqcore.errors import StorageError
from mqcore.ports import File, FileSystem
from mqcore_mmap._errors import is_full
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._handles import Handles
from mqcore_mmap._header import SECTOR_BYTES, SegmentIdentity, encode_static
from mqcore_mmap._journal import BLOCK_BYTES, JournalFile, Range
from mqcore_mmap._segment import Segment, write_zeros

__all__ = ["BATCH_FILES", "Checkpoint", "Journal"]

FIRST_BYTES = 256 * 1024
BATCH_FILES = 32
"""Files outside the cache of descriptors that a checkpoint holds open at a time."""


@attrs.define
class Checkpoint:
    """One full journal file, the end of what it holds of each segment, and the segments pinned for it.

    ``done``: segments that are flushed. ``is_short``: it has to be run again, for the others, because there was no
    descriptor for one that was closed, or because a flush of the same files was under way.
    """

    journal: JournalFile
    covered: dict[Segment, int]
    pinned: list[Segment]
    next_generation: int
    done: set[Segment] = attrs.field(factory=set)
    is_short: bool = False


class _NoDescriptor(Exception):
    """The process has no descriptor left for a segment that a checkpoint has to open."""


class Journal:
    """Two journal files in turn. Methods are called in Trio's thread while no flush runs, unless they say otherwise."""

    def __init__(
        self,
        filesystem: FileSystem,
        files: SegmentFiles,
        handles: Handles,
        storage_id: bytes,
        journals: Sequence[JournalFile],
        bytes_max: int,
    ) -> None:
        self._filesystem = filesystem
        self._files = files
        self._handles = handles
        self._storage_id = storage_id
        self._active, self._other = sorted(journals, key=lambda journal: journal.generation)
        self._bytes_max = max(bytes_max, 2 * BLOCK_BYTES)
        self._covered: dict[int, dict[Segment, int]] = {journal.generation: {} for journal in journals}
        self._allocated = {journal.file.path: journal.file.size() for journal in journals}
        self._sets_before = 0
        self.broken: str | None = None
        self._direct_flushes = 0  # under way, of segments of which a set holds the only bytes that are proved

    def is_live(self, segment: Segment) -> bool:
        """Whether a replay would write to this segment."""
        return segment.generation in self._covered

    @contextmanager
    def direct_flush(self, segments: Iterable[Segment]) -> Iterator[None]:
        """Flush segments in their own files while the block runs. The flusher's thread.

        When that fails, what the journal holds of them is the only copy that is proved: the file may have lost it, and
        a later flush of the same file succeeds all the same (G11). So no file of the journal is set free any more.
        """
        if not any(map(self.is_live, segments)):
            yield
            return
        self._direct_flushes += 1
        try:
            yield
        except BaseException as error:
            # Before the count goes down, which a checkpoint in its own thread looks at first.
            self.broken = self.broken or f"a flush failed of files that the journal covers: {error}"
            raise
        finally:
            self._direct_flushes -= 1

    @property
    def set_bytes_max(self) -> int:
        """Largest set."""
        return self._bytes_max - BLOCK_BYTES

    def fits(self, size: int) -> bool:
        """Whether a set of ``size`` bytes still belongs into the active file."""
        return self._active.position + size <= self._bytes_max

    def is_filled(self, size: int) -> bool:
        """Whether the active file has zeros for a set of ``size`` bytes already."""
        return self._active.position + size <= self._allocated[self._active.file.path]

    def wants_fill(self) -> bool:
        """Whether the active file should be filled further ahead."""
        allocated = self._allocated[self._active.file.path]
        return allocated < self._bytes_max and self._active.position * 2 > allocated

    def fill(self, size: int) -> None:
        """Write zeros ahead, doubling, for at least ``size`` bytes more. A device thread. Raises ``OSError``."""
        journal = self._active
        allocated = self._allocated[journal.file.path]
        target = max(min(self._bytes_max, max(FIRST_BYTES, 2 * allocated)), journal.position + size)
        if allocated < target:
            write_zeros(journal.file, allocated, target)
            self._allocated[journal.file.path] = target

    def fill_ahead(self) -> None:
        """Double the active file and flush it, so that no set has to wait for the zeros. A device thread."""
        try:
            journal = self._active
            self.fill(0)
            journal.file.flush()
        except OSError as error:
            if not is_full(error):
                self.broken = self.broken or f"a flush of the journal failed: {error}"

    def cover(self, segments: Sequence[tuple[Segment, int]]) -> None:
        """Note what the next set holds: segments and the ends of their ranges."""
        generation = self._active.generation
        covered = self._covered[generation]
        for segment, end in segments:
            covered[segment] = end
            segment.generation = generation
            if segment.rewrite_pending:
                segment.rewrite_generation = generation

    def append(self, ranges: Sequence[Range]) -> None:
        """Write a set and flush it. The flusher's thread. A failure breaks the journal for good."""
        if self.broken is not None:
            raise StorageError(self.broken, kind="flush", path=self._active.file.path)
        try:
            self._active.append(ranges, self._sets_before)
            self._active.file.flush()
        except BaseException as error:
            self.broken = f"a flush of the journal failed: {error}"
            raise

    def check_in_place(self) -> None:
        """Raise ``StorageError`` when a journal file was removed. A device thread.

        Also after a flush that did not use the journal: without it the next start refuses the storage, and what was
        acknowledged meanwhile with it.
        """
        for journal in (self._active, self._other):
            if journal.file.link_count() == 0:
                path = journal.file.path
                raise StorageError(f"{path} was removed while it was in use", kind="missing", path=path)

    @property
    def is_empty(self) -> bool:
        """Whether the active file covers nothing."""
        return not self._covered[self._active.generation]

    def switch(self) -> Checkpoint:
        """Make the other file the active one and return the checkpoint of the full one, to be ``run``.

        The checkpoint before must have ended.
        """
        full = self._active
        self._active, self._other = self._other, full
        self._sets_before = full.sets_written
        covered = self._covered[full.generation]
        pinned = [segment for segment in covered if segment.file is not None]
        for segment in pinned:
            self._handles.pin(segment)
        return Checkpoint(full, covered, pinned, self._active.generation + 1)

    def run(self, checkpoint: Checkpoint) -> None:
        """Flush the segments of a full file and set it free. A device thread. A failure breaks the journal for good.

        Not so a lack of descriptors: then the journal is as it was, and the checkpoint ``is_short``.
        """
        checkpoint.is_short = False
        try:
            if self.broken is not None:
                raise StorageError(self.broken, kind="flush", path=checkpoint.journal.file.path)
            self._flush_segments(checkpoint)
            if self._direct_flushes or self.broken is not None:
                checkpoint.is_short = True  # the other flush may be the one that is told of an error of these files
                return
            journal, generation = checkpoint.journal, checkpoint.journal.generation
            self._covered[checkpoint.next_generation] = {}
            journal.begin(checkpoint.next_generation)
            del self._covered[generation]
        except _NoDescriptor:
            checkpoint.is_short = True
            return
        except BaseException as error:
            self.broken = self.broken or f"a checkpoint of the journal failed: {error}"
            raise
        finally:
            for segment in checkpoint.pinned:
                self._handles.release(segment)
            checkpoint.pinned = []

    def _flush_segments(self, checkpoint: Checkpoint) -> None:
        self._flush_batch([(segment, segment.file) for segment in checkpoint.pinned if segment.file], checkpoint)
        closed = [segment for segment in checkpoint.covered if segment not in checkpoint.done]
        while closed:
            opened = self._open_some(closed)
            try:
                self._flush_batch(opened, checkpoint)
            finally:
                for _, file in opened:
                    file.close()
            del closed[: len(opened)]
        self._files.give_names(checkpoint.covered)

    def _open_some(self, segments: Sequence[Segment]) -> list[tuple[Segment, File]]:
        """Open the first few segments, at least one. Raises ``_NoDescriptor`` when there is none for that."""
        opened: list[tuple[Segment, File]] = []
        try:
            for segment in segments[:BATCH_FILES]:
                opened.append((segment, self._files.open(segment)))
        except OSError as error:
            is_short = error.errno in (errno.EMFILE, errno.ENFILE)
            if is_short and opened:
                return opened
            for _, file in opened:
                file.close()
            if is_short:
                raise _NoDescriptor from error
            raise
        return opened

    def _flush_batch(self, batch: Sequence[tuple[Segment, File]], checkpoint: Checkpoint) -> None:
        generation = checkpoint.journal.generation
        rewritten = {segment: file for segment, file in batch if segment.rewrite_generation >= generation}
        if rewritten:
            self._write_again(rewritten, checkpoint.journal)
        for segment, file in batch:
            segment.write_checkpoint_mark(file, checkpoint.covered[segment])
            if file.link_count() == 0:
                raise StorageError(f"{segment.path} was removed while it was in use", kind="missing", path=segment.path)
        if len(batch) == 1:
            batch[0][1].flush()
        elif batch:
            self._filesystem.flush_many([file for _, file in batch])
        checkpoint.done.update(segment for segment, _ in batch)

    def _write_again(self, segments: dict[Segment, File], journal: JournalFile) -> None:
        """Write from the journal what a closed descriptor had written: its errors would not be told to this one."""
        by_place = {(segment.uid, segment.base): (segment, file) for segment, file in segments.items()}
        for segment, file in segments.items():
            if segment.is_unnamed:
                identity = SegmentIdentity(self._storage_id, segment.uid, segment.name, segment.base, segment.was_used)
                file.pwritev([encode_static(identity, self._storage_id)[:SECTOR_BYTES]], 0)
        for ranges in journal.sets():
            for item in ranges:
                found = by_place.get((item.uid, item.base))
                if found is not None:
                    found[0].write(found[1], [item.data], item.position)

    def close(self) -> None:
        """Close both files."""
        self._active.file.close()
        self._other.file.close()
