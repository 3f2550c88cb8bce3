"""Opening one log: its segments as they are on the device, in order, with those that are missing. All calls block."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import attrs

from mqcore.errors import CorruptionError
from mqcore.ports import File, FileSystem
from mqcore_mmap._config import MmapOptions
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._header import HEADER_BYTES, Header, decode_header
from mqcore_mmap._layout import StorageLayout
from mqcore_mmap._missing import SegmentGap, SegmentPlace, find_gaps
from mqcore_mmap._recovery import RECOVERY_FILES, Found
from mqcore_mmap._segment import Segment

__all__ = ["LoadedLog", "load_log"]


class LoadedLog(NamedTuple):
    """Segments of a log in order, its end (an upper bound unless closed), its durable end, and if it was closed."""

    segments: list[Segment]
    end: int
    durable_end: int
    clean: bool


def load_log(
    filesystem: FileSystem,
    files: SegmentFiles,
    layout: StorageLayout,
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
    places: list[SegmentPlace] = []
    for item in found:
        file = filesystem.open(item.path)
        try:
            header = decode_header(file.pread(HEADER_BYTES, 0), item.path)
            end = item.base + max(0, file.size() - HEADER_BYTES)
        finally:
            file.close()
        if item.is_unnamed and not _continues(item, header, places):
            files.discard(item.path)  # nothing in it was ever flushed, and what it continued is not there
            files.flush_directory()
            continue
        items.append(item)
        places.append(SegmentPlace(item.base, end, header))
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
    layout: StorageLayout, options: MmapOptions, name: str, items: list[Found], places: list[SegmentPlace]
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


def _missing(layout: StorageLayout, neighbour: Header, gap: SegmentGap) -> Segment:
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


def _continues(item: Found, header: Header, before: list[SegmentPlace]) -> bool:
    """Whether an unnamed segment begins where its log does, or not beyond the end of the segment before it."""
    return before[-1].base < item.base <= before[-1].end if before else item.base == header.log_start


def _check_identity(layout: StorageLayout, name: str, item: Found, header: Header, before: list[Segment]) -> None:
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
