"""What stands for a range that no node of a set has whole: batches of the same length, which can be copied (G12).

They take the offsets that are lost and open the reigns that were opened there, so that everything behind them stays
where it is. Pure. Must not know of files, nor why a range is given up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from mqcore.batch import HEADER_BYTES, pack_header, seal_body, stamp, unpack_header
from mqcore.log._control import pack_lost_batch
from mqcore.log._history import UNKNOWN_REIGN
from mqcore.log._types import EpochEntry, LogPoint

__all__ = ["NOBODY", "SentBy", "lost_batches"]

_COUNT_MAX = (1 << 32) - 1


class SentBy(NamedTuple):
    """Who sent a batch, and where its sequences begin; ``producer_id`` 0: that is not known, or nobody with an id."""

    producer_id: int
    producer_epoch: int
    first_sequence: int


NOBODY = SentBy(0, 0, 0)


def lost_batches(
    begin: LogPoint,
    end: LogPoint,
    history: Sequence[EpochEntry],
    *,
    salt: int,
    appended_ms: int,
    batch_bytes_max: int,
    sent_by: SentBy = NOBODY,
) -> bytes | None:
    """The batches to put from ``begin`` to ``end`` of the log of ``salt``; None where none can stand for what is lost.

    ``history``: of the log, oldest reign first. None of them is longer than ``batch_bytes_max``. ``appended_ms``: when
    what is lost was appended, as far as is known, in ms since 1970 UTC. ``sent_by``: whose all of it is, one batch, so
    that every copy knows a retry of it.
    """
    opened = [LogPoint(each.start_position, each.start_offset) for each in history]
    inside = [each for each in opened if begin.position < each.position < end.position]
    batches = bytearray()
    for first, following in pairwise((begin, *inside, end)):
        reigns = [each for each in history if each.start_position <= first.position]
        if not reigns or not 0 <= following.offset - first.offset <= _COUNT_MAX:
            return None
        reign, opening = reigns[-1], None
        if reign.start_position == first.position:
            if reign.reign_id == UNKNOWN_REIGN:
                return None  # who wrote there is not to be made up
            opening = reign.number, reign.reign_id
        offset, count = first.offset, following.offset - first.offset
        for size in _sizes(following.position - first.position, batch_bytes_max):
            try:
                batch = pack_lost_batch(size, count, opening)
            except ValueError:
                return None
            if count:
                batch[:HEADER_BYTES] = pack_header(unpack_header(batch)._replace(**sent_by._asdict()))
                seal_body(batch)
            head = memoryview(batch)[:HEADER_BYTES]
            stamp(head, base_offset=offset, epoch=reign.number, appended_ms=appended_ms, salt=salt)
            batches += batch
            offset, count, opening = following.offset, 0, None
    return bytes(batches)


def _sizes(total: int, size_max: int) -> Iterator[int]:
    """``total`` in parts of about one size, none above ``size_max``."""
    parts = -(-total // size_max)
    for part in range(parts):
        yield total * (part + 1) // parts - total * part // parts
