"""The bytes of the first bad record: what was written for a batch, and what the model disk holds there in the end.

Runs the plan once more with an eye on the disk; knows the format of batches and nothing of any storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import attrs

from mqcore.batch import ATTRIBUTE_CONTROL, HEADER_BYTES, MAGIC, BatchHeader, unpack_header
from mqcore.errors import CorruptionError
from mqcore.ports import FileSystem
from mqcore.testing import ModelDisk
from mqcore_conformance.cells import Failure
from mqcore_conformance.histories import Appended, Completed, Event
from mqcore_conformance.play import run_plan
from mqcore_conformance.verdicts import Violation
from mqcore_conformance.worlds.model import Sabotage

BEGINNING = MAGIC.to_bytes(4, "little")
ROWS_MAX = 10
ROW_BYTES = 16
SNAPSHOTS_MAX = 4
FILE_BYTES_MAX = 4 * 1024 * 1024


@attrs.frozen(kw_only=True)
class _BatchPlace:
    path: str
    position: int
    header: BatchHeader
    written: bytes


class _Eye(Sabotage):
    """Changes nothing; remembers the files before each of the last power cuts, and the disk of the last life."""

    def __init__(self) -> None:
        self.snapshots: list[dict[str, bytes]] = []
        self.disk: ModelDisk | None = None

    def before_power_cut(self, disk: ModelDisk) -> None:
        self.snapshots = [*self.snapshots[1 - SNAPSHOTS_MAX :], _files(disk)]

    def wrap_files(self, files: FileSystem) -> FileSystem:
        self.disk = files if isinstance(files, ModelDisk) else None
        return files


def bytes_of_bad_record(failure: Failure) -> str:
    """Return a page of hexadecimal bytes, or nothing when the failure is not about bytes that can be found."""
    batch = next(filter(None, (_batch_of(one, failure.result.history) for one in failure.violations)), None)
    if batch is None:
        return ""
    eye = _Eye()
    if run_plan(failure.plan, eye).digest != failure.result.digest or eye.disk is None:
        return ""
    now = _files(eye.disk)
    places = [place for files in [*eye.snapshots, now] for place in _places(files, batch)]
    if not places:
        return ""
    place = next((one for one in places if _at(now, one) != one.written), places[0])
    return "\n".join(_tell(place, batch, _at(now, place))) + "\n"


def _batch_of(violation: Violation, history: Sequence[Event]) -> Appended | None:
    """Return the append of the batch that a violation is about: the one of the receipt that it names."""
    for index in violation.events:
        receipt = history[index] if 0 <= index < len(history) else None
        if not isinstance(receipt, Completed) or receipt.offset < 0:
            continue
        for event in history:
            if (
                isinstance(event, Appended)
                and event.partition == violation.partition
                and event.epoch == receipt.epoch
                and event.base_offset <= receipt.offset < event.next_offset
            ):
                return event
    return None


def _files(disk: ModelDisk) -> dict[str, bytes]:
    found = {}
    for path in disk.paths():
        content = disk.content(path)
        if len(content) <= FILE_BYTES_MAX:
            found[path] = content
    return found


def _places(files: Mapping[str, bytes], batch: Appended) -> Iterator[_BatchPlace]:
    """Find the batch by its header: offset and epoch."""
    for path, content in files.items():
        for header, position in _headers(content):
            its_own = header.epoch == batch.epoch and batch.base_offset <= header.base_offset < batch.next_offset
            if header.attributes & ATTRIBUTE_CONTROL:
                continue  # the broker's own, without an offset
            if its_own and header.size <= batch.end_position - batch.position:
                written = content[position : position + header.size]
                yield _BatchPlace(path=path, position=position, header=header, written=written)


def _headers(content: bytes) -> Iterator[tuple[BatchHeader, int]]:
    """Give everything that has the form of a batch, wherever it begins; storages align as they like."""
    position = content.find(BEGINNING)
    while position >= 0:
        with contextlib.suppress(CorruptionError):
            yield unpack_header(content[position : position + HEADER_BYTES]), position
        position = content.find(BEGINNING, position + 1)


def _at(files: Mapping[str, bytes], place: _BatchPlace) -> bytes | None:
    content = files.get(place.path)
    return None if content is None else content[place.position : place.position + place.header.size]


def _tell(place: _BatchPlace, batch: Appended, now: bytes | None) -> list[str]:
    what = f"batch of offsets {batch.base_offset} to {batch.next_offset - 1}, epoch {batch.epoch}, of {batch.partition}"
    lines = [f"{what}: {place.header.size} bytes at byte {place.position} of {place.path}"]
    if now is None:
        return [*lines, "the file is gone at the end of the run; as written:", *_rows(place.written, 0)]
    if now == place.written:
        return [*lines, "the bytes are there at the end of the run; as written:", *_rows(place.written, 0)]
    pairs = zip(place.written, now.ljust(len(place.written), b"\0"), strict=False)
    first = next(index for index, (was, then) in enumerate(pairs) if was != then)
    begin = first - first % ROW_BYTES
    lines.append(f"first difference at byte {first} of the batch")
    return [*lines, "as written:", *_rows(place.written, begin), "at the end of the run:", *_rows(now, begin)]


def _rows(data: bytes, begin: int) -> list[str]:
    rows = []
    for start in range(begin, min(len(data), begin + ROWS_MAX * ROW_BYTES), ROW_BYTES):
        row = data[start : start + ROW_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"  {start:6x}  {row.hex(' '):{ROW_BYTES * 3}} |{text}|")
    return rows or ["  nothing: the file ends before it"]
