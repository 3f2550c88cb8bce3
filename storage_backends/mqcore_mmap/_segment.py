"""One segment: a file that holds a range of positions of one log. Its extents, marks and state; all calls block.

It knows nothing of logs as a whole, of the journal or of who decides what. Fields are set in Trio's thread except
where a comment says otherwise; a plain assignment is all that another thread ever does to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.abc import END_MARK_BYTES
from mqcore.ports import Buffer, File, Mapping
from mqcore_mmap._errors import is_full
from mqcore_mmap._header import (
    CHECKPOINT_SLOT,
    HEADER_BYTES,
    SECTOR_BYTES,
    SegmentIdentity,
    encode_mark,
)
from mqcore_mmap._journal import encode_place

__all__ = ["ZERO_PIECE_BYTES", "Segment", "write_zeros"]

ZERO_PIECE_BYTES = 256 * 1024
"""Zeros are written in pieces, because an append to the same file waits for the piece that is being written."""

_ZEROS = bytes(ZERO_PIECE_BYTES)
_END_MARK = bytes(END_MARK_BYTES)


def write_zeros(file: File, start: int, end: int) -> None:
    """Write zeros from file position ``start`` to ``end``."""
    while start < end:
        size = min(ZERO_PIECE_BYTES, end - start)
        file.pwritev([_ZEROS if size == ZERO_PIECE_BYTES else _ZEROS[:size]], start)
        start += size


class Segment:
    """State of one segment file.

    ``base``: first position. ``capacity``: positions it may hold. ``allocated``: how many of them are on the disk
    (set by the thread that fills), ``allocated_at_flush``: how many when its last flush began. ``end``: position where
    the next segment begins, None while this is the last.
    ``is_unnamed``: has no name yet (cleared by the thread that names it). ``pins``: calls that need the descriptor now.
    ``keep_open``: holds bytes that are nowhere else, so that only this descriptor can prove them flushed.
    ``dirty``: appended to since the last flush began. ``generation``: the last journal generation that has bytes of
    this segment. ``rewrite_pending``: the descriptor that appended the unflushed bytes was closed, so they are written
    again before another one flushes; ``rewrite_generation``: the same of bytes in journal generations up to this one.
    ``was_used``: see ``SegmentIdentity``. ``in_job``: a flush that is being prepared covers bytes of it.
    ``log_start``: what its marks state of the log. ``is_sealed``: its marks state that the next one follows at ``end``.
    ``is_missing``: its file is not there; what it held reads as zeros, which is no batch.
    """

    __slots__ = (
        "_slot",
        "allocated",
        "allocated_at_flush",
        "base",
        "capacity",
        "dirty",
        "end",
        "file",
        "filling",
        "generation",
        "in_job",
        "is_missing",
        "is_sealed",
        "is_unnamed",
        "keep_open",
        "log_start",
        "mapped",
        "mapping",
        "name",
        "path",
        "place",
        "pins",
        "retired",
        "rewrite_generation",
        "rewrite_pending",
        "uid",
        "was_used",
    )

    def __init__(
        self, identity: SegmentIdentity, path: str, *, is_unnamed: bool, allocated: int, capacity: int
    ) -> None:
        self.name = identity.name
        self.uid = identity.uid
        self.base = identity.base
        self.path = path
        self.place = encode_place(identity.uid, identity.base, identity.name)
        self.is_unnamed = is_unnamed
        self.allocated = allocated
        self.allocated_at_flush = -1
        self.capacity = max(capacity, allocated)
        self.end: int | None = None
        self.file: File | None = None
        self.mapping: Mapping | None = None
        self.mapped = 0
        self.retired: list[Mapping] = []
        self.pins = 0
        self.filling = False
        self.keep_open = False
        self.was_used = identity.was_used
        self.dirty = False
        self.in_job = False
        self.rewrite_pending = False
        self.rewrite_generation = 0
        self.generation = 0
        self.log_start = 0
        self.is_sealed = False
        self.is_missing = False
        self._slot = 0

    def at(self, position: int) -> int:
        """Position in the file of log position ``position``."""
        return position - self.base + HEADER_BYTES

    def next_extent(self, needed: int, first_bytes: int, extent_bytes_max: int) -> int:
        """How much to have allocated so that ``needed`` bytes fit: doubling, never beyond the capacity."""
        target = max(self.allocated, first_bytes)
        while target < needed:
            target += min(target, extent_bytes_max)
        return max(needed, min(target, self.capacity))

    def fill(self, file: File, target: int, needed: int) -> None:
        """Allocate zeros up to ``target`` bytes; a full disk is an error only if ``needed`` bytes do not fit."""
        while self.allocated < target:
            size = min(ZERO_PIECE_BYTES, target - self.allocated)
            try:
                write_zeros(file, HEADER_BYTES + self.allocated, HEADER_BYTES + self.allocated + size)
            except OSError as error:
                if not is_full(error):
                    raise
                if self.allocated >= needed:
                    return
                if self.allocated + size <= needed:
                    raise
                target = needed  # once more, with no byte ahead: what is needed may still fit
                continue
            self.allocated += size

    def write_mark(self, file: File, durable_end: int) -> None:
        """State that everything below ``durable_end`` was flushed. Called by the flusher, after a flush."""
        self._slot ^= 1  # the other sector: one that is torn leaves the mark before
        file.pwritev([self._mark(durable_end)], (1 + self._slot) * SECTOR_BYTES)

    def write_checkpoint_mark(self, file: File, durable_end: int) -> None:
        """State the same from the journal's proof, before the flush that makes this file prove it itself."""
        file.pwritev([self._mark(durable_end)], (1 + CHECKPOINT_SLOT) * SECTOR_BYTES)

    def write_all_marks(self, file: File, durable_end: int, closed_end: int | None = None) -> None:
        """Replace every mark, which also lowers it or states the exact end."""
        slot = self._mark(durable_end, closed_end).ljust(SECTOR_BYTES, b"\0")
        file.pwritev([slot * 3], SECTOR_BYTES)

    def seal(self, file: File) -> None:
        """State that the next segment follows at ``end``, once that one is on the disk under its name."""
        assert self.end is not None, "a segment that is followed by another ends"
        self.is_sealed = True
        self.write_mark(file, self.end)  # no higher: a later truncation lowers the marks of the last segment only

    def unseal(self, file: File, durable_end: int) -> None:
        """State that nothing follows any more, durably."""
        self.is_sealed = False
        self.write_all_marks(file, durable_end)
        file.flush()

    def _mark(self, durable_end: int, closed_end: int | None = None) -> bytes:
        next_base = self.end if self.is_sealed else None
        return encode_mark(
            self.uid, self.base, durable_end, self.log_start, closed_end=closed_end, continued_at=next_base
        )

    def write(self, file: File, buffers: Sequence[Buffer], position: int) -> None:
        """Write ``buffers`` at log position ``position``."""
        file.pwritev(buffers, position - self.base + HEADER_BYTES)

    def append(self, file: File, buffers: Sequence[Buffer], position: int, end: int) -> None:
        """Write ``buffers`` from log position ``position`` to ``end``, and the end mark behind them where it is due."""
        if self.was_used:
            buffers = [*buffers, _END_MARK[: self.base + self.allocated - end]]
        file.pwritev(buffers, position - self.base + HEADER_BYTES)

    def views_held(self) -> bool:
        """Whether somebody may still look at bytes of this file; only meaningful once the mapping is closed."""
        self.retired = [mapping for mapping in self.retired if mapping.held()]
        return self.mapping is not None or bool(self.retired)
