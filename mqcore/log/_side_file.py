"""Reading side files: what a recovery or a reconciliation kept aside, batch by batch, as far as it can be read.

Must not know who asks, nor what a topic is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs

from mqcore.abc import Log
from mqcore.batch import HEADER_BYTES, BatchHeader
from mqcore.errors import CorruptionError, StorageError
from mqcore.log._names import QUARANTINE_MARK, salt_of_name
from mqcore.log._scan import check_body, find_batch, intact_header, read_exactly

__all__ = ["SideFile", "read_side_file", "side_file_batches"]

_TITLE_BYTES_MAX = 64 * 1024


@attrs.frozen(kw_only=True)
class SideFile:
    """A side file: what it says of itself, and what can be read of it.

    ``log``: the log that it was cut from; ``epoch`` and ``position``: where. ``begin`` to ``end`` are the byte
    positions of what it holds: batches with ``messages``, from offset ``first_offset`` to ``end_offset`` (not
    included), and ``unreadable_bytes`` before, between or behind them. ``facts``: everything that it says of itself.
    """

    name: str
    log: str
    epoch: int
    position: int
    begin: int
    end: int
    unreadable_bytes: int
    messages: int
    first_offset: int
    end_offset: int
    facts: Mapping[str, object]


async def read_side_file(log: Log) -> SideFile:
    """Return what ``log``, an open side file, holds; everything in it is read. Raises ``StorageError``."""
    main, epoch, position = _parsed_name(log.name)
    facts, begin = await _title(log)
    messages, first, following, readable = 0, 0, 0, 0
    walk = _Walk(log, main, begin)
    while (found := await walk.next_batch()) is not None:
        header, _ = found
        if not header.is_control:
            first = first if messages else header.base_offset
            messages += header.count
            following = header.end_offset
        readable += header.size
    return SideFile(
        name=log.name,
        log=main,
        epoch=epoch,
        position=position,
        begin=begin,
        end=log.end,
        unreadable_bytes=log.end - begin - readable,
        messages=messages,
        first_offset=first,
        end_offset=following,
        facts=facts,
    )


async def side_file_batches(log: Log, position: int, bytes_max: int) -> tuple[list[bytes], int | None]:
    """Return whole batches from ``position`` (0: the first one), as many as fit, and where to go on; None: at the end.

    One batch is returned even if it is larger; what has rotted between two is passed over. Raises ``StorageError``
    (kind ``missing``) where no batch begins.
    """
    main, _, _ = _parsed_name(log.name)
    _, begin = await _title(log)
    if position > begin and position < log.end and await _batch_at(log, position, main) is None:
        raise StorageError(f"side file {log.name}: no batch begins at {position}", kind="missing", position=position)
    walk = _Walk(log, main, max(position, begin))
    batches: list[bytes] = []
    size = 0
    while (found := await walk.next_batch()) is not None:
        header, at = found
        if batches and size + header.size > bytes_max:
            return batches, at
        batches.append(bytes(await read_exactly(log, at, header.size)))
        size += header.size
    return batches, None


class _Walk:
    """The whole batches of a side file of the log ``main``, in order from ``at``; the rest is passed over."""

    def __init__(self, log: Log, main: str, at: int) -> None:
        self._log = log
        self._main = main
        self._at = at
        self._offset = self._epoch = 0

    async def next_batch(self) -> tuple[BatchHeader, int] | None:
        """The next batch and its position; None for no further one."""
        log, at, salt = self._log, self._at, salt_of_name(self._main)
        header = await _batch_at(log, at, self._main)
        if header is None and salt is not None:
            found = await find_batch(log, at + 1, log.end, salt=salt, offset_min=self._offset, epoch_min=self._epoch)
            if found is not None:
                at, header = found
        if header is None:
            return None
        self._at, self._offset, self._epoch = at + header.size, header.end_offset, header.epoch
        return header, at


async def _batch_at(log: Log, position: int, main: str) -> BatchHeader | None:
    salt = salt_of_name(main)
    if salt is None or log.end - position < HEADER_BYTES:
        return None
    try:
        header = intact_header(await read_exactly(log, position, HEADER_BYTES), salt, log.name)
        if header.size > log.end - position:
            return None
        check_body(header, await read_exactly(log, position, header.size), log.name)
    except CorruptionError:
        return None
    return header


async def _title(log: Log) -> tuple[Mapping[str, object], int]:
    """What the first line says, and where the bytes begin; a file without such a line is all bytes."""
    head = bytes(await read_exactly(log, log.start, min(log.end - log.start, _TITLE_BYTES_MAX)))
    line, newline, _ = head.partition(b"\n")
    try:
        facts = json.loads(line) if newline else None
    except ValueError:
        facts = None
    return (facts, log.start + len(line) + 1) if isinstance(facts, dict) else ({}, log.start)


def _parsed_name(name: str) -> tuple[str, int, int]:
    main, mark, rest = name.partition(QUARANTINE_MARK)
    numbers = rest.split("-")
    if not mark or len(numbers) not in (2, 3) or not all(each.isdigit() for each in numbers):
        raise StorageError(f"{name!r} is not the name of a side file", kind="missing")
    return main, int(numbers[0]), int(numbers[1])
