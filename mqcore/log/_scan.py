"""Checks stored batches one after the other, and finds the next whole one after damage.

``BatchScanner`` is sans-IO: it is fed bytes and feeds a ``LogState``. The functions below it read a ``Log`` of bytes. A
batch counts only if its form, its header checksum (seeded with the log's salt), its offset, its epoch and its body
checksum are all right; its size is believed only after its header checksum.
"""

from __future__ import annotations

import re

from crc32c import crc32c

from mqcore.abc import Log
from mqcore.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTES_KNOWN,
    HEADER_BYTES,
    MAGIC,
    PRODUCER_BYTES,
    VERSION,
    BatchHeader,
    plain_run,
    unpack_header,
)
from mqcore.errors import CorruptionError, StorageError
from mqcore.log._control import (
    ENDS,
    EPOCH,
    LOST,
    PRODUCERS,
    EpochFacts,
    Lost,
    ProducerEnd,
    control_kind,
    unpack_ends_batch,
    unpack_epoch_batch,
    unpack_lost_batch,
    unpack_producers_batch,
)
from mqcore.log._producer_bytes import KeptProducers
from mqcore.log._state import LogState
from mqcore.log._types import Damage

__all__ = [
    "WINDOW_BYTES",
    "BatchScanner",
    "check_body",
    "find_batch",
    "header_at",
    "intact_header",
    "locate_damage",
    "opening_of",
    "producers_in",
    "read_exactly",
    "read_whole",
    "scan_to",
]

WINDOW_BYTES = 1024 * 1024
SEALED_BYTES = HEADER_BYTES - 4
_MAGIC = re.compile(re.escape(MAGIC.to_bytes(4, "little")))


def intact_header(view: memoryview, salt: int, where: str) -> BatchHeader:
    """The header at the beginning of ``view`` if it was sealed for the log of ``salt``.

    Raises ``CorruptionError`` if not; ``StorageError`` (kind ``foreign``) for a header that another version wrote.
    """
    try:
        header = unpack_header(view, where)
    except CorruptionError:
        _refuse_other_version(view, salt, where)
        raise
    if header.header_checksum != crc32c(view[:SEALED_BYTES], salt):
        raise CorruptionError("header checksum does not match", where=where)
    return header


def _refuse_other_version(view: memoryview, salt: int, where: str) -> None:
    if len(view) < HEADER_BYTES or int.from_bytes(view[:4], "little") != MAGIC:
        return
    if int.from_bytes(view[SEALED_BYTES:HEADER_BYTES], "little") != crc32c(view[:SEALED_BYTES], salt):
        return
    found = f"batches of format version {view[4]}, this mqcore reads {VERSION}"
    if view[4] == VERSION:
        unknown = int.from_bytes(view[8:12], "little") & ~ATTRIBUTES_KNOWN
        if not unknown:
            return
        found = f"batches with attribute bits {unknown:#x}, which this mqcore does not know"
    raise StorageError(f"{where}: {found}; use the one that wrote them", kind="foreign")


def check_body(header: BatchHeader, batch: memoryview, where: str) -> None:
    """Raise ``CorruptionError`` unless the whole ``batch`` has the body that ``header`` was made for."""
    if crc32c(batch[HEADER_BYTES:], crc32c(batch[:PRODUCER_BYTES])) != header.body_checksum:
        raise CorruptionError("body checksum does not match", where=where)


def opening_of(
    header: BatchHeader, batch: memoryview, epoch: int, where: str, *, epoch_free: bool
) -> EpochFacts | None:
    """The reign that ``batch`` opens after batches of ``epoch``; None if it opens none.

    ``epoch_free``: what opened the batch's epoch may be gone. Raises ``CorruptionError`` for an epoch that goes back,
    or that nothing opened.
    """
    if header.epoch < epoch:
        raise CorruptionError("epoch goes back", where=where, expected=f"at least {epoch}", found=str(header.epoch))
    if header.epoch == epoch:
        return None
    if header.is_control and control_kind(batch) == EPOCH:
        facts = unpack_epoch_batch(batch, where)
        if facts.number != header.epoch:
            raise CorruptionError(
                "epoch batch of another epoch", where=where, expected=str(header.epoch), found=str(facts.number)
            )
        return facts
    if header.is_control and control_kind(batch) == LOST:
        opened = unpack_lost_batch(batch, where).opening
        if opened is not None and opened.number == header.epoch:
            return opened
    if not epoch_free:
        raise CorruptionError(f"epoch {header.epoch} was not opened", where=where)
    return None


def producers_in(header: BatchHeader, batch: memoryview, where: str) -> list[ProducerEnd] | KeptProducers | Lost | None:
    """What ``batch`` says of producers besides its own: who ended, a part of what was remembered, or that some of it is
    lost; None for nothing.

    Raises ``CorruptionError``.
    """
    if header.attributes & ATTRIBUTE_CONTROL:
        kind = control_kind(batch)
        if kind == ENDS:
            return unpack_ends_batch(batch, where)
        if kind == PRODUCERS:
            return unpack_producers_batch(batch, where)
        if kind == LOST:
            return unpack_lost_batch(batch, where)
    return None


class BatchScanner:
    """Feeds a ``LogState`` with every batch that follows it. ``invalid`` says why it stopped."""

    __slots__ = ("_salt", "_where", "batches", "invalid", "state")

    def __init__(self, state: LogState, salt: int, where: str) -> None:
        self.state = state
        self._salt = salt
        self._where = where
        self.invalid = ""
        self.batches = 0

    def feed(self, view: memoryview) -> int:
        """Take the batches in ``view``, which begins at ``state.end_position``.

        Returns how many bytes at the new end position are needed to go on: 0 when what is there is no batch.
        """
        state = self.state
        at = 0
        size = len(view)
        while size - at >= HEADER_BYTES:
            if not state.epoch_free:
                run = plain_run(view, at, salt=self._salt, offset=state.end_offset, epoch=state.epoch)
                if run.batches:
                    state.apply_run(run)
                    self.batches += len(run.batches)
                    at += run.size
                    continue
            try:
                header = intact_header(view[at : at + HEADER_BYTES], self._salt, self._where)
                if header.base_offset != state.end_offset:
                    raise CorruptionError(
                        "batch of another offset",
                        where=self._where,
                        expected=str(state.end_offset),
                        found=str(header.base_offset),
                    )
                # The size is believed only now: before its checksum it may be any bits, and ask for any memory.
                if size - at < header.size:
                    return header.size
                batch = view[at : at + header.size]
                check_body(header, batch, self._where)
                opening = None
                if header.epoch != state.epoch or state.epoch_free:
                    opening = opening_of(header, batch, state.epoch, self._where, epoch_free=state.epoch_free)
                told = producers_in(header, batch, self._where)
            except CorruptionError as error:
                self.invalid = str(error)
                return 0
            state.apply_stored(header, opening, told)
            self.batches += 1
            at += header.size
        return HEADER_BYTES


async def read_exactly(log: Log, position: int, size: int) -> memoryview:
    """Return ``size`` bytes at ``position``, joined from pieces where a segment ends; all of them are below ``end``."""
    view = await log.read(position, size)
    if len(view) >= size:
        return view
    pieces = [view]
    got = len(view)
    while got < size:
        view = await log.read(position + got, size - got)
        if not len(view):
            raise StorageError(
                f"log {log.name}: nothing to read at {position + got}", kind="io", position=position + got
            )
        pieces.append(view)
        got += len(view)
    return memoryview(b"".join(pieces))


async def read_whole(log: Log, position: int, size: int, wanted: int) -> memoryview:
    """Return up to ``size`` bytes at ``position``, at least ``wanted`` of them; all are below ``end``."""
    view = await log.read(position, size)
    return view if len(view) >= wanted else await read_exactly(log, position, wanted)


async def scan_to(log: Log, scanner: BatchScanner, end: int) -> None:
    """Scan from the state's end up to ``end`` or to the first byte that is no batch (then ``scanner.invalid``)."""
    state = scanner.state
    wanted = HEADER_BYTES
    scanner.invalid = ""
    while (left := end - state.end_position) > 0:
        if wanted > left:
            scanner.invalid = f"batch of {wanted} bytes cut short after {left}"
            return
        window = await read_whole(log, state.end_position, min(max(wanted, WINDOW_BYTES), left), wanted)
        wanted = scanner.feed(window)
        if wanted == 0:
            return


async def find_batch(
    log: Log, position: int, end: int, *, salt: int, offset_min: int, epoch_min: int
) -> tuple[int, BatchHeader] | None:
    """Find the first whole batch of this log at or after ``position``, ending at or before ``end``.

    It must be sealed for this log, begin at ``offset_min`` or later, in epoch ``epoch_min`` or later, and be whole:
    copies of older batches inside a payload are no match.
    """
    while end - position >= HEADER_BYTES:
        window = await read_whole(log, position, min(WINDOW_BYTES, end - position), HEADER_BYTES)
        last = len(window) == end - position
        for match in _MAGIC.finditer(window):
            at = position + match.start()
            header = await _candidate(log, at, end, salt)
            if header is not None and header.base_offset >= offset_min and header.epoch >= epoch_min:
                return at, header
        if last:
            return None
        position += len(window) - 3  # the magic may lie across two windows
    return None


async def _candidate(log: Log, at: int, end: int, salt: int) -> BatchHeader | None:
    header = await header_at(log, at, end, salt)
    if header is None:
        return None
    batch = await read_exactly(log, at, header.size)
    checksum = crc32c(batch[HEADER_BYTES:], crc32c(batch[:PRODUCER_BYTES]))
    return header if checksum == header.body_checksum else None


async def locate_damage(
    log: Log,
    position: int,
    *,
    salt: int,
    offset: int,
    epoch: int,
    text: str,
    search_end: int,
    boundary: tuple[int, int],
) -> Damage:
    """Return the damaged range that begins at ``position``, where a batch at ``offset`` should be.

    If only the body is bad, the header says what is lost. Else the range ends at the next whole batch before
    ``search_end``; else at ``boundary``, the (offset, position) from which the log goes on in any case.
    """
    header = await header_at(log, position, search_end, salt)
    if header is not None and header.base_offset == offset:
        return Damage(position, position + header.size, offset, offset + header.count, text)
    found = await find_batch(log, position + 1, search_end, salt=salt, offset_min=offset, epoch_min=epoch)
    if found is not None:
        return Damage(position, found[0], offset, found[1].base_offset, text)
    return Damage(position, boundary[1], offset, boundary[0], text)


async def header_at(log: Log, position: int, end: int, salt: int) -> BatchHeader | None:
    """The header at ``position`` if one of this log is there, and its whole batch lies below ``end``."""
    if end - position < HEADER_BYTES or position < log.start:
        return None
    try:
        header = intact_header(await read_exactly(log, position, HEADER_BYTES), salt, log.name)
    except CorruptionError:
        return None
    return header if header.size <= end - position else None
