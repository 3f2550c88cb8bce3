"""Truncate, trim and delete: durable, whole after any crash, and never undone by a later replay of the journal.

Several segments are removed under a tombstone whose name says which; one by its rename alone. Neither depends on what
may be scarce just then, a descriptor or space. What the journal would write again is checkpointed first. All of it
happens in the flusher's thread, between flushes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import trio

from mqcore.ports import DeviceThread, File, FileSystem
from mqcore_mmap._errors import is_scarcity, storage_error
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._freeing import Freeing
from mqcore_mmap._handles import Handles
from mqcore_mmap._layout import Names, Tombstone
from mqcore_mmap._log import MmapLog
from mqcore_mmap._segment import Segment, write_zeros
from mqcore_mmap._shield import run_shielded

__all__ = ["Removal", "remove_files"]

POSITION_MAX = 2**64 - 1


class RemovalHost(Protocol):
    """What a removal uses of the storage; see ``Engine``, which is one."""

    freeing: Freeing
    flush_thread: DeviceThread
    flushing: trio.Lock
    handles: Handles

    async def open(self, segment: Segment) -> File: ...

    async def make_room(self) -> None: ...

    async def flush(self, logs: Sequence[MmapLog]) -> None: ...

    async def settle(self, segments: Sequence[Segment]) -> None: ...


class Removal:
    """See the module."""

    def __init__(self, filesystem: FileSystem, files: SegmentFiles, names: Names, engine: RemovalHost) -> None:
        self._filesystem = filesystem
        self._files = files
        self._names = names
        self._engine = engine

    async def truncate(self, log: MmapLog, position: int) -> None:
        """Cut ``log`` at ``position``. If cancelled or failed, the end is unknown until the log is opened again."""
        if not log.start <= position <= log.end:
            raise ValueError(f"{log.name}: position {position} is outside the log ({log.start} to {log.end})")
        if not log.segments:
            await trio.lowlevel.checkpoint()
            return
        kept = [segment for segment in log.segments if segment.base < position] or log.segments[:1]
        last = kept[-1]
        file = await self._engine.open(last)
        self._engine.handles.pin(last)
        try:
            async with self._engine.flushing:
                await self._truncate(log, kept, file, position)
        except OSError as error:
            log.fail(f"its truncation failed: {error}")
            log.failure_told = True
            raise storage_error(error, "truncate", last.path, position=position) from error
        finally:
            last.pins -= 1
        await trio.lowlevel.checkpoint()

    async def _truncate(self, log: MmapLog, kept: list[Segment], file: File, position: int) -> None:
        removed, last = log.segments[len(kept) :], kept[-1]
        await self._engine.settle([*removed, last])
        durable_end = min(log.durable_end, position)
        log.begin_truncation()
        run = self._engine.flush_thread.run
        with trio.CancelScope(shield=True):
            if removed:
                # First: a crash after the files are gone would else leave a log that misses them.
                await run(last.unseal, file, durable_end)
                await self._remove(log, removed, position, POSITION_MAX, reuse=False)
            await run(_zero, last, file, position, durable_end)
        last.end = None
        log.cut(kept, log.start, position, durable_end)

    async def trim(self, log: MmapLog, position: int) -> int:
        """Give up the whole segments of ``log`` below ``position``; return its start.

        Flushes the log first where only that keeps a segment from going: with ``flush = none`` nothing else does.
        Raises ``FlushFailedError`` then.
        """
        await self._engine.make_room()  # which may take a flush, so not within the turn
        if not log.end_is_unsure and len(_below(log, position)) > len(_trimmed(log, min(position, log.durable_end))):
            await self._engine.flush([log])
        async with self._engine.flushing:
            removed = _trimmed(log, min(position, log.durable_end))
            if removed:
                await self._engine.settle(removed)
                kept = log.segments[len(removed) :]
                await self._state_start(log, kept)
                await self._remove(log, removed, 0, kept[0].base)
                log.cut(log.segments[len(removed) :], kept[0].base, log.end, log.durable_end)
        return log.start

    async def _state_start(self, log: MmapLog, kept: Sequence[Segment]) -> None:
        """State where the log begins from now on, durably, before a file goes: else what goes would be missed.

        Raises ``StorageError`` (``too-many-files`` too, retryable); then nothing has changed.
        """
        segment = next((each for each in kept if not each.is_missing), None)
        if segment is None:
            return
        file = self._engine.handles.pin(segment)
        # What was proved so far, but no more than it holds: a later truncation lowers the marks of the last one only.
        durable_end = log.durable_end if segment.end is None else min(log.durable_end, segment.end)
        before, segment.log_start = segment.log_start, kept[0].base
        try:
            await run_shielded(self._engine.flush_thread, _keep_mark, segment, file, durable_end)
        except OSError as error:
            segment.log_start = before
            log.fail(f"a flush before its trim failed: {error}")
            log.failure_told = True
            raise storage_error(error, "trim", segment.path, position=kept[0].base) from error
        finally:
            segment.pins -= 1

    async def delete(self, log: MmapLog) -> None:
        """Remove every segment of ``log``, whose handle is closed already to others."""
        async with self._engine.flushing:
            await self._engine.settle(log.segments)
            log.begin_truncation()
            await self._remove(log, log.segments, 0, POSITION_MAX)

    async def _remove(
        self, log: MmapLog, removed: Sequence[Segment], low: int, high: int, *, reuse: bool = True
    ) -> None:
        """Remove segments; keep their files for others unless the log may come to the same positions once more.

        Then what they hold would be in its place again, with valid checksums.
        """
        removed = [segment for segment in removed if not segment.is_missing]
        if not removed:
            return
        for segment in removed:
            self._engine.handles.close(segment)
        gone = Tombstone(removed[0].uid, low, high)
        try:
            freed = await run_shielded(
                self._engine.flush_thread, remove_files, self._filesystem, self._files, self._names, removed, gone
            )
        except OSError as error:
            log.fail(f"a removal failed: {error}")
            log.failure_told = True
            raise storage_error(error, "remove", removed[0].path, position=low) from error
        for segment, path in zip(removed, freed, strict=True):
            if not reuse or segment.views_held():
                self._engine.freeing.discard(path)
            else:
                self._engine.freeing.recycle(path)
        self._engine.freeing.start()


def remove_files(
    filesystem: FileSystem, files: SegmentFiles, names: Names, removed: Sequence[Segment], gone: Tombstone
) -> list[str]:
    """Take the names from the files of ``removed``, durably; return their new paths. Blocks.

    All or none after a crash, or, where there is no descriptor or no space for a tombstone, one after the other: those
    of a log that is cut from the last on, else from the first on, so that what a crash leaves has no hole.
    """
    tombstone = names.gone(gone) if len(removed) > 1 else None
    if tombstone is not None:
        try:
            filesystem.open(tombstone, create=True).close()
        except OSError as error:
            if not is_scarcity(error):
                raise
            return _retire_one_by_one(files, removed, from_last=gone.high == POSITION_MAX)
        files.flush_directory()
    freed = [files.retire(segment.path) for segment in removed]
    files.flush_directory()
    if tombstone is not None:
        filesystem.unlink(tombstone)
        files.flush_directory()
    return freed


def _retire_one_by_one(files: SegmentFiles, removed: Sequence[Segment], *, from_last: bool) -> list[str]:
    """Take the names of ``removed`` in order of position or from the last on, each durably before the next."""
    freed = []
    for index, segment in reversed(list(enumerate(removed))) if from_last else enumerate(removed):
        if from_last and index:
            _unseal_in_want(files, removed[index - 1])
        freed.append(files.retire(segment.path))
        files.flush_directory()
    return freed[::-1] if from_last else freed


def _unseal_in_want(files: SegmentFiles, segment: Segment) -> None:
    """Have a segment that is about to go no longer miss the one after it, which goes first.

    Where there is no descriptor for that the removal goes on: a crash just then leaves a log that reports as missing
    what was to go, which is loud and loses nothing.
    """
    try:
        file = files.open(segment)
    except OSError as error:
        if not is_scarcity(error):
            raise
        return
    try:
        segment.unseal(file, segment.base)
    finally:
        file.close()


def _below(log: MmapLog, limit: int) -> list[Segment]:
    """Segments that lie whole below ``limit``; the last one of the log stays."""
    return [segment for segment, following in itertools.pairwise(log.segments) if following.base <= limit]


def _trimmed(log: MmapLog, limit: int) -> list[Segment]:
    """Segments that lie whole below ``limit``; the first one left has to be on the disk under its name."""
    removed = _below(log, limit)
    while removed and log.segments[len(removed)].is_unnamed:
        removed.pop()
    return removed


def _keep_mark(segment: Segment, file: File, durable_end: int) -> None:
    """Have the segment state, durably, what those about to be removed have proved so far, and where the log begins."""
    segment.write_mark(file, durable_end)
    file.flush()


def _zero(segment: Segment, file: File, position: int, durable_end: int) -> None:
    """Lower the mark, durably, then write zeros over what is not zero and make that durable."""
    # In this order: a mark above bytes that are zero already would call them damaged.
    segment.write_all_marks(file, durable_end)
    file.flush()
    zero_stale(segment, file, position)
    file.flush()


def zero_stale(segment: Segment, file: File, position: int) -> None:
    """Write zeros over every byte from ``position`` to the end of the file that may not be zero."""
    at, end = segment.at(position), file.size()
    piece_bytes = 256 * 1024
    while at < end:
        size = min(piece_bytes - at % piece_bytes, end - at)
        data = file.pread(size, at)
        # Looked at before it is written: most of an allocated file is zero, and on a full disk writing may fail.
        if data.count(0) != len(data):
            write_zeros(file, at, at + size)
        at += size
