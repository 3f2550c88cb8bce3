"""What happens to a storage before it is used: removals are finished, the journal is replayed, unnamed segments named.

Every step may be repeated: a crash inside it, then another run, leaves what one run leaves. All calls block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs

from mqcore.abc import Notice
from mqcore.errors import CorruptionError
from mqcore.ports import File, FileSystem
from mqcore_mmap._config import MmapOptions
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._header import HEADER_BYTES, SegmentIdentity, decode_header, is_unwritten
from mqcore_mmap._journal import FoundRange, JournalFile
from mqcore_mmap._layout import Names, StorageLayout, Tombstone
from mqcore_mmap._segment import Segment

RECOVERY_FILES = 100
"""Files that share a flush, and are open at a time."""

__all__ = ["RECOVERY_FILES", "Found", "Recovered", "recover"]


@attrs.define
class Found:
    """A segment file: its path, base, whether it still has no name, and whether it was flushed since the start."""

    path: str
    base: int
    is_unnamed: bool
    is_flushed: bool = False


@attrs.define
class Recovered:
    """The files of each log in order of their bases, the journal files, and the files that are free."""

    logs: dict[str, list[Found]]
    journals: list[JournalFile]
    free: list[str]
    files: SegmentFiles


def recover(
    filesystem: FileSystem, layout: StorageLayout, options: MmapOptions, report: Callable[[Notice], None]
) -> Recovered:
    """Bring the storage to a state in which every flushed byte is in its segment. Raises ``CorruptionError``."""
    names = layout.names
    filesystem.flush_directory(names.root)  # what a killed process named and did not flush counts from now on
    filesystem.flush_directory(names.segments)
    file_names = filesystem.list(names.segments)
    numbers = [found[1] for name in file_names if (found := Names.parse_numbered(name))]
    files = SegmentFiles(filesystem, layout, options, max(numbers, default=0) + 1)
    run = _Run(filesystem, layout, files, options, report)
    journals: list[JournalFile] = []
    try:
        logs, free = run.sort_files(file_names)
        journals = run.open_journals()
        run.replay(journals, logs)
    except BaseException:
        for journal in journals:
            journal.file.close()
        files.close()
        raise
    return Recovered(logs, journals, free + run.freed, files)


@attrs.define
class _Run:
    filesystem: FileSystem
    layout: StorageLayout
    files: SegmentFiles
    options: MmapOptions
    report: Callable[[Notice], None]
    freed: list[str] = attrs.field(factory=list)
    unlinked: bool = False

    def sort_files(self, file_names: list[str]) -> tuple[dict[str, list[Found]], list[str]]:
        """Sort the names into segments of logs and free files; finish removals that were begun."""
        names = self.layout.names
        logs: dict[str, list[Found]] = {}
        free: list[str] = []
        gone: list[Tombstone] = []
        unnamed: list[str] = []
        for file_name in file_names:
            path = f"{names.segments}/{file_name}"
            if (segment := Names.parse_segment(file_name)) is not None:
                logs.setdefault(segment[0], []).append(Found(path, segment[1], False))
            elif (numbered := Names.parse_numbered(file_name)) is not None:
                if numbered[0] == "free":
                    free.append(path)
                    continue
                unnamed.append(path)
            elif (tombstone := Names.parse_tombstone(file_name)) is not None:
                gone.append(tombstone)
            else:
                raise CorruptionError("a file that is no segment; move it elsewhere", where=path)
        for first in range(0, len(unnamed), RECOVERY_FILES):
            self._sort_unnamed(unnamed[first : first + RECOVERY_FILES], logs)
        for tombstone in gone:
            self._finish_removal(tombstone, logs)
        for found in logs.values():
            self._drop_doubles(found)
        if self.unlinked:
            self.files.flush_directory()  # or one of them might come back beside a segment of the same base
        return {name: found for name, found in logs.items() if found}, free

    def _drop_doubles(self, found: list[Found]) -> None:
        """Sort by base; of two files for one base keep the named one, else the younger: the other never counted."""
        found.sort(key=lambda item: (item.base, item.is_unnamed, item.path))
        for earlier, later in list(itertools.pairwise(found)):
            if earlier.base == later.base:
                dropped = earlier if earlier.is_unnamed else later
                self._unlink(dropped.path)
                found.remove(dropped)

    def _unlink(self, path: str) -> None:
        self.filesystem.unlink(path)
        self.unlinked = True

    def _sort_unnamed(self, paths: list[str], logs: dict[str, list[Found]]) -> None:
        """Adopt the unnamed files whose headers the device has, and remove the others.

        The page cache is not asked: after a failed flush it shows a header that is nowhere else.
        """
        opened: list[File] = []
        try:
            for path in paths:
                opened.append(self.filesystem.open(path))
            self.filesystem.flush_many(opened)
            for path, file in zip(paths, opened, strict=True):
                file.drop_cache(0, 0)
                block = file.pread(HEADER_BYTES, 0)
                identity = None
                if not is_unwritten(block, self.layout.storage_id):
                    identity = decode_header(block, path).identity
                if identity is None:
                    self._unlink(path)
                else:
                    found = Found(path, identity.base, is_unnamed=True, is_flushed=True)
                    logs.setdefault(identity.name, []).append(found)
        finally:
            for file in opened:
                file.close()

    def _finish_removal(self, gone: Tombstone, logs: dict[str, list[Found]]) -> None:
        names = self.layout.names
        for found in logs.values():
            for item in [item for item in found if gone.low <= item.base < gone.high]:
                identity = decode_header(_read_block(self.filesystem, item.path), item.path).identity
                if identity is not None and identity.uid == gone.uid:
                    self.freed.append(self.files.retire(item.path))
                    found.remove(item)
        self.files.flush_directory()
        self.filesystem.unlink(names.gone(gone))
        self.files.flush_directory()

    def open_journals(self) -> list[JournalFile]:
        """Open both journal files, the older generation first."""
        opened: list[JournalFile] = []
        try:
            for path in self.layout.names.journals:
                try:
                    file = self.filesystem.open(path)
                except FileNotFoundError:
                    raise CorruptionError("the journal is missing; restore it from a copy", where=path) from None
                try:
                    file.flush()  # the device decides, not what a killed process left in the page cache
                    file.drop_cache(0, 0)
                    opened.append(JournalFile(file, self.layout.storage_id))
                except BaseException:
                    file.close()
                    raise
        except BaseException:
            for journal in opened:
                journal.file.close()
            raise
        return sorted(opened, key=lambda journal: journal.generation)

    def replay(self, journals: list[JournalFile], logs: dict[str, list[Found]]) -> None:
        """Write what the journal holds into the segments, flush them, and let the sets count no longer."""
        older, newer = journals
        changed: dict[tuple[bytes, int], _Target] = {}
        for ranges in older.sets():
            self._collect(ranges, logs, changed)
        for ranges in newer.sets():
            self._collect(ranges, logs, changed)
        before = newer.sets_before
        if before is not None and older.generation == newer.generation - 1 and before != older.sets_written:
            raise CorruptionError(
                "damaged journal: sets at its end are missing; restore the storage from a copy",
                where=older.file.path,
                expected=f"{before} sets",
                found=str(older.sets_written),
            )
        if not changed:
            return
        self._write(list(changed.values()))
        generation = newer.generation
        for journal in journals:
            generation += 1
            journal.begin(generation)
        self.report(
            Notice(
                "journal-replayed",
                f"after an unclean stop the journal was written into {len(changed)} segments",
                {"segments": len(changed)},
            )
        )

    def _collect(
        self, ranges: list[FoundRange], logs: dict[str, list[Found]], changed: dict[tuple[bytes, int], _Target]
    ) -> None:
        for item in ranges:
            key = (item.uid, item.base)
            target = changed.get(key)
            if target is None:
                target = changed[key] = self._target(item, logs)
            target.ranges.append(item)

    def _target(self, item: FoundRange, logs: dict[str, list[Found]]) -> _Target:
        """Return the segment that a range belongs to; make it anew when it never reached the disk."""
        for found in logs.get(item.name, ()):
            if found.base == item.base:
                identity = decode_header(_read_block(self.filesystem, found.path), found.path).identity
                if identity is not None and identity.uid == item.uid:
                    return _Target(found, identity)
        if item.position != item.base:
            raise CorruptionError(
                f"log {item.name}: the segment at {item.base} is missing; restore it from a copy",
                where=self.layout.names.segment(item.name, item.base),
            )
        identity = SegmentIdentity(self.layout.storage_id, item.uid, item.name, item.base)
        segment = self.files.create(identity, len(item.data), busy=False)
        if segment.file is not None:
            segment.file.close()
        found = Found(segment.path, item.base, True)
        of_log = logs.setdefault(item.name, [])
        of_log.append(found)
        of_log.sort(key=lambda other: other.base)
        return _Target(found, identity)

    def _write(self, targets: list[_Target]) -> None:
        """Write the ranges into their segments, some dozens of files at a time, flush them and give them names."""
        for first in range(0, len(targets), RECOVERY_FILES):
            batch = targets[first : first + RECOVERY_FILES]
            opened: list[File] = []
            try:
                for target in batch:
                    file = self.filesystem.open(target.found.path)
                    opened.append(file)
                    target.write(file)
                self.filesystem.flush_many(opened)
            finally:
                for file in opened:
                    file.close()
        unnamed = [(target.found, target.segment()) for target in targets if target.found.is_unnamed]
        self.files.give_names(segment for _, segment in unnamed)
        for found, segment in unnamed:
            found.path, found.is_unnamed = segment.path, False


@attrs.define
class _Target:
    """A segment that the replay writes to."""

    found: Found
    identity: SegmentIdentity
    ranges: list[FoundRange] = attrs.field(factory=list)

    def segment(self) -> Segment:
        return Segment(self.identity, self.found.path, is_unnamed=self.found.is_unnamed, allocated=0, capacity=0)

    def write(self, file: File) -> None:
        """Write every range and state what they prove; a greater mark stays."""
        segment = self.segment()
        for item in self.ranges:
            segment.write(file, [item.data], item.position)
        header = decode_header(file.pread(HEADER_BYTES, 0), self.found.path)
        segment.log_start = header.log_start
        segment.end, segment.is_sealed = header.continued_at, header.continued_at is not None
        segment.write_all_marks(file, max(header.mark, *(item.position + len(item.data) for item in self.ranges)))


def _read_block(filesystem: FileSystem, path: str) -> bytes:
    file = filesystem.open(path, write=False)
    try:
        return file.pread(HEADER_BYTES, 0)
    finally:
        file.close()
