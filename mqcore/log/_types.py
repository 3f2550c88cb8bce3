"""Values that go in and out of the log: batches, read results, damaged ranges, epoch history entries.

Pure values. Must not know of storage backends, of recovery or of trio.
"""

from __future__ import annotations

from typing import NamedTuple

from mqcore.batch import BatchHeader
from mqcore.errors import CorruptionError, MqcoreError
from mqcore.ports import Buffer

__all__ = [
    "BelowStartError",
    "DamagedRangeError",
    "Damage",
    "EpochEntry",
    "IncomingBatch",
    "LogPoint",
    "NOWHERE",
    "ReadResult",
    "StoredBatches",
]


class IncomingBatch(NamedTuple):
    """A batch as it was received: its header, and ``data``, all of its bytes (header included)."""

    header: BatchHeader
    data: Buffer


class ReadResult(NamedTuple):
    """What a read returns: ``chunks`` hold whole batches one after the other, untouched.

    ``size`` counts their bytes. ``next_offset`` is where the next read goes on; it is the offset asked for when
    there is nothing to read yet. ``epoch``: of the last batch that was looked at, 0 for none; ``passed_bytes``: of the
    batches that were passed over because they have none of the tags asked for.
    """

    chunks: list[memoryview]
    size: int
    next_offset: int
    epoch: int = 0
    passed_bytes: int = 0


class StoredBatches(NamedTuple):
    """Whole batches as they are stored, control batches included, one after the other in ``chunks``.

    ``next_position`` is where the next read goes on, ``next_offset`` the offset after the last of them (-1 if none).
    """

    chunks: list[memoryview]
    next_position: int
    next_offset: int


class LogPoint(NamedTuple):
    """A place between two batches of a log: its position, and the offset that the next message there has."""

    position: int
    offset: int


NOWHERE = LogPoint(0, 0)
"""Where every log began: what is known to be there when nothing is."""


class EpochEntry(NamedTuple):
    """One reign in the history of a log: its number, its 16-byte id, and where its first batch stands.

    ``reign_id`` is 16 zero bytes when the epoch batch itself is gone (trimmed, and the sidecar lost).
    """

    number: int
    reign_id: bytes
    start_position: int
    start_offset: int


class Damage(NamedTuple):
    """A range of a log whose bytes are not batches any more: positions, and the offsets that it takes with it.

    ``is_given_up``: no node had it whole, and a batch that says so stands there.
    """

    position: int
    end_position: int
    first_offset: int
    next_offset: int
    text: str
    is_given_up: bool = False

    @property
    def place(self) -> str:
        """Which bytes, and which offsets if it takes any, in words."""
        where = f"bytes {self.position} to {self.end_position}"
        if self.next_offset <= self.first_offset:
            return where
        return f"{where}, offsets {self.first_offset} to {self.next_offset - 1},"


class DamagedRangeError(CorruptionError):
    """Offsets ``first_offset`` up to, not including, ``next_offset`` cannot be read (clause G12).

    A reader can go on at ``next_offset``. ``position`` and ``end_position`` say where in the log the damage lies.
    """

    def __init__(self, log_name: str, damage: Damage) -> None:
        super().__init__(
            f"offsets {damage.first_offset} to {damage.next_offset - 1} are damaged ({damage.text}); "
            f"reading can go on at {damage.next_offset}",
            where=f"log {log_name}, bytes {damage.position} to {damage.end_position}",
        )
        self.log_name = log_name
        self.first_offset = damage.first_offset
        self.next_offset = damage.next_offset
        self.position = damage.position
        self.end_position = damage.end_position


class BelowStartError(MqcoreError):
    """An offset below the log's start: retention has taken it. ``start_offset`` is the first that is left."""

    def __init__(self, log_name: str, offset: int, start_offset: int) -> None:
        super().__init__(f"log {log_name}: offset {offset} is gone, the first one kept is {start_offset}")
        self.offset = offset
        self.start_offset = start_offset
