"""Making, naming and freeing segment files, and the few free ones that are kept ready.

Calls block and run in device threads; ``take_ready`` and ``count`` in any. It knows nothing of logs and flushes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable

import attrs

from mqcore.errors import StorageError
from mqcore.ports import File, FileSystem
from mqcore_mmap._config import MmapOptions
from mqcore_mmap._errors import is_full, storage_error
from mqcore_mmap._header import HEADER_BYTES, SegmentIdentity, encode_static
from mqcore_mmap._layout import StorageLayout
from mqcore_mmap._segment import Segment, write_zeros

__all__ = ["FREE_PIECE_BYTES", "SegmentFiles"]

FREE_PIECE_BYTES = 4 * 1024 * 1024
"""What is cut off a file at once that is to go, see ``_freeing``."""


class SegmentFiles:
    """The files in ``segments/`` of one storage."""

    def __init__(self, files: FileSystem, layout: StorageLayout, options: MmapOptions, first_number: int) -> None:
        self._files = files
        self._names = layout.names
        self._storage_id = layout.storage_id
        self._options = options
        self._numbers = itertools.count(first_number)
        self._directory = files.open_directory(layout.names.segments)
        self._ready: deque[tuple[str, int, bool]] = deque()  # path, bytes, whether it was used before
        self._doomed: deque[str] = deque()  # what goes piece by piece
        self.preparing = False

    def create(self, identity: SegmentIdentity, needed: int, *, busy: bool) -> Segment:
        """Make a segment with room for ``needed`` bytes and return it, open. Not durable; it has no name yet.

        A ``busy`` log, one that has filled a segment before, gets a ready file if there is one.
        Raises ``StorageError``; then nothing is left behind.
        """
        if busy:
            segment = self._create_from_ready(identity, needed)
            if segment is not None:
                return segment
        try:
            return self._create_anew(identity, needed)
        except StorageError as error:
            if error.kind != "full" or not self.give_up_ready():
                raise
        return self._create_anew(identity, needed)

    def _create_anew(self, identity: SegmentIdentity, needed: int) -> Segment:
        path = self._names.unnamed(next(self._numbers))
        capacity = max(self._options.segment_bytes, needed)
        segment = Segment(identity, path, is_unnamed=True, allocated=0, capacity=capacity)
        first = min(self._options.first_extent_bytes, capacity)
        size = segment.next_extent(needed, first, self._options.extent_bytes_max)
        try:
            segment.file = self._files.open(path, create=True, exclusive=True)
            segment.file.pwritev([encode_static(identity, self._storage_id)], 0)
            segment.fill(segment.file, size, needed)
        except OSError as error:
            self._abandon(segment)
            raise storage_error(error, "make segment", path, position=identity.base) from error
        return segment

    def _create_from_ready(self, identity: SegmentIdentity, needed: int) -> Segment | None:
        try:
            old_path, allocated, used = self._ready.popleft()
        except IndexError:
            return None
        if allocated > self._options.segment_bytes or needed > self._options.segment_bytes:
            self._ready.append((old_path, allocated, used))  # put back: the next one may be smaller
            return None
        path = self._names.unnamed(next(self._numbers))
        identity = attrs.evolve(identity, was_used=used)
        segment = Segment(
            identity,
            path,
            is_unnamed=True,
            allocated=allocated,
            capacity=self._options.segment_bytes,
        )
        try:
            segment.file = self._files.open(old_path)
            # Before the header that makes it a log's: recovery must find the end mark wherever it finds that header.
            if used:
                segment.append(segment.file, [], identity.base, identity.base)
            segment.file.pwritev([encode_static(identity, self._storage_id)], 0)
            self._files.rename(old_path, path)
            segment.fill(segment.file, max(allocated, needed), needed)
        except OSError as error:
            self._abandon(segment)
            with contextlib.suppress(OSError):
                self._files.unlink(old_path)
            raise storage_error(error, "make segment", path, position=identity.base) from error
        return segment

    def _abandon(self, segment: Segment) -> None:
        if segment.file is not None:
            segment.file.close()
            segment.file = None
        with contextlib.suppress(OSError):
            self._files.unlink(segment.path)

    def fill(self, segment: Segment, file: File, target: int, needed: int) -> None:
        """``Segment.fill``, with the space of the ready files where there is no other. Raises ``OSError``."""
        try:
            segment.fill(file, target, needed)
        except OSError as error:
            if not is_full(error) or not self.give_up_ready():
                raise
            segment.fill(file, target, needed)

    def give_up_ready(self) -> bool:
        """Remove the ready files and what is about to go, for a disk that is full; return whether there were any.

        They are there to save time. What was freed by deletions or retention would else stay taken by them, and only a
        log that fills whole segments could have it.
        """
        had_any = bool(self._ready or self._doomed)
        while self._ready:
            self.discard(self._ready.popleft()[0])
        self.free_all()
        return had_any

    def give_name(self, segment: Segment) -> None:
        """Rename an unnamed segment, whose header is durable, to its log's name. The caller flushes the directory."""
        path = self._names.segment(segment.name, segment.base)
        self._files.rename(segment.path, path)
        segment.path = path
        segment.is_unnamed = False

    def give_names(self, segments: Iterable[Segment]) -> None:
        """Rename what is unnamed of ``segments``, in order, durably.

        Of two segments of one log the second must never be there without the first: both are made to last under the
        names that they have before either is renamed.
        """
        unnamed = [segment for segment in segments if segment.is_unnamed]
        if not unnamed:
            return
        if len({segment.uid for segment in unnamed}) < len(unnamed):
            self.flush_directory()
        for segment in unnamed:
            self.give_name(segment)
        self.flush_directory()

    def open(self, segment: Segment) -> File:
        """Open a segment's file, also while another thread gives it its name."""
        try:
            return self._files.open(segment.path)
        except FileNotFoundError:
            return self._files.open(self._names.segment(segment.name, segment.base))

    def check_in_place(self, segments: Iterable[Segment]) -> None:
        """Raise ``StorageError`` when the file of one of ``segments`` was removed. Any thread."""
        for segment in segments:
            if segment.is_missing:
                continue
            try:
                is_gone = segment.file.link_count() == 0 if segment.file is not None else not self._has_name(segment)
            except OSError as error:
                raise storage_error(error, "look at", segment.path) from error
            if is_gone:
                raise _removed(segment)

    def check_names(self, segments: Iterable[Segment]) -> None:
        """The same by their names alone, of which no other thread may close anything meanwhile."""
        for segment in segments:
            if not segment.is_missing and not self._has_name(segment):
                raise _removed(segment)

    def _has_name(self, segment: Segment) -> bool:
        # Two names, as in ``open``: another thread may just be giving it the second one.
        for path in (segment.path, self._names.segment(segment.name, segment.base)):
            with contextlib.suppress(FileNotFoundError):
                self._files.stat(path)
                return True
        return False

    def flush_directory(self) -> None:
        """Make the names durable."""
        self._directory.flush()

    def close(self) -> None:
        """Close the directory."""
        self._directory.close()

    def retire(self, path: str) -> str:
        """Take the name from a file whose bytes are no longer wanted; return its new path. Not durable by itself."""
        free = self._names.free(next(self._numbers))
        self._files.rename(path, free)
        return free

    def recycle(self, path: str) -> None:
        """Keep a retired file ready to be used again, or have it go by ``free_piece``. Never raises ``OSError``.

        It is ready once its old header is durably gone: one that survived a crash would bring its log's bytes back.
        """
        try:
            if len(self._ready) >= self._options.ready_segments_max:
                self._doomed.append(path)
                return
            file = self._files.open(path)
            try:
                size = file.size() - HEADER_BYTES
                if size <= 0 or size > self._options.segment_bytes:
                    self._files.unlink(path)
                    return
                file.pwritev([encode_static(None, self._storage_id)], 0)
                file.flush()
            finally:
                file.close()
            self._ready.append((path, size, True))
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(path)

    def discard(self, path: str) -> None:
        """Remove a retired file, whose bytes somebody may still look at."""
        with contextlib.suppress(OSError):
            self._files.unlink(path)

    def free_piece(self) -> bool:
        """Free a piece of what is to go; return whether there is more. Never raises ``OSError``."""
        if not self._doomed:
            return False
        path = self._doomed[0]
        if not self._shorten(path):
            self._doomed.popleft()
            self.discard(path)
        return bool(self._doomed)

    def _shorten(self, path: str) -> bool:
        """Cut a piece off the end of a file; False where what is left is no more than one, or it may not be cut."""
        try:
            file = self._files.open(path)
            try:
                left = file.size() - FREE_PIECE_BYTES
                if left <= 0 or file.link_count() != 1:  # under its other name it is somebody else's, such as a backup
                    return False
                file.truncate(left)
            finally:
                file.close()
        except OSError:
            return False
        return True

    def free_all(self) -> None:
        """Remove what is to go, at once. Never raises ``OSError``."""
        while self._doomed:
            self.discard(self._doomed.popleft())

    def prepare(self) -> None:
        """Have one ready file, filled with zeros: a busy log will need it soon. Never raises ``OSError``."""
        try:
            if self._ready or self._options.ready_segments_max == 0:
                return
            path = self._names.free(next(self._numbers))
            size = min(self._options.extent_bytes_max, self._options.segment_bytes)
            try:
                file = self._files.open(path, create=True, exclusive=True)
                try:
                    file.pwritev([encode_static(None, self._storage_id)], 0)
                    write_zeros(file, HEADER_BYTES, HEADER_BYTES + size)
                finally:
                    file.close()
            except OSError:
                self.discard(path)
                return
            self._ready.append((path, size, False))
        finally:
            self.preparing = False

    @property
    def ready(self) -> int:
        """Number of ready files."""
        return len(self._ready)


def _removed(segment: Segment) -> StorageError:
    return StorageError(f"{segment.path} was removed while it was in use", kind="missing", path=segment.path)
