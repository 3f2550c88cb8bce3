"""The metadata log: JSON records in order (rule R13), as control batches of a log of its own.

Knows nothing of what the records mean.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import trio

from mqcore.batch import HEADER_BYTES, BatchHeader, unpack_header
from mqcore.errors import CorruptionError, OutcomeUnknownError, StorageError
from mqcore.log._control import (
    RECORDS,
    SNAPSHOT,
    control_kind,
    encode_record,
    iter_records,
    pack_records_batch,
    pack_snapshot_batch,
    unpack_records_batch,
)
from mqcore.log._partition_log import PartitionLog
from mqcore.log._store import LogStore
from mqcore.log._types import IncomingBatch
from mqcore.ports import Buffer

__all__ = ["MetadataLog", "SnapshotAt", "take_records"]

READ_BYTES = 4 * 1024 * 1024
TURN_BYTES = 64 * 1024
"""Of a snapshot so much is encoded, in some milliseconds, before others have their turn."""
SNAPSHOT_BYTES_MIN = HEADER_BYTES + 64
"""More than what a snapshot is beside its records."""

Records: TypeAlias = Sequence[Mapping[str, Any]]
Commit: TypeAlias = Callable[[Callable[[], IncomingBatch], Callable[[], None]], Awaitable[int]]


class SnapshotAt(NamedTuple):
    """Where a batch that replaces every record before it stands, and how large it is."""

    offset: int
    position: int
    size: int


def _not_minded() -> None:
    """Nobody has to know at once that it is appended."""


class MetadataLog:
    """Append-only JSON records on ``store``'s metadata log; replayed to the end before anything is served.

    Belongs to the term of the store in which it is used first. ``commit`` appends the batch that its argument makes to
    the store's metadata log, which says nothing else in between, and returns its offset once it is committed; its
    second argument is called when the batch is appended, before any other is. None, for a store without a broker: once
    it is flushed.
    """

    def __init__(self, store: LogStore, commit: Commit | None = None) -> None:
        self._store = store
        self._commit = commit or self._flush
        self._lock = trio.Lock()
        self._bound: PartitionLog | None = None
        self.snapshot: SnapshotAt | None = None
        """The last one that was read or written; what lies before it says nothing any more."""

    @property
    def _log(self) -> PartitionLog:
        # Kept, not asked of the store each time: late work of an ended reign must not get the log of the next one.
        if self._bound is None:
            self._bound = self._store.metadata
        return self._bound

    def began_anew(self) -> None:
        """Take in that the log is another one, which begins elsewhere."""
        self._bound = self.snapshot = None

    @property
    def failed(self) -> StorageError | None:
        """Why the log takes no more records, None while it does."""
        return self._log.failed

    async def replay(self) -> list[dict[str, Any]]:
        """Every record since the last ``compact``, in order.

        Raises ``CorruptionError`` when any of it is damaged: metadata with a hole is not served. Raises
        ``StorageError`` when the log has failed and its end cannot be read.
        """
        log = self._log
        damages = log.damages
        # Without an offset there is no record, only what opened reigns: not read, for ``null`` could not give it back.
        position = log.start_position if log.start_offset < log.end_offset else log.end_position
        if damages and damages[0].position == position and await self._is_snapshot(damages[0].end_position):
            position = damages.pop(0).end_position  # a trim of which the sidecar was lost: it took nothing that counts
        if damages:
            raise CorruptionError(
                f"the metadata log is damaged: {damages[0].text}; restore it from a good copy", where=f"log {log.name}"
            )
        records: list[dict[str, Any]] = []
        while position < log.end_position:
            chunks, _, _ = await log.read_stored(position, READ_BYTES, log.end_position)
            if not chunks:
                raise StorageError(f"log {log.name} cannot be read to its end: {log.failed}", kind="io")
            for chunk in chunks:
                at = 0
                while at < len(chunk):
                    header = unpack_header(chunk[at : at + HEADER_BYTES], log.name)
                    self._take(header, chunk[at : at + header.size], position, records)
                    at += header.size
                    position += header.size
        return records

    async def committed_after(self, position: int, committed_offset: int) -> tuple[list[dict[str, Any]], bool, int]:
        """Return the records between ``position`` and ``committed_offset``, for a copy that is read as it grows.

        Also whether they replace all that was read before, and the position to go on at. Raises ``CorruptionError``,
        ``StorageError``. No effect if cancelled.
        """
        log = self._log
        records: list[dict[str, Any]] = []
        replaced = False
        position = max(position, log.start_position)
        while position < log.end_position:
            stored = await log.read_stored(position, READ_BYTES, log.end_position)
            # Copied: bytes of a file are looked at in the step that read them, and others have their turn below.
            chunks = [bytes(each) for each in stored.chunks]
            for chunk in chunks:
                at = 0
                while at < len(chunk):
                    header = unpack_header(chunk[at : at + HEADER_BYTES], log.name)
                    if header.end_offset > committed_offset:
                        return records, replaced, position
                    batch = chunk[at : at + header.size]
                    if header.size > TURN_BYTES:
                        replaced = await self._take_in_turns(header, bytes(batch), position, records) or replaced
                    else:
                        replaced = self._take(header, batch, position, records) or replaced
                    at += header.size
                    position += header.size
            if not chunks:
                break
        return records, replaced, position

    def _take(self, header: BatchHeader, batch: Buffer, position: int, records: list[dict[str, Any]]) -> bool:
        """Add the records of a batch to ``records``; return whether it replaces them."""
        take_records(batch, records, f"log {self._log.name}")
        replaces = control_kind(batch) == SNAPSHOT
        if replaces:
            self.snapshot = SnapshotAt(header.base_offset, position, header.size)
        return replaces

    async def _take_in_turns(
        self, header: BatchHeader, batch: bytes, position: int, records: list[dict[str, Any]]
    ) -> bool:
        """``_take`` of a large batch: others run meanwhile."""
        kind = control_kind(batch)
        if kind not in (RECORDS, SNAPSHOT):
            return self._take(header, batch, position, records)
        found: list[dict[str, Any]] = []
        turn_at = 0
        for record, at in iter_records(batch, f"log {self._log.name}"):
            found.append(record)
            if at > turn_at:
                turn_at = at + TURN_BYTES
                await trio.lowlevel.checkpoint()
        if kind == SNAPSHOT:
            records.clear()
            self.snapshot = SnapshotAt(header.base_offset, position, header.size)
        records += found
        return kind == SNAPSHOT

    async def _is_snapshot(self, position: int) -> bool:
        """Whether the batch at ``position`` replaces every record before it."""
        chunks, _, _ = await self._log.read_stored(position, HEADER_BYTES, self._log.end_position)
        return bool(chunks) and control_kind(chunks[0]) == SNAPSHOT

    async def append(self, records: Records, appended: Callable[[], None] = _not_minded) -> int:
        """Append ``records`` (JSON objects, at least one) as one batch; return the offset of the first.

        Committed when it returns; one that waits for its commit holds up no other. ``appended`` is called before that,
        and before anything else is appended. Raises as ``PartitionLog.append`` and ``LogStore.flush``, and
        ``OutcomeUnknownError`` when the log failed, or the term ended, between the two.
        """
        batch = pack_records_batch(records)
        return await self._commit(lambda: IncomingBatch(unpack_header(batch), batch), appended)

    async def write_snapshot(
        self, state: Iterable[Mapping[str, Any]], last: Callable[[int], Records], bytes_max: int
    ) -> SnapshotAt:
        """Replace everything before by ``state`` and, as it is when the batch is made, ``last``. Committed.

        Together they are the whole present state; ``state`` does not change meanwhile, others run while it is encoded.
        ``last`` is given the bytes that there is room for. Raises as ``append``, and ``StorageError`` (``full``) for
        more than ``bytes_max``, before anything is written.
        """
        made: list[SnapshotAt] = []
        texts: list[bytes] = []
        size = unyielded = 0
        for record in state:
            texts.append(text := encode_record(record))
            size, unyielded = size + len(text) + 1, unyielded + len(text)
            if unyielded > TURN_BYTES:
                unyielded = 0
                await trio.lowlevel.checkpoint()

        def make() -> IncomingBatch:
            more = last(bytes_max - size - SNAPSHOT_BYTES_MIN)
            batch = pack_snapshot_batch([*texts, *map(encode_record, more)])
            if len(batch) > bytes_max:
                text = f"what log {self._log.name} says is {len(batch)} bytes, and a batch has {bytes_max} at most"
                raise StorageError(f"{text} (limit batch_bytes_max)", kind="full")
            made.append(SnapshotAt(self._log.end_offset, self._log.end_position, len(batch)))
            return IncomingBatch(unpack_header(batch), batch)

        await self._commit(make, _not_minded)
        self.snapshot = made[-1]
        return made[-1]

    async def compact(self, records: Records) -> None:
        """Replace everything before by ``records``, the whole present state, and give up what lies below. Committed."""
        batch = pack_records_batch(records, snapshot=True)
        offset = await self._commit(lambda: IncomingBatch(unpack_header(batch), batch), _not_minded)
        await self._log.trim(offset)

    async def _flush(self, make: Callable[[], IncomingBatch], appended: Callable[[], None]) -> int:
        log = self._log
        async with self._lock:
            base_offsets = await log.append_control([make()])
            appended()
        await self._store.flush([log])
        if log.durable_position < log.end_position:  # the flush has left it out
            raise OutcomeUnknownError(f"log {log.name} may hold the record, it is not flushed: {log.failed}")
        return base_offsets[0]


def take_records(batch: Buffer, records: list[dict[str, Any]], where: str) -> None:
    """Add the records of ``batch`` to ``records``, which a snapshot replaces. Raises ``CorruptionError``."""
    kind = control_kind(batch)
    if kind == SNAPSHOT:
        records.clear()
    if kind in (RECORDS, SNAPSHOT):
        records += unpack_records_batch(batch, where)
