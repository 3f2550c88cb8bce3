"""The parts of an mmap storage on a model disk, without engine, logs or threads: each call blocks and is made here."""

from __future__ import annotations

import attrs

from mqcore.errors import StorageError
from mqcore.testing import ModelDisk, model_ports
from mqcore_mmap import MmapStorage
from mqcore_mmap._checkpoint import Journal
from mqcore_mmap._files import SegmentFiles
from mqcore_mmap._flusher import FlushJob, FlushPlanner
from mqcore_mmap._handles import Handles
from mqcore_mmap._header import HEADER_BYTES, Header, SegmentIdentity, decode_header
from mqcore_mmap._layout import StorageLayout, open_layout
from mqcore_mmap._recovery import recover
from mqcore_mmap._segment import Segment

JOURNAL_BYTES = 64 * 1024


@attrs.define(eq=False)
class FakeLog:
    """What a flush knows of a log."""

    name: str
    durable_end: int = 0
    failure: str = ""
    failure_told: bool = False
    open_job: FlushJob | None = None

    def flushed_to(self, position: int) -> None:
        self.durable_end = position

    def fail(self, reason: str) -> None:
        self.failure = reason

    def check_not_failed(self) -> None:
        if self.failure:
            raise StorageError(self.failure, kind="flush")

    def take_open_job(self) -> FlushJob | None:
        job, self.open_job = self.open_job, None
        return job

    def take_back(self, job: FlushJob) -> None:
        raise AssertionError("the engine's work")


@attrs.define
class Parts:
    disk: ModelDisk
    layout: StorageLayout
    files: SegmentFiles
    handles: Handles
    journal: Journal
    planner: FlushPlanner
    logs: list[FakeLog] = attrs.field(factory=list)

    def segment(self, name: str, base: int, data: bytes) -> Segment:
        """A new segment, open, with ``data`` appended and not flushed."""
        identity = SegmentIdentity(self.layout.storage_id, name.encode().ljust(16), name, base)
        segment = self.files.create(identity, len(data), busy=False)
        self.handles.adopt(segment)
        assert segment.file is not None
        segment.append(segment.file, [data], base, base + len(data))
        return segment

    def job(self, name: str, *pieces: bytes, kept: bool = True) -> FlushJob:
        """What a flush has to cover of a new log with a segment for each of ``pieces``."""
        log = FakeLog(name)
        self.logs.append(log)
        segments: list[Segment] = []
        end = 0
        for piece in pieces:
            if segments:
                segments[-1].end = end
            segments.append(self.segment(name, end, piece))
            end += len(piece)
        return FlushJob(log, 0, end, segments, list(pieces) if kept and len(pieces) == 1 else None)

    def header(self, segment: Segment) -> Header:
        """What the file of a segment says."""
        return decode_header(self.disk.content(segment.path)[:HEADER_BYTES], segment.path)


def open_parts(disk: ModelDisk | None = None, *, range_bytes_max: int = 1000) -> Parts:
    disk = disk or ModelDisk(1)
    options = MmapStorage.options_class(segment_bytes=65536, first_extent_bytes=4096, extent_bytes_max=4096)
    ports = model_ports(1, disk)
    layout = open_layout(ports, "/s")
    recovered = recover(ports.files, layout, options, lambda _: None)
    handles = Handles(recovered.files, 64)
    journal = Journal(disk, recovered.files, handles, layout.storage_id, recovered.journals, JOURNAL_BYTES)
    logs: list[FakeLog] = []
    planner = FlushPlanner(disk, recovered.files, handles, layout, journal, lambda: logs, range_bytes_max)
    return Parts(disk, layout, recovered.files, handles, journal, planner, logs)
