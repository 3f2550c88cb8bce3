"""What happens to a storage before it is used: removals are finished, the journal is replayed, born segments named.

Every step may be repeated: a crash inside it, then another run, leaves what one run leaves. All calls block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import attrs

from mqcore.abc import Notice
from mqcore.errors import CorruptionError
from mqcore.ports import File, FileSystem
from mqcore_mmap._config import MmapOptions
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._header import HEADER_BYTES, Header, SegmentIdentity, decode_header, is_unwritten
from mqcore_mmap._journal import FoundRange, JournalFile
from mqcore_mmap._layout import Layout, Names, Tombstone
from mqcore_mmap._missing import Gap, Place, find_gaps
from mqcore_mmap._segment import Segment

RECOVERY_FILES = 100
"""Files that share a flush, and are open at a time."""

__all__ = ["RECOVERY_FILES", "Found", "Recovered", "load_log", "recover"]


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
    filesystem: FileSystem, layout: Layout, options: MmapOptions, report: Callable[[Notice], None]
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
    layout: Layout
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
        born: list[str] = []
        for file_name in file_names:
            path = f"{names.segments}/{file_name}"
            if (segment := Names.parse_segment(file_name)) is not None:
                logs.setdefault(segment[0], []).append(Found(path, segment[1], False))
            elif (numbered := Names.parse_numbered(file_name)) is not None:
                if numbered[0] == "free":
                    free.append(path)
                    continue
                born.append(path)
            elif (tombstone := Names.parse_tombstone(file_name)) is not None:
                gone.append(tombstone)
            else:
                raise CorruptionError("a file that is no segment; move it elsewhere", where=path)
        for first in range(0, len(born), RECOVERY_FILES):
            self._sort_born(born[first : first + RECOVERY_FILES], logs)
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

    def _sort_born(self, paths: list[str], logs: dict[str, list[Found]]) -> None:
        """Adopt the born files whose headers the device has, and remove the others.

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
        born = [(target.found, target.segment()) for target in targets if target.found.is_unnamed]
        self.files.give_names(segment for _, segment in born)
        for found, segment in born:
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


class LoadedLog(NamedTuple):
    """Segments of a log in order, its end (an upper bound unless closed), its durable end, and if it was closed."""

    segments: list[Segment]
    end: int
    durable_end: int
    clean: bool


def load_log(
    filesystem: FileSystem,
    files: SegmentFiles,
    layout: Layout,
    options: MmapOptions,
    name: str,
    found: list[Found],
    neighbours: list[Found],
) -> LoadedLog:
    """Return what is there of a log, and what should be: see ``_missing``.

    After an unclean stop what lies above the durable mark is flushed and dropped from the page cache first, so that
    later reads see what the device holds; ``neighbours``, files of other logs, share that flush. Raises
    ``CorruptionError`` for what is damaged or doubled.
    """
    items: list[Found] = []
    places: list[Place] = []
    for item in found:
        file = filesystem.open(item.path)
        try:
            header = decode_header(file.pread(HEADER_BYTES, 0), item.path)
            end = item.base + max(0, file.size() - HEADER_BYTES)
        finally:
            file.close()
        if item.is_unnamed and not _continues(item, places):
            files.discard(item.path)  # nothing in it was ever flushed, and what it continued is not there
            files.flush_directory()
            continue
        items.append(item)
        places.append(Place(item.base, end, header))
    if not places:
        return LoadedLog([], 0, 0, True)
    segments = _segments(layout, options, name, items, places)
    last = segments[-1]
    header = places[-1].header
    if last.is_missing:
        end = last.base + last.allocated
        return LoadedLog(segments, end, end, True)
    _check_whole(last, header)
    if header.closed_end is not None:
        return LoadedLog(segments, header.closed_end, header.closed_end, True)
    end = last.base + last.allocated
    # What follows a missing segment has a name, so it was flushed, and what is before it was flushed before.
    proved = [place.header.mark for place in places]
    proved += [each.base + each.allocated for each in segments if each.is_missing]
    mark = max(segments[0].base, min(max(proved), end))
    above = [each for each in segments if not each.is_missing and (each.end is None or each.end > mark)]
    _read_from_device(filesystem, files, above, items, neighbours)
    return LoadedLog(segments, end, mark, False)


def _read_from_device(
    filesystem: FileSystem, files: SegmentFiles, above: list[Segment], items: list[Found], neighbours: list[Found]
) -> None:
    """Have later reads of the segments ``above`` the mark see what the device holds."""
    by_path = {item.path: item for item in items}
    unflushed = [item for segment in above if not (item := by_path[segment.path]).is_flushed]
    if unflushed:
        _flush(filesystem, unflushed + [item for item in neighbours if not item.is_flushed])
    for segment in above:
        file = filesystem.open(segment.path)
        try:
            file.drop_cache(0, 0)  # all of it: a folio of the cache that begins below the mark would stay whole
        finally:
            file.close()
    files.give_names(above)


def _segments(
    layout: Layout, options: MmapOptions, name: str, items: list[Found], places: list[Place]
) -> list[Segment]:
    """Return the segments of a log in order, those that are missing included."""
    gaps = {gap.before: gap for gap in find_gaps(places, options.segment_bytes)}
    log_start = min(gaps[0].start if 0 in gaps else places[0].base, places[0].base)
    segments: list[Segment] = []
    for index, (item, place) in enumerate(zip(items, places, strict=True)):
        _check_identity(layout, name, item, place.header, segments)
        if (gap := gaps.get(index)) is not None:
            segments.append(_missing(layout, place.header, gap))
        assert place.header.identity is not None
        segment = Segment(
            place.header.identity,
            item.path,
            is_unnamed=item.is_unnamed,
            allocated=place.end - place.base,
            capacity=options.segment_bytes,
        )
        segment.is_sealed = place.header.continued_at is not None
        segments.append(segment)
    if (gap := gaps.get(len(places))) is not None:
        segments.append(_missing(layout, places[-1].header, gap))
    for segment, following in itertools.pairwise(segments):
        segment.end = following.base
    for segment in segments:
        segment.log_start = log_start
    return segments


def _missing(layout: Layout, neighbour: Header, gap: Gap) -> Segment:
    """A segment in place of the file, or files, that should be there."""
    assert neighbour.identity is not None
    identity = attrs.evolve(neighbour.identity, base=gap.start, was_used=False)
    size = gap.end - gap.start
    path = layout.names.segment(identity.name, gap.start)
    segment = Segment(identity, path, is_unnamed=False, allocated=size, capacity=size)
    segment.is_missing = True
    return segment


def _check_whole(segment: Segment, header: Header) -> None:
    """Raise ``CorruptionError`` when the last segment of a log is shorter than its own header says was flushed."""
    proved = max(header.mark, header.closed_end or 0)
    if proved > segment.base + segment.allocated:
        raise CorruptionError(
            "the file is cut off; restore it from a copy",
            where=segment.path,
            expected=f"at least {segment.at(proved)} bytes",
            found=f"{segment.at(segment.base) + segment.allocated} bytes",
        )


def _flush(filesystem: FileSystem, found: list[Found]) -> None:
    """Flush what an earlier process left, some dozens of files at a time."""
    for first in range(0, len(found), RECOVERY_FILES):
        batch = found[first : first + RECOVERY_FILES]
        opened: list[File] = []
        try:
            for item in batch:
                opened.append(filesystem.open(item.path))
            filesystem.flush_many(opened)
        finally:
            for file in opened:
                file.close()
        for item in batch:
            item.is_flushed = True


def _continues(item: Found, before: list[Place]) -> bool:
    """Whether a born segment begins where its log does, or not beyond the end of the segment before it."""
    return before[-1].base < item.base <= before[-1].end if before else item.base == 0


def _check_identity(layout: Layout, name: str, item: Found, header: Header, before: list[Segment]) -> None:
    """Raise ``CorruptionError`` unless the file is the segment of this log that its name says."""
    identity = header.identity
    if identity is None or (identity.name, identity.base, identity.storage_id) != (name, item.base, layout.storage_id):
        raise CorruptionError(
            "this file is not the segment that its name says; put the right one back",
            where=item.path,
            expected=f"log {name}, base {item.base}",
            found="a free file" if identity is None else f"log {identity.name}, base {identity.base}",
        )
    if before:
        if before[-1].uid != identity.uid:
            raise CorruptionError(f"a segment of another log called {name}", where=item.path)
        if before[-1].base == item.base:
            raise CorruptionError(f"two segments of log {name} begin at {item.base}", where=item.path)
