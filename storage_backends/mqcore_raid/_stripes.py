"""Where each byte of a striped log lies: units of a log in turn on each mirror group. Pure.

A unit of ``stripe_bytes`` is followed, on its group, by a seal of ``SEAL_BYTES``. It is written once the unit's last
bytes were flushed, so that the flush that covers the next unit touches this group too: that makes durable what the
flush before proved here. A group's first unit depends on the log's name, so that logs begin on different groups.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import attrs
from crc32c import crc32c

__all__ = ["SEAL_BYTES", "Stripes", "encode_seal"]

_SEAL = struct.Struct("<4sQI")
SEAL_BYTES = _SEAL.size
_MAGIC = b"MQRU"


def encode_seal(unit: int) -> bytes:
    """The bytes behind a whole unit."""
    head = _SEAL.pack(_MAGIC, unit, 0)[:-4]
    return head + struct.pack("<I", crc32c(head))


@attrs.frozen
class Stripes:
    """``groups`` mirror groups, of which number ``first`` has unit 0."""

    stripe_bytes: int
    groups: int
    first: int

    @classmethod
    def of(cls, name: str, stripe_bytes: int, groups: int) -> Stripes:
        """The stripes of the log called ``name``."""
        return cls(stripe_bytes, groups, crc32c(name.encode()) % groups)

    def group_of(self, unit: int) -> int:
        """Number of the group that has ``unit``."""
        return (unit + self.first) % self.groups

    def begin(self, unit: int) -> int:
        """Position of ``unit`` on its group."""
        return unit // self.groups * (self.stripe_bytes + SEAL_BYTES)

    def next_unit(self, group: int, unit: int) -> int:
        """The first unit from ``unit`` on that ``group`` has."""
        return unit + (group - self.group_of(unit)) % self.groups

    def pieces(self, position: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Unit, offset in it and size of each piece of a range of the log."""
        while size > 0:
            unit, offset = divmod(position, self.stripe_bytes)
            piece = min(size, self.stripe_bytes - offset)
            yield unit, offset, piece
            position += piece
            size -= piece

    def local(self, group: int, position: int) -> int:
        """Where on ``group`` that part of the log begins which lies at ``position`` or above."""
        unit, offset = divmod(position, self.stripe_bytes)
        if self.group_of(unit) == group:
            return self.begin(unit) + offset
        return self.begin(self.next_unit(group, unit))

    def _unit_at(self, group: int, local: int) -> tuple[int, int]:
        """Unit and offset of a position on ``group``; behind a unit's last byte, the next unit and 0."""
        turn, offset = divmod(local, self.stripe_bytes + SEAL_BYTES)
        unit = turn * self.groups + (group - self.first) % self.groups
        return (unit, offset) if offset < self.stripe_bytes else (unit + self.groups, 0)

    def whole_below(self, ends: Sequence[int]) -> int:
        """Position of the log below which nothing lacks, where the groups hold everything below ``ends``."""
        at = (self._unit_at(group, end) for group, end in enumerate(ends))
        return min(unit * self.stripe_bytes + offset for unit, offset in at)

    def reach(self, ends: Sequence[int]) -> int:
        """Position after the last byte that any group holds below its end."""
        return max(self._behind(group, end) for group, end in enumerate(ends))

    start = reach
    """Position of the log from which on nothing lacks, where the groups hold everything from so far on."""

    def _behind(self, group: int, local: int) -> int:
        unit, offset = self._unit_at(group, local)
        if offset:
            return unit * self.stripe_bytes + offset
        return max(0, (unit - self.groups + 1) * self.stripe_bytes)
