"""What both sides of a connection tell each other beside its streams: credit, and a goodbye. No I/O.

A control stream of each side, one way, carries records of 17 bytes: a kind, and two numbers of 8 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["ALL_HERE", "CREDIT", "GOODBYE", "WINDOW", "ControlRecord", "ControlRecords"]

CREDIT = 1
"""How much of a stream was consumed: its id, bytes."""
GOODBYE = 2
"""Nothing will be sent after what was sent: how many streams this side has opened."""
ALL_HERE = 3
"""The answer to a goodbye: all of those streams, to their ends, have arrived."""
WINDOW = 4
"""How far ahead of its reader the peer may be on each stream, in bytes; until it is told, 32 KiB."""
_RECORD = struct.Struct(">BQQ")


class ControlRecord(NamedTuple):
    """One record; what the numbers are is said at the kinds."""

    kind: int
    first: int
    second: int = 0

    def packed(self) -> bytes:
        """Return its bytes."""
        return _RECORD.pack(*self)


class ControlRecords:
    """Cuts what arrives on a control stream into records; holds less than one of them between two calls."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[ControlRecord]:
        """Yield the records that ``data`` completes. A kind may be unknown."""
        data = self._rest + data
        whole = len(data) - len(data) % _RECORD.size
        self._rest = data[whole:]
        for position in range(0, whole, _RECORD.size):
            yield ControlRecord(*_RECORD.unpack_from(data, position))
