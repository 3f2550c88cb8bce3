"""Control batches: the broker's own, in the format of every batch. Body: kind, version, then what the kind says.

An *epoch batch* opens a reign in a log (rule R3) and takes no offset. A *records* batch holds JSON records of the
metadata log, one offset each; a *snapshot* is a records batch that replaces everything before it. An *ends* batch names
producers that ended in order (rule R12) and takes no offset. A *cursors* batch holds what groups of consumers have
committed, in records that are not known here. A *producers* batch is a part of what a log remembers of its producers,
for who reads it from there on (rule R15), and takes no offset. A *lost* batch stands where batches have rotted that no
node of a set has whole (G12): as long as they were, it takes their offsets, and opens the reign that one of them did.
Pure.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mqcore.batch import HEADER_BYTES, control_batch
from mqcore.errors import CorruptionError
from mqcore.log._producer_bytes import KeptProducers, pack_kept, unpack_kept
from mqcore.ports import Buffer

__all__ = [
    "CURSORS",
    "ENDS",
    "EPOCH",
    "EPOCH_BATCH_BYTES",
    "LOST",
    "LOST_BATCH_BYTES_MIN",
    "PRODUCERS",
    "RECORDS",
    "SNAPSHOT",
    "EpochFacts",
    "Lost",
    "ProducerEnd",
    "control_kind",
    "encode_record",
    "iter_records",
    "pack_cursors_batch",
    "pack_ends_batch",
    "pack_epoch_batch",
    "pack_lost_batch",
    "pack_producers_batch",
    "pack_records_batch",
    "pack_snapshot_batch",
    "unpack_cursors_batch",
    "unpack_ends_batch",
    "unpack_epoch_batch",
    "unpack_lost_batch",
    "unpack_producers_batch",
    "unpack_records_batch",
]

EPOCH = 1
RECORDS = 2
SNAPSHOT = 3
ENDS = 4
CURSORS = 5
PRODUCERS = 6
LOST = 7

CONTROL_VERSION = 1

_KIND = struct.Struct("<HH")
_EPOCH = struct.Struct("<Q16s16sQ")
_END = struct.Struct("<QII")
_OPENED = struct.Struct("<Q16s")
EPOCH_BATCH_BYTES = HEADER_BYTES + _KIND.size + _EPOCH.size
LOST_BATCH_BYTES_MIN = HEADER_BYTES + _KIND.size


class EpochFacts(NamedTuple):
    """What an epoch batch says: whose reign begins here. Ids are 16 bytes."""

    number: int
    reign_id: bytes
    node_id: bytes
    incarnation: int


class Lost(NamedTuple):
    """What a lost batch says: ``opening`` is the reign that was opened where it stands, if one was."""

    opening: EpochFacts | None


class ProducerEnd(NamedTuple):
    """A producer that ended after everything of it was answered: its epoch there, and the sequence it stands at."""

    producer_id: int
    producer_epoch: int
    next_sequence: int


def pack_epoch_batch(facts: EpochFacts) -> bytearray:
    """The whole batch that opens a reign, not yet stamped."""
    return _pack(EPOCH, _EPOCH.pack(*facts), 0)


def pack_ends_batch(ends: Iterable[ProducerEnd]) -> bytearray:
    """The whole batch that names producers that ended, not yet stamped."""
    return _pack(ENDS, b"".join(_END.pack(*end) for end in ends), 0)


def pack_lost_batch(size: int, count: int, opened: tuple[int, bytes] | None) -> bytearray:
    """The whole batch, of ``size`` bytes, that stands for ``count`` lost offsets, not yet stamped.

    ``opened``: number and id of the reign that was opened there. Raises ``ValueError`` where it does not fit.
    """
    payload = b"" if opened is None else _OPENED.pack(*opened)
    room = size - LOST_BATCH_BYTES_MIN - len(payload)
    if room < 0:
        raise ValueError(f"{size} bytes are too few for a batch that says what was lost")
    return _pack(LOST, payload + bytes(room), count)


def pack_records_batch(records: Sequence[Mapping[str, Any]], *, snapshot: bool = False) -> bytearray:
    """The whole batch that holds ``records`` (JSON-able), not yet stamped. At least one record takes an offset."""
    # JSON, not a packed layout: there are few, people read them in ``storage inspect``, and keys say what is unknown.
    texts = [encode_record(each) for each in records]
    return pack_snapshot_batch(texts) if snapshot else _pack(RECORDS, b"[%b]" % b",".join(texts), max(1, len(texts)))


def encode_record(record: Mapping[str, Any]) -> bytes:
    """A record as it stands in its batch, which is as long as its records and one byte more for each."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def pack_snapshot_batch(records: Sequence[bytes]) -> bytearray:
    """The whole batch of records that replaces every one before it, each as ``encode_record`` returns it."""
    # A snapshot of nothing takes an offset too, or no offset would say that what was before it is gone.
    return _pack(SNAPSHOT, b"[%b]" % b",".join(records), max(1, len(records)))


def pack_producers_batch(kept: KeptProducers) -> bytearray:
    """The whole batch that holds a part of what is remembered of producers, not yet stamped."""
    return _pack(PRODUCERS, pack_kept(kept), 0)


def pack_cursors_batch(records: bytes) -> bytearray:
    """The whole batch that holds ``records`` of cursors, not yet stamped. It takes one offset."""
    return _pack(CURSORS, records, 1)


def control_kind(batch: Buffer) -> int:
    """Kind of a control batch; 0 when its body is too short to have one."""
    if len(batch) < HEADER_BYTES + _KIND.size:
        return 0
    kind: int = _KIND.unpack_from(batch, HEADER_BYTES)[0]
    return kind


def unpack_epoch_batch(batch: Buffer, where: str) -> EpochFacts:
    """Facts of an epoch batch. Raises ``CorruptionError`` when it is not one of this version."""
    kind, version = _kind_and_version(batch, where)
    if kind != EPOCH or version != CONTROL_VERSION or len(batch) != EPOCH_BATCH_BYTES:
        raise CorruptionError(
            "not an epoch batch of this version",
            where=where,
            expected=f"kind {EPOCH} version {CONTROL_VERSION}, {EPOCH_BATCH_BYTES} bytes",
            found=f"kind {kind} version {version}, {len(batch)} bytes",
        )
    return EpochFacts(*_EPOCH.unpack_from(batch, HEADER_BYTES + _KIND.size))


def unpack_ends_batch(batch: Buffer, where: str) -> list[ProducerEnd]:
    """Producers of an ends batch. Raises ``CorruptionError`` when it is not one of this version."""
    kind, version = _kind_and_version(batch, where)
    body = memoryview(batch)[HEADER_BYTES + _KIND.size :]
    if kind != ENDS or version != CONTROL_VERSION or len(body) % _END.size:
        raise CorruptionError(
            "not an ends batch of this version",
            where=where,
            expected=f"kind {ENDS} version {CONTROL_VERSION}, {_END.size} bytes a producer",
            found=f"kind {kind} version {version}, {len(body)} bytes",
        )
    return list(map(ProducerEnd._make, _END.iter_unpack(body)))


def unpack_lost_batch(batch: Buffer, where: str) -> Lost:
    """What a lost batch says. Raises ``CorruptionError`` when it is not one of this version."""
    kind, version = _kind_and_version(batch, where)
    if (kind, version) != (LOST, CONTROL_VERSION):
        raise CorruptionError("not a lost batch of this version", where=where, found=f"kind {kind} version {version}")
    if len(batch) < LOST_BATCH_BYTES_MIN + _OPENED.size:
        return Lost(None)
    number, reign_id = _OPENED.unpack_from(batch, LOST_BATCH_BYTES_MIN)
    return Lost(EpochFacts(number, reign_id, bytes(16), 0) if number else None)


def unpack_producers_batch(batch: Buffer, where: str) -> KeptProducers:
    """The part that a producers batch holds. Raises ``CorruptionError`` when it is not one of this version."""
    kind, version = _kind_and_version(batch, where)
    try:
        if (kind, version) != (PRODUCERS, CONTROL_VERSION):
            raise ValueError(f"kind {kind} version {version}")
        return unpack_kept(memoryview(batch)[HEADER_BYTES + _KIND.size :])
    except (struct.error, ValueError) as error:
        raise CorruptionError(f"not a producers batch of this version: {error}", where=where) from None


def unpack_cursors_batch(batch: Buffer, where: str) -> memoryview:
    """Records of a cursors batch. Raises ``CorruptionError`` when it is not one of this version."""
    kind, version = _kind_and_version(batch, where)
    if kind != CURSORS or version != CONTROL_VERSION:
        raise CorruptionError(
            "not a cursors batch of this version",
            where=where,
            expected=f"kind {CURSORS} version {CONTROL_VERSION}",
            found=f"kind {kind} version {version}",
        )
    return memoryview(batch)[HEADER_BYTES + _KIND.size :]


def unpack_records_batch(batch: Buffer, where: str) -> list[dict[str, Any]]:
    """Records of a records or snapshot batch. Raises ``CorruptionError``."""
    _check_holds_records(batch, where)
    try:
        records = json.loads(bytes(memoryview(batch)[HEADER_BYTES + _KIND.size :]))
    except ValueError as error:
        raise CorruptionError(f"records are not JSON: {error}", where=where) from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise CorruptionError("records are not a list of objects", where=where)
    return records


def iter_records(batch: Buffer, where: str) -> Iterator[tuple[dict[str, Any], int]]:
    """``unpack_records_batch``, record by record, each with where it ends: a caller may let others have their turn."""
    _check_holds_records(batch, where)
    decoder = json.JSONDecoder()
    try:
        text = bytes(memoryview(batch)[HEADER_BYTES + _KIND.size :]).decode()
        if text[0] != "[" or text[-1] != "]" or text[-2] == ",":
            raise ValueError("not a list")
        at, end = 1, len(text) - 1
        while at < end:
            record, at = decoder.raw_decode(text, at)
            if not isinstance(record, dict):
                raise CorruptionError("records are not a list of objects", where=where)
            yield record, at
            if at < end and text[at] != ",":
                raise ValueError(f"something else than a comma at character {at}")
            at += 1
    except (ValueError, IndexError) as error:
        raise CorruptionError(f"records are not JSON: {error}", where=where) from None


def _check_holds_records(batch: Buffer, where: str) -> None:
    kind, version = _kind_and_version(batch, where)
    if kind not in (RECORDS, SNAPSHOT) or version != CONTROL_VERSION:
        raise CorruptionError(
            "not a records batch of this version", where=where, found=f"kind {kind} version {version}"
        )


def _kind_and_version(batch: Buffer, where: str) -> tuple[int, int]:
    if len(batch) < HEADER_BYTES + _KIND.size:
        raise CorruptionError("control batch without a kind", where=where, found=f"{len(batch)} bytes")
    kind, version = _KIND.unpack_from(batch, HEADER_BYTES)
    return kind, version


def _pack(kind: int, payload: bytes, count: int) -> bytearray:
    return control_batch(_KIND.pack(kind, CONTROL_VERSION) + payload, created_ms=0, count=count)
