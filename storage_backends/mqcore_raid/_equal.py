"""Making the copies of a log equal after a stop that was not clean.

Every copy holds what was acknowledged; above that a power cut may have left each with another part. One of them, the
source, is what the log holds from then on: the one that proves most, and of those the one with most behind it. Works on
copies given; who leaves over an error is the caller's to decide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from mqcore.abc import Log
from mqcore.errors import CorruptionError, StorageError
from mqcore_raid._background import Background
from mqcore_raid._member import ArrayMember

__all__ = ["PIECE_BYTES", "choose_source", "common_length", "make_equal", "read_range", "warm_copies"]

PIECE_BYTES = 1024 * 1024


def choose_source(copies: Mapping[ArrayMember, Log]) -> ArrayMember | None:
    """The member whose copy proves most; None when all copies state the same, whole end."""
    ends = {(log.end, log.durable_end) for log in copies.values()}
    if len(copies) < 2 or (len(ends) == 1 and all(end == durable for end, durable in ends)):
        return None

    def worth(member: ArrayMember) -> tuple[int, bool, int, int]:
        log = copies[member]
        return log.durable_end, log.end == log.durable_end, log.end, -member.slot

    return max(copies, key=worth)


async def read_range(log: Log, position: int, size: int) -> bytes:
    """``size`` bytes of ``log`` at ``position``, fewer where it ends. Raises ``StorageError``, ``ValueError``."""
    end = min(position + size, log.end)
    pieces = []
    while position < end:
        piece = bytes(await log.read(position, end - position))
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


async def warm_copies(copies: Sequence[Log], position: int, size: int) -> None:
    """Read a range of every copy side by side, each on a disk of its own, into the page cache; errors are ignored."""

    async def look(log: Log) -> None:
        at, end = position, min(position + size, log.end)
        with contextlib.suppress(StorageError, CorruptionError, OSError, ValueError):
            while at < end:  # a read ends where a segment does
                at += len(await log.read(at, end - at)) or end

    async with trio.open_nursery() as nursery:
        for log in copies:
            if log.start <= position < log.end:
                nursery.start_soon(look, log)


class _SourceFailed(Exception):
    """The copy that is the source cannot be read."""


async def make_equal(
    copies: dict[ArrayMember, Log], source: ArrayMember, end: int, background: Background
) -> dict[ArrayMember, str]:
    """Bring every copy to ``end`` with the source's bytes; return those that could not be, and why.

    One that had to be begun anew takes the place of the old one in ``copies``.
    """
    others = [member for member in copies if member is not source]
    best = copies[source]
    results = await background.run_all(
        [partial(other.during, _follow, best, copies[other], other, end) for other in others]
    )
    bad: dict[ArrayMember, str] = {}
    for member, result in zip(others, results, strict=True):
        if isinstance(result.error, _SourceFailed):
            bad[source] = str(result.error)
        elif not result.is_good:
            bad[member] = result.reason
        else:
            copies[member] = result.get()
    if source not in bad and best.end > end:
        (cut,) = await background.run_all([partial(source.during, best.truncate, end)])
        if cut.error is not None:
            bad[source] = str(cut.error)
    return bad


async def _follow(source: Log, other: Log, member: ArrayMember, end: int) -> Log:
    """Bring ``other`` to ``end`` with the bytes of ``source``; return it, or what stands in its place."""
    storage = member.storage
    assert storage is not None
    if source.start > other.end:
        # It was begun there, or trimmed, and this member had not got to it, or not durably, when the power went: what
        # it has lies below what the log holds.
        await storage.delete_log(source.name)
        other = await storage.begin_log(source.name, source.start)
    position = min(source.durable_end, other.durable_end, end)
    position = max(position, source.start, other.start)
    is_copying = False
    while position < end:
        try:
            wanted = await read_range(source, position, min(PIECE_BYTES, end - position))
        except (StorageError, CorruptionError, OSError) as error:
            raise _SourceFailed(str(error)) from error
        if not is_copying:
            found = await read_range(other, position, len(wanted))
            if found == wanted:
                position += len(wanted)
                continue
            same = common_length(found, wanted)
            if other.end > position + same:
                await other.truncate(position + same)
            position, wanted = position + same, wanted[same:]
            is_copying = True
        await other.append([wanted])
        position += len(wanted)
    if other.end > end:
        await other.truncate(end)
    if is_copying:
        await storage.flush([other])
    return other


def common_length(first: bytes, second: bytes) -> int:
    """Length of what two pieces begin with alike."""
    length = min(len(first), len(second))
    low, high = 0, length
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
