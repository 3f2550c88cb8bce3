"""Cursors: how far each group has read each partition, and the records that say so in a log (clause G16). Pure.

A cursor is (offset, epoch): the offset of the next message, and the epoch of the one before it. Records are absolute,
the later one holds, so that a snapshot is nothing but records of everything that there is; a log of them is read from
its start, whatever was trimmed below a whole snapshot.

A record: kind u8, length of the group's name u8, topic id 16 bytes, number u32, the name, and for cursors three columns
of ``number`` entries: partition u32, offset u64, epoch u64; little-endian. By column, because a million of them are
then read with a few calls. Other kinds: *life* (``number``: the longest session of the group's members in ms, 0 when
there are none), *deleted*, *place*, of no group (``number`` 1: from here on cursors are kept in an offset store and
those before it count no more, where a topic's id would stand are the numbers of the last reign that left its mark there
and of the one that began with that store, u64 each; 0: they are kept in the log again, and there are none), and *name*,
which is about a producer and laid out as ``_producer_names`` says.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from mqcore.errors import CorruptionError
from mqcore.groups._producer_names import NAMED_BYTES, PRODUCER_NAME, ProducerNames
from mqcore.ports import Buffer

__all__ = [
    "CURSOR_BYTES",
    "NO_CURSOR",
    "CursorTable",
    "TopicCursors",
    "pack_cursors",
    "pack_deleted",
    "pack_life",
    "pack_place",
    "unpack_change",
]

_CURSORS = 1
_LIFE = 2
_DELETED = 3
_PLACE = 4

_KINDS = (_CURSORS, _LIFE, _DELETED, _PLACE, PRODUCER_NAME)

_HEAD = struct.Struct("<BB16sI")
_PLACE_REIGNS = struct.Struct("<QQ")
CURSOR_BYTES = 4 + 8 + 8
"""Of each cursor in a record."""
_ENTRY_BYTES = {_CURSORS: CURSOR_BYTES, PRODUCER_NAME: NAMED_BYTES}
NO_CURSOR = 2**64 - 1
"""The offset that stands for none."""
_ENTRIES_PER_RECORD = 2_000


class TopicCursors:
    """The cursors of one group in one topic: two columns by partition, 16 bytes a cursor.

    ``session_ms``: the longest session of the members that it had last, 0 when it had none.
    """

    __slots__ = ("count", "epochs", "offsets", "session_ms")

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.epochs = array("Q")
        self.session_ms = 0
        self.count = 0

    def get(self, partition: int) -> tuple[int, int] | None:
        """Return the cursor of a partition, its offset and epoch; None where there is none."""
        if partition >= len(self.offsets) or self.offsets[partition] == NO_CURSOR:
            return None
        return self.offsets[partition], self.epochs[partition]

    def clear(self) -> None:
        """Drop every cursor."""
        del self.offsets[:], self.epochs[:]
        self.count = 0

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Every cursor: partition, offset, epoch."""
        for partition, (offset, epoch) in enumerate(zip(self.offsets, self.epochs, strict=True)):
            if offset != NO_CURSOR:
                yield partition, offset, epoch

    def put(self, entries: Iterable[tuple[int, int, int]]) -> None:
        """Take in cursors: partition, offset, epoch."""
        offsets, epochs = self.offsets, self.epochs
        for partition, offset, epoch in entries:
            if partition >= len(offsets):
                more = partition + 1 - len(offsets)
                offsets.extend([NO_CURSOR] * more)
                epochs.extend([0] * more)
            self.count += (offsets[partition] == NO_CURSOR) - (offset == NO_CURSOR)
            offsets[partition] = offset
            epochs[partition] = epoch

    def put_columns(self, partitions: array[int], offsets: array[int], epochs: array[int]) -> None:
        """The same by column; those of neighbouring partitions at once."""
        size, first = len(partitions), partitions[0]
        if partitions != array("I", range(first, first + size)):
            self.put(zip(partitions, offsets, epochs, strict=True))
            return
        more = first + size - len(self.offsets)
        if more > 0:
            self.offsets.extend([NO_CURSOR] * more)
            self.epochs.extend([0] * more)
        self.count += self.offsets[first : first + size].count(NO_CURSOR) - offsets.count(NO_CURSOR)
        self.offsets[first : first + size] = offsets
        self.epochs[first : first + size] = epochs


class CursorTable:
    """All cursors of a broker, by group and topic id (16 bytes); and ``names``, of producers, kept beside them.

    ``partitions_max``: no record has a partition beyond it; what a damaged disk says is not believed. ``is_known`` is
    asked for a topic id: what records say of a topic that is not there (any more) is not taken in.
    """

    def __init__(self, partitions_max: int, is_known: Callable[[bytes], bool] = lambda topic_id: True) -> None:
        self.topics: dict[tuple[str, bytes], TopicCursors] = {}
        """Read it only."""
        self.names = ProducerNames(is_known)
        self.count = 0
        """How many cursors there are. Counted along: it is asked for with every commit."""
        self.is_elsewhere = False
        """Whether records say that cursors are kept in an offset store."""
        self.marked = 0
        """Number of the last reign that has its mark in that store, as far as records say; 0: none is known to."""
        self.since = 0
        """Number of the reign that began to keep cursors in that store; 0: it is not known."""
        self._heads_bytes = 0
        self.partitions_max = partitions_max
        self._is_known = is_known

    @property
    def snapshot_bytes(self) -> int:
        """About how large a snapshot is."""
        return self._heads_bytes + self.count * CURSOR_BYTES + self.names.snapshot_bytes

    def drop_topic(self, topic_id: bytes) -> None:
        """Drop what there is of a topic that was deleted."""
        self.names.drop_topic(topic_id)
        for key in [key for key in self.topics if key[1] == topic_id]:
            self._drop(key)

    def _drop(self, key: tuple[str, bytes]) -> None:
        cursors = self.topics.pop(key, None)
        if cursors is not None:
            self.count -= cursors.count
            self._heads_bytes -= _head_bytes(key[0])

    def apply(self, records: Buffer, where: str) -> None:
        """Take in the records of one batch. Raises ``CorruptionError``."""
        view = memoryview(records)
        at = 0
        while at < len(view):
            at = self._apply_one(view, at, where)

    def _apply_one(self, view: memoryview, at: int, where: str) -> int:
        if len(view) - at < _HEAD.size:
            raise CorruptionError("a record of cursors is cut short", where=where, found=f"{len(view) - at} bytes")
        kind, name_bytes, topic_id, number = _HEAD.unpack_from(view, at)
        begin: int = at + _HEAD.size + name_bytes
        end: int = begin + number * _ENTRY_BYTES.get(kind, 0)
        if end > len(view) or kind not in _KINDS:
            raise CorruptionError("not a record of cursors", where=where, found=f"kind {kind}, {number} entries")
        if kind == _PLACE:
            self.marked, self.since = _PLACE_REIGNS.unpack(topic_id)
            self._place(is_elsewhere=number == 1)
            return end
        try:
            group = str(view[at + _HEAD.size : begin], "utf-8")
        except UnicodeDecodeError:
            raise CorruptionError("the name of a group is not UTF-8", where=where) from None
        if kind == PRODUCER_NAME:
            if number > 1:
                raise CorruptionError("a record of several producers' names", where=where, found=str(number))
            self.names.apply(group, topic_id, view[begin:end], where)
            return end
        if kind == _DELETED:
            self._drop((group, topic_id))
            return end
        cursors = self.topics.get((group, topic_id))
        if cursors is None:
            cursors = TopicCursors()
            if self._is_known(topic_id):  # else it is checked as all records are, and forgotten
                self.topics[group, topic_id] = cursors
                self._heads_bytes += _head_bytes(group)
        if kind == _LIFE:
            cursors.session_ms = number
            return end
        if number:
            partitions = _column("I", view[begin : begin + 4 * number])
            if (highest := max(partitions)) >= self.partitions_max:
                raise CorruptionError("a cursor of a partition that no topic can have", where=where, found=str(highest))
            middle = begin + 12 * number
            offsets, epochs = _column("Q", view[begin + 4 * number : middle]), _column("Q", view[middle:end])
            before = cursors.count
            cursors.put_columns(partitions, offsets, epochs)
            if (group, topic_id) in self.topics:
                self.count += cursors.count - before
        return end

    def _place(self, *, is_elsewhere: bool) -> None:
        if is_elsewhere == self.is_elsewhere:
            return  # said again, with a later mark: what the store has told since stays
        self.is_elsewhere = is_elsewhere
        for cursors in self.topics.values():
            cursors.clear()
        self.count = 0

    def records(self) -> Iterator[bytes]:
        """Records of everything that there is, each of a bounded size; what changes meanwhile may be in them or not.

        Where cursors are kept elsewhere: of all but those.
        """
        yield from self.names.records()
        if self.is_elsewhere:
            yield pack_place(is_elsewhere=True, marked=self.marked, since=self.since)
        for (group, topic_id), cursors in list(self.topics.items()):
            entries = iter(()) if self.is_elsewhere else cursors.items()
            # Asked before each record: of what was deleted since, it would bring a part back.
            while self.topics.get((group, topic_id)) is cursors:
                part = list(islice(entries, _ENTRIES_PER_RECORD))
                if not part:
                    if cursors.session_ms or not cursors.count:
                        yield pack_life(group, topic_id, cursors.session_ms)
                    break
                yield pack_cursors(group, topic_id, part)


def pack_cursors(group: str, topic_id: bytes, entries: Iterable[tuple[int, int, int]]) -> bytes:
    """The record of some cursors: partition, offset, epoch."""
    columns = tuple(zip(*entries, strict=True)) or ((), (), ())
    body = b"".join(_bytes_of(array(kind, column)) for kind, column in zip("IQQ", columns, strict=True))
    return _pack(_CURSORS, group, topic_id, len(columns[0])) + body


def pack_life(group: str, topic_id: bytes, session_ms: int) -> bytes:
    """The record that says whether a group may have members, and how long their sessions are."""
    return _pack(_LIFE, group, topic_id, session_ms)


def pack_deleted(group: str, topic_id: bytes) -> bytes:
    """The record of the end of a group in one topic."""
    return _pack(_DELETED, group, topic_id, 0)


def pack_place(*, is_elsewhere: bool, marked: int = 0, since: int = 0) -> bytes:
    """The record of where cursors are kept from here on; those before it are not in the log any more.

    ``marked``: number of the reign that has its mark there, 0 for none. ``since``: of the one that began with it.
    """
    return _pack(_PLACE, "", _PLACE_REIGNS.pack(marked, since), int(is_elsewhere))


def unpack_change(record: bytes) -> tuple[str, bytes, list[tuple[int, int, int]] | None] | None:
    """What one record that was packed here changes of cursors: group, topic id, entries; None for the end of a group.

    None for a record of another kind.
    """
    kind, name_bytes, topic_id, number = _HEAD.unpack_from(record)
    if kind not in (_CURSORS, _DELETED):
        return None
    begin = _HEAD.size + name_bytes
    group = record[_HEAD.size : begin].decode()
    if kind == _DELETED:
        return group, topic_id, None
    view = memoryview(record)[begin:]
    columns = (view[: 4 * number], view[4 * number : 12 * number], view[12 * number :])
    return group, topic_id, list(zip(*map(_column, "IQQ", columns), strict=True))


def _head_bytes(group: str) -> int:
    return _HEAD.size + 2 * len(group)


def _pack(kind: int, group: str, topic_id: bytes, number: int) -> bytes:
    name = group.encode()
    return _HEAD.pack(kind, len(name), topic_id, number) + name


def _column(kind: str, data: memoryview) -> array[int]:
    column: array[int] = array(kind)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _bytes_of(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()
