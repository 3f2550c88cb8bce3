"""Looking at a storage while its broker runs: segments are read through the page cache, nothing is locked or changed.

What stands below a log's durable mark stays as it is; above it belongs to the broker. The journal is not needed: the
broker has written every byte into its segment too, and its page cache shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from mqcore.abc import Log
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer, DeviceThread, FileSystem, Ports
from mqcore_mmap._errors import storage_error
from mqcore_mmap._header import HEADER_BYTES, Header, decode_header, is_unwritten
from mqcore_mmap._layout import Names, read_layout
from mqcore_mmap._missing import SegmentPlace, find_gaps, zeros

__all__ = ["ReadonlyLog", "ReadonlyStorage"]

SCANS_MAX = 3


@attrs.frozen
class _Piece:
    """One segment file as it was found; its path is empty where a file is missing."""

    path: str
    place: SegmentPlace

    @property
    def base(self) -> int:
        """First position."""
        return self.place.base

    @property
    def end(self) -> int:
        """End of its bytes."""
        return self.place.end


class ReadonlyLog(Log):
    """A log of a running broker. ``end`` is where its files end: an upper bound."""

    def __init__(self, name: str, pieces: Sequence[_Piece], files: FileSystem, thread: DeviceThread) -> None:
        self.name = name
        self._pieces = pieces
        self._files = files
        self._thread = thread

    @property
    def start(self) -> int:
        """Position of the first segment."""
        return self._pieces[0].base

    @property
    def end(self) -> int:
        """Position after the last file's bytes."""
        return self._pieces[-1].end

    @property
    def level(self) -> Level:
        """The level of a flush: it does not change."""
        return Level.DISK

    @property
    def durable_end(self) -> int:
        """What the marks of the segments state."""
        return max(self.start, *(piece.place.header.mark for piece in self._pieces))

    async def read(self, position: int, size: int) -> memoryview:
        """Return up to ``size`` bytes at ``position``; see ``Log.read``."""
        if not self.start <= position <= self.end:
            raise ValueError(f"position {position} is not within {self.start} to {self.end}")
        piece = next((each for each in reversed(self._pieces) if each.base <= position), self._pieces[0])
        after = next((each.base for each in self._pieces if each.base > piece.base), piece.end)
        if not piece.path:
            await trio.lowlevel.checkpoint()
            return zeros(min(size, after - position))
        try:
            data = await self._thread.run(
                _read, self._files, piece.path, HEADER_BYTES + position - piece.base, min(size, after - position)
            )
        except OSError as error:
            raise storage_error(error, "read", piece.path, position=position) from error
        return memoryview(data)

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Refused: the log belongs to the running broker."""
        raise self._refusal("append to")

    async def truncate(self, position: int) -> None:
        """Refused: the log belongs to the running broker."""
        raise self._refusal("truncate")

    async def trim(self, position: int) -> int:
        """Refused: the log belongs to the running broker."""
        raise self._refusal("trim")

    async def aclose(self) -> None:
        """Nothing is held open."""
        await trio.lowlevel.checkpoint()

    def _refusal(self, action: str) -> CommandNotPossibleError:
        return CommandNotPossibleError(f"cannot {action} log {self.name}: it is opened for reading beside its broker")


class ReadonlyStorage:
    """The segments of a storage whose broker runs, as they were when this was made. The constructor blocks."""

    def __init__(self, ports: Ports, root: str, segment_bytes: int) -> None:
        files = ports.files
        self._files = files
        self._thread = ports.threads.start("readonly")
        self._segment_bytes = segment_bytes
        self._pieces: dict[str, list[_Piece]] = {}
        self._damaged: dict[str, CorruptionError] = {}
        self._names = Names(root)
        self._storage_id = read_layout(files, self._names)
        for _ in range(SCANS_MAX):
            # The broker names, rolls and trims meanwhile: only what several looks miss is missing.
            if self._scan():
                break

    def _scan(self) -> bool:
        """Look at every file; return whether nothing went away meanwhile and nothing is missing."""
        self._pieces.clear()
        self._damaged.clear()
        is_whole = True
        for file_name in self._files.list(self._names.segments):
            try:
                self._add(f"{self._names.segments}/{file_name}", file_name, self._storage_id)
            except FileNotFoundError:
                is_whole = False  # the broker removed or renamed it
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece.base)
            for gap in reversed(find_gaps([piece.place for piece in pieces], self._segment_bytes)):
                is_whole = False
                pieces.insert(gap.before, _Piece("", SegmentPlace(gap.start, gap.end, Header(None, mark=gap.end))))
        return is_whole

    def _add(self, path: str, file_name: str, storage_id: bytes) -> None:
        named = Names.parse_segment(file_name)
        numbered = Names.parse_numbered(file_name)
        if named is None and (numbered is None or numbered[0] != "unnamed"):
            return
        file = self._files.open(path, write=False)
        try:
            block, size = file.pread(HEADER_BYTES, 0), file.size()
        finally:
            file.close()
        if named is None and is_unwritten(block, storage_id):
            return
        try:
            header = decode_header(block, path)
        except CorruptionError as error:
            if named is not None:
                self._damaged[named[0]] = error
            return
        if header.identity is not None:
            base = header.identity.base
            piece = _Piece(path, SegmentPlace(base, base + max(0, size - HEADER_BYTES), header))
            self._pieces.setdefault(header.identity.name, []).append(piece)

    def list_logs(self) -> list[str]:
        """Names of the logs that have a segment, sorted."""
        return sorted({*self._pieces, *self._damaged})

    def open_log(self, name: str) -> ReadonlyLog:
        """Return the log called ``name``. Raises ``CorruptionError``, ``StorageError`` (kind ``missing``)."""
        if name in self._damaged:
            raise self._damaged[name]
        pieces = self._pieces.get(name)
        if not pieces:
            raise StorageError(f"no log {name} here", kind="missing")
        return ReadonlyLog(name, pieces, self._files, self._thread)

    async def aclose(self) -> None:
        """End the reading thread."""
        await self._thread.aclose()


def _read(files: FileSystem, path: str, at: int, size: int) -> bytes:
    file = files.open(path, write=False)
    try:
        return file.pread(size, at)
    finally:
        file.close()
