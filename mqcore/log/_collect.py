"""Collects what one read returns: whole batches, checked, out of windows of the log. Sans-IO."""

from __future__ import annotations

from contextlib import suppress

from crc32c import crc32c

from mqcore.batch import ATTRIBUTE_CONTROL, HEADER_BYTES, PRODUCER_BYTES, whole_batches
from mqcore.errors import CorruptionError
from mqcore.log._scan import check_body, intact_header
from mqcore.log._types import StoredBatches

__all__ = ["BatchCollector", "stored_batches"]


class BatchCollector:
    """Batches from the one that contains ``offset``, below ``limit``, at least one, else at most ``bytes_max`` bytes.

    Control batches are passed over; neighbours share a chunk. ``invalid`` says why it stopped at
    ``position``, where no batch is, or not the one that must be.
    """

    __slots__ = (
        "_bytes_max",
        "_limit",
        "_offset",
        "_salt",
        "_where",
        "chunks",
        "invalid",
        "next_offset",
        "position",
        "size",
    )

    def __init__(self, offset: int, position: int, *, limit: int, bytes_max: int, salt: int, where: str) -> None:
        self._offset = offset
        self.next_offset = offset
        self.position = position
        self.chunks: list[memoryview] = []
        self.size = 0
        self.invalid = ""
        self._limit = limit
        self._bytes_max = bytes_max
        self._salt = salt
        self._where = where

    @property
    def wanted_bytes(self) -> int:
        """How many bytes to read next; the window may be shorter."""
        return max(self._bytes_max - self.size, HEADER_BYTES)

    def feed(self, view: memoryview) -> int:
        """Collect from ``view``, which begins at ``position``; return how many bytes are needed there, 0 when done."""
        begin = at = 0
        size = len(view)
        wanted = 0
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
                if self.next_offset > self._offset and self.size + batch_bytes > self._bytes_max:
                    break
                if size - at < batch_bytes:
                    wanted = batch_bytes
                    break
                body = view[at + HEADER_BYTES : at + batch_bytes]
                if crc32c(body, crc32c(head[:PRODUCER_BYTES])) != header.body_checksum:
                    raise CorruptionError("body checksum does not match", where=self._where)
                # Left out by cutting the chunk around it, so that what is served stays a view of the stored bytes.
                if header.attributes & ATTRIBUTE_CONTROL:
                    self._chunk(view, begin, at)
                    begin = at + batch_bytes
                else:
                    self.size += batch_bytes
                self.next_offset = header.end_offset
                at += batch_bytes
        except CorruptionError as error:
            self.invalid = str(error)
        self._chunk(view, begin, at)
        self.position += at
        return wanted

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
