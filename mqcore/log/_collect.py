"""Collects what one read returns: whole batches, checked, out of windows of the log. Sans-IO."""

from __future__ import annotations

from contextlib import suppress

from crc32c import crc32c

from mqcore.batch import ATTRIBUTE_CONTROL, HEADER_BYTES, PRODUCER_BYTES, BatchHeader, tags_in, whole_batches
from mqcore.errors import CorruptionError
from mqcore.log._control import LOST, control_kind
from mqcore.log._scan import check_body, intact_header
from mqcore.log._state import LOST_TEXT
from mqcore.log._types import ReadResult, StoredBatches

__all__ = ["LOOKED_BYTES_MAX", "WALK_BYTES_MAX", "BatchCollector", "stored_batches"]

LOOKED_BYTES_MAX = 4 * 1024 * 1024
"""Bytes that one read with tags looks at: then others have their turn, however little of it was asked for."""
WALK_BYTES_MAX = 256 * 1024
"""Largest window of a read that does not know how much of it is wanted."""


class BatchCollector:
    """Batches from the one that contains ``offset``, below ``limit``, at least one, else at most ``bytes_max`` bytes.

    Control batches are passed over; neighbours share a chunk. ``invalid`` says why it stopped at
    ``position``, where no batch is, or not the one that must be.

    With ``tags`` a batch that has none of them is passed over too, after the same checks; it stops when it has looked
    at ``LOOKED_BYTES_MAX``, and before a batch of another reign than the first: so one ``epoch`` says what was read.
    """

    __slots__ = (
        "_bytes_max",
        "_tags",
        "_limit",
        "_offset",
        "_salt",
        "_where",
        "chunks",
        "epoch",
        "invalid",
        "next_offset",
        "passed_bytes",
        "position",
        "size",
    )

    def __init__(
        self,
        offset: int,
        position: int,
        limit: int,
        bytes_max: int,
        salt: int,
        where: str,
        tags: frozenset[bytes] | None = None,
    ) -> None:
        self._offset = offset
        self.next_offset = offset
        self.position = position
        self.chunks: list[memoryview] = []
        self.size = 0
        self.invalid = ""
        self.epoch = 0
        self.passed_bytes = 0
        self._tags = tags
        self._limit = limit
        self._bytes_max = bytes_max
        self._salt = salt
        self._where = where

    @property
    def wanted_bytes(self) -> int:
        """How many bytes to read next; the window may be shorter."""
        if self._tags is not None:  # how much of it will be passed over is not known
            return WALK_BYTES_MAX
        return max(self._bytes_max - self.size, HEADER_BYTES)

    @property
    def result(self) -> ReadResult:
        """What was collected."""
        return ReadResult(self.chunks, self.size, self.next_offset, self.epoch, self.passed_bytes)

    def feed(self, view: memoryview) -> int:
        """Collect from ``view``, which begins at ``position``; return how many bytes are needed there, 0 when done."""
        begin = at = 0
        size = len(view)
        wanted = 0
        tags = self._tags
        try:
            while self.next_offset < self._limit:
                if size - at < HEADER_BYTES:
                    wanted = HEADER_BYTES
                    break
                head = view[at : at + HEADER_BYTES]
                header = intact_header(head, self._salt, self._where)
                base_offset, batch_bytes = header.base_offset, header.size
                following = base_offset == self.next_offset
                if not following and (self.size or not base_offset < self.next_offset < header.end_offset):
                    raise CorruptionError(f"batch at offset {base_offset}", where=self._where)
                if header.end_offset > self._limit:  # a batch is committed as a whole or not at all
                    break
                is_more = self.next_offset > self._offset if tags is None else self.size
                if is_more and self.size + batch_bytes > self._bytes_max:
                    break
                if size - at < batch_bytes:
                    wanted = batch_bytes
                    break
                body = view[at + HEADER_BYTES : at + batch_bytes]
                if crc32c(body, crc32c(head[:PRODUCER_BYTES])) != header.body_checksum:
                    raise CorruptionError("body checksum does not match", where=self._where)
                is_control = header.attributes & ATTRIBUTE_CONTROL
                if is_control and header.count and control_kind(view[at : at + batch_bytes]) == LOST:
                    raise CorruptionError(LOST_TEXT, where=self._where)
                if not is_control:
                    if tags is not None and self._ends_before(header):
                        break
                    self.epoch = header.epoch
                # Left out by cutting the chunk around it, so that what is served stays a view of the stored bytes.
                if is_control:
                    self._chunk(view, begin, at)
                    begin = at + batch_bytes
                elif tags is not None and self._is_passed(view[at : at + batch_bytes], header, tags):
                    self._chunk(view, begin, at)
                    begin = at + batch_bytes
                    self.passed_bytes += batch_bytes
                else:
                    self.size += batch_bytes
                self.next_offset = header.end_offset
                at += batch_bytes
        except CorruptionError as error:
            self.invalid = str(error)
        self._chunk(view, begin, at)
        self.position += at
        return wanted

    def _ends_before(self, header: BatchHeader) -> bool:
        if self.next_offset == self._offset:
            return False
        return header.epoch != self.epoch or self.size + self.passed_bytes + header.size > LOOKED_BYTES_MAX

    def _is_passed(self, batch: memoryview, header: BatchHeader, tags: frozenset[bytes]) -> bool:
        """Whether a batch has none of ``tags``. One that does not say what it has is not passed over."""
        found = tags_in(batch, header)
        return found is not None and tags.isdisjoint(found)

    def _chunk(self, view: memoryview, begin: int, end: int) -> None:
        if end > begin:
            self.chunks.append(view[begin:end])


def stored_batches(window: memoryview, position: int, *, salt: int, where: str, is_checked: bool) -> StoredBatches:
    """Return what of ``window``, which begins at ``position``, is whole batches, up to the first damage.

    Not ``is_checked``: only the last header is looked at, which is where sizes that are right have led. Raises
    ``CorruptionError`` where no batch stands at the beginning.
    """
    whole, last = (0, 0) if is_checked else whole_batches(window)
    if whole:
        with suppress(CorruptionError):
            header = intact_header(window[last : last + HEADER_BYTES], salt, where)
            return StoredBatches([window[:whole]], position + whole, header.end_offset)
    at, next_offset = 0, -1
    while len(window) - at >= HEADER_BYTES:
        try:
            header = intact_header(window[at : at + HEADER_BYTES], salt, where)
            if header.size > len(window) - at:
                break
            check_body(header, window[at : at + header.size], where)
        except CorruptionError:
            if not at:
                raise
            break  # what stands before the damage is whole
        at += header.size
        next_offset = header.end_offset
    return StoredBatches([window[:at]] if at else [], position + at, next_offset)
