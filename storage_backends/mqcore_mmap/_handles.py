"""The bounded cache of descriptors and mappings of segments. Used in Trio's thread, except ``release``.

A descriptor is kept while a call uses it, and while it alone can prove that its appends reach the disk; any other may
be closed to make room, and is opened again when it is needed.
"""

from __future__ import annotations

import errno
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

from mqcore.errors import StorageError
from mqcore.ports import File, Mapping
from mqcore_mmap._errors import storage_error
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._header import HEADER_BYTES
from mqcore_mmap._segment import Segment

__all__ = ["Handles"]

T = TypeVar("T")


class Handles:
    """Open segments, the least recently used first. A mapping counts as a descriptor: it holds one."""

    def __init__(self, files: SegmentFiles, open_files_max: int) -> None:
        self._files = files
        self._open_files_max = open_files_max
        self._open: OrderedDict[Segment, None] = OrderedDict()
        self._mappings = 0
        self._reserved = 0
        self._released: deque[Segment] = deque()

    @property
    def used(self) -> int:
        """Descriptors in use."""
        return len(self._open) + self._mappings + self._reserved

    def file(self, segment: Segment) -> File:
        """Return the segment's open file. Raises ``StorageError``."""
        file = segment.file
        if file is not None:
            self._open.move_to_end(segment)
            return file
        self.make_room(1)
        file = segment.file = self._retry(lambda: self._files.open(segment), segment)
        self._open[segment] = None
        return file

    def reserve(self) -> None:
        """Keep room for a segment that a thread is about to open, until ``unreserve``. Raises ``StorageError``."""
        self.make_room(1)
        self._reserved += 1

    def unreserve(self) -> None:
        """Undo one ``reserve``."""
        self._reserved -= 1

    def adopt(self, segment: Segment) -> None:
        """Count a segment that another call has opened."""
        self._open[segment] = None

    def mapping(self, segment: Segment, size: int) -> Mapping:
        """Return a mapping of at least the first ``size`` bytes of positions. Raises ``StorageError``."""
        if segment.mapping is not None and segment.mapped >= size:
            self._open.move_to_end(segment)
            return segment.mapping
        file = self.file(segment)
        segment.pins += 1  # or making room could close the very file that is to be mapped
        try:
            self._unmap(segment)
            self.make_room(1)
            allocated = segment.allocated
            mapping = self._retry(lambda: file.map(HEADER_BYTES + allocated), segment)
        finally:
            segment.pins -= 1
        segment.mapping = mapping
        segment.mapped = allocated
        self._mappings += 1
        return mapping

    def pin(self, segment: Segment) -> File:
        """Open the segment and keep it open until ``release``."""
        file = self.file(segment)
        segment.pins += 1
        return file

    def release(self, segment: Segment) -> None:
        """Undo one ``pin``; from any thread."""
        # Queued and not subtracted: ``-=`` reads and writes, and another thread may come in between.
        self._released.append(segment)

    def settle(self) -> None:
        """Take the releases of other threads into account."""
        while self._released:
            self._released.popleft().pins -= 1

    def close(self, segment: Segment) -> None:
        """Close a segment's descriptor and mapping."""
        self._unmap(segment)
        file, segment.file = segment.file, None
        self._open.pop(segment, None)
        if file is not None:
            file.close()

    def can_make_room(self, count: int) -> bool:
        """Whether ``make_room`` would succeed."""
        if self.used + count <= self._open_files_max:
            return True
        self.settle()
        idle = sum(1 + (segment.mapping is not None) for segment in self._open if self._may_close(segment))
        return self.used + count - idle <= self._open_files_max

    def make_room(self, count: int) -> None:
        """Close what is not needed until ``count`` more fit. Raises ``StorageError`` (kind ``too-many-files``)."""
        if self.used + count <= self._open_files_max:
            return
        self.settle()
        for segment in list(self._open):
            if self._may_close(segment):
                self._evict(segment)
                if self.used + count <= self._open_files_max:
                    return
        # Last, for it is made again by the next read: what has to stay open need not stay mapped.
        for segment in list(self._open):
            self._unmap(segment)
            if self.used + count <= self._open_files_max:
                return
        raise StorageError(
            f"all {self._open_files_max} descriptors for segments are in use; retry, or raise open_files_max",
            kind="too-many-files",
            retryable=True,
        )

    def _retry(self, call: Callable[[], T], segment: Segment) -> T:
        """Call ``call``; when the process has no descriptor left, close half of those that may be and call again."""
        try:
            return call()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_some():
                raise storage_error(error, "open segment", segment.path) from error
        try:
            return call()
        except OSError as error:
            raise storage_error(error, "open segment", segment.path) from error

    def _close_some(self) -> bool:
        self.settle()
        idle = [segment for segment in self._open if self._may_close(segment)]
        self.give_way((len(idle) + 1) // 2)
        return bool(idle)

    def give_way(self, count: int) -> None:
        """Close up to ``count`` segments that are not in use now, so that others find descriptors."""
        self.settle()
        idle = [segment for segment in self._open if self._may_close(segment)]
        for segment in idle[:count]:
            self._evict(segment)

    @staticmethod
    def _may_close(segment: Segment) -> bool:
        return not (segment.pins or segment.keep_open or segment.filling or segment.in_job)

    def _evict(self, segment: Segment) -> None:
        segment.rewrite_pending = segment.rewrite_pending or segment.dirty
        segment.rewrite_generation = segment.generation
        self.close(segment)

    def _unmap(self, segment: Segment) -> None:
        mapping, segment.mapping = segment.mapping, None
        if mapping is not None:
            self._mappings -= 1
            segment.mapped = 0
            mapping.close()
            if mapping.held():  # by views of readers: its pages stay, and the file must not be used for other bytes
                segment.retired.append(mapping)
