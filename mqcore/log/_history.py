"""Epoch history of one log (rules R3, R5): which reign wrote which part. Pure; 40 bytes per reign.

Rebuilt from the log's epoch batches; survives trimming. Must not know of storage or of who reigns.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from mqcore.log._types import NOWHERE, EpochEntry, LogPoint
from mqcore.ports import Buffer

__all__ = ["UNKNOWN_REIGN", "EpochHistory", "divergence_of_histories"]

UNKNOWN_REIGN = bytes(16)
"""Id of a reign whose epoch batch is gone."""

_ENTRY = struct.Struct("<Q16sQQ")


class EpochHistory:
    """Reigns in order; numbers rise, positions and offsets do not fall."""

    __slots__ = ("_ids", "_numbers", "_offsets", "_positions")

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._ids = bytearray()
        self._positions = array("Q")
        self._offsets = array("Q")

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def last_number(self) -> int:
        """Number of the last reign; 0 when there is none."""
        return self._numbers[-1] if self._numbers else 0

    @property
    def last_id(self) -> bytes:
        """Id of the last reign; ``UNKNOWN_REIGN`` when there is none."""
        return bytes(self._ids[-16:]) if self._ids else UNKNOWN_REIGN

    def note(self, number: int, reign_id: bytes, position: int, offset: int) -> None:
        """Take in the beginning of a reign. Raises ``ValueError`` unless its number is higher than the last."""
        if number <= self.last_number:
            raise ValueError(f"epoch {number} does not follow {self.last_number}")
        self._numbers.append(number)
        self._ids += reign_id
        self._positions.append(position)
        self._offsets.append(offset)

    def learn(self, number: int, reign_id: bytes, position: int, offset: int) -> None:
        """Take in what opened a reign of which only the number was known; no effect on one that is known."""
        at = bisect_left(self._numbers, number)
        ids = slice(16 * at, 16 * at + 16)
        if number in self._numbers[at : at + 1] and self._ids[ids] == UNKNOWN_REIGN:
            self._ids[ids] = reign_id
            self._positions[at], self._offsets[at] = position, offset

    def entries(self) -> list[EpochEntry]:
        """All reigns, oldest first."""
        ids = [bytes(self._ids[at : at + 16]) for at in range(0, len(self._ids), 16)]
        return list(map(EpochEntry, self._numbers, ids, self._positions, self._offsets))

    def number_at(self, offset: int) -> int:
        """Number of the reign that wrote the batch at ``offset``; 0 before the first."""
        at = bisect_right(self._offsets, offset) - 1
        return self._numbers[at] if at >= 0 else 0

    def divergence(self, offset: int, number: int, end_offset: int) -> int | None:
        """Where the history of a reader at (``offset``, ``number``) leaves this one; None if it does not.

        ``number`` is the epoch of the last batch that was read before ``offset``. A reign that wrote nothing here
        diverges at the end of the last lower one, or at ``offset`` if that is less.
        """
        after = bisect_right(self._numbers, number)
        end = self._offsets[after] if after < len(self._offsets) else end_offset
        at = bisect_left(self._numbers, number)
        known = at < len(self._numbers) and self._numbers[at] == number
        if not known:
            return min(offset, end)
        if offset <= end or after == len(self._offsets):
            return None
        return end

    def number_up_to(self, number: int) -> int:
        """The highest reign that wrote here and is not above ``number``; 0 for none."""
        at = bisect_right(self._numbers, number)
        return self._numbers[at - 1] if at else 0

    def trim(self, position: int, keep_max: int) -> None:
        """Forget the oldest reigns that lie wholly below ``position``, but for ``keep_max`` of them."""
        below = bisect_right(self._positions, position) - 1
        drop = below - keep_max
        if drop > 0:
            del self._ids[: 16 * drop]
            for column in (self._numbers, self._positions, self._offsets):
                del column[:drop]

    def pack(self) -> bytes:
        """All entries as bytes."""
        return b"".join(_ENTRY.pack(*entry) for entry in self.entries())

    @classmethod
    def unpack(cls, data: Buffer) -> EpochHistory:
        """The history that ``pack`` wrote. Raises ``ValueError`` or ``struct.error`` when the bytes are not one."""
        history = cls()
        for number, reign_id, position, offset in _ENTRY.iter_unpack(data):
            history.note(number, reign_id, position, offset)
        return history


def divergence_of_histories(
    mine: Sequence[EpochEntry], my_end: LogPoint, others: Sequence[EpochEntry], others_end: LogPoint
) -> LogPoint:
    """Where two logs, each given by its history and its end, begin to differ; the end of the shorter if they do not.

    Below the point both hold the same bytes. They do up to the end of the last reign that both have with the same
    number, id and start, for a reign is written by one node only, on one log before it (R3, R5). It is ``(0, 0)``
    where they have no reign in common.
    """
    place_of = {entry: place for place, entry in enumerate(others)}
    for place in range(len(mine) - 1, -1, -1):
        entry = mine[place]
        # An unknown id proves nothing: two reigns whose epoch batches are gone look alike.
        other_place = place_of.get(entry) if entry.reign_id != UNKNOWN_REIGN else None
        if other_place is not None:
            return min(_end_of(mine, place, my_end), _end_of(others, other_place, others_end))
    return NOWHERE


def _end_of(history: Sequence[EpochEntry], place: int, end: LogPoint) -> LogPoint:
    if place + 1 == len(history):
        return end
    following = history[place + 1]
    return LogPoint(following.start_position, following.start_offset)
