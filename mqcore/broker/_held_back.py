"""Sends that wait, un-appended, until the set has enough nodes (guarantees, section 1, ``block``): in order, bounded.

Must not know of logs, nor when they may go.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.broker._sends import Send

__all__ = ["HeldBack"]

_HELD_BACK_MAX = 65_536
_HELD_BACK_COST = 1_024
"""Bytes that a send costs beside its batch, about."""
_HELD_BACK_DUE_MIN = 4 * 1024 * 1024
"""Bytes held back before those of clients that are gone are looked for."""


class HeldBack:
    """The sends of one partition that are held back. True while there are any; its length is their number."""

    __slots__ = ("_bytes", "_due", "_sends")

    def __init__(self) -> None:
        self._sends: list[Send] = []
        self._bytes = 0
        self._due = _HELD_BACK_DUE_MIN

    def __len__(self) -> int:
        return len(self._sends)

    def keep(self, sends: Sequence[Send]) -> list[Send]:
        """Keep ``sends``; return those for which there is no room. One-way ones go."""
        # One-way sends have no credit that bounds them, nor any promise: they go.
        sends = [send for send in sends if send.sink is not None]
        self._bytes += _size_of(sends)
        if self._bytes >= self._due:
            # Of a client that is gone nothing is kept: it has sent again elsewhere, or will; and what one that lives
            # has under way is bounded by its credit. Not looked for each time: a set that lacks a node would spend its
            # time on that.
            self._sends = [send for send in self._sends if send.sink is not None and not send.sink.closed]
            self._bytes = _size_of(self._sends) + _size_of(sends)
            self._due = max(_HELD_BACK_DUE_MIN, 2 * self._bytes)
        room = _HELD_BACK_MAX - len(self._sends)
        # Copied: the bytes are the connection's receive buffer, which the next read overwrites.
        self._sends += [send._replace(batch=send.batch._replace(data=bytes(send.batch.data))) for send in sends[:room]]
        return sends[room:]

    def take(self) -> list[Send]:
        """Return all of them, in order; none is held back then."""
        sends, self._sends, self._bytes = self._sends, [], 0
        return sends


def _size_of(sends: Sequence[Send]) -> int:
    return sum(send.batch.header.size + _HELD_BACK_COST for send in sends)
