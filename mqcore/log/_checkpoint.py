"""Checkpoints of a log's state, as records of its sidecar ``<name>.state``. Derived data: the log can do without.

A record begins at a multiple of 4 KiB: 64 bytes of head, then the payload, then zeros. The head is sealed with the
log's salt, names its own place, and is bound to the batch that ends where the checkpoint does, by position and by
header checksum: it is believed only if the log holds that batch. Pure. Layout: docs/log.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from crc32c import crc32c

from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log._history import EpochHistory
from mqcore.log._index import OffsetIndex
from mqcore.log._state import LogState
from mqcore.ports import Buffer

__all__ = ["HEAD_BYTES", "PAGE_BYTES", "CheckpointHead", "pack_checkpoint", "unpack_head", "unpack_state"]

PAGE_BYTES = 4096
MAGIC = 0x4353514D  # "MQSC"
VERSION = 2

# magic, version, zero, payload size, payload checksum, own position, log position, log offset, epoch, position of the
# last batch, header checksum of the last batch, head checksum
_HEAD = struct.Struct("<IHHIIQQQQQII")
_U32 = struct.Struct("<I")
HEAD_BYTES = _HEAD.size
assert HEAD_BYTES == 64

# start position, start offset, greatest append time, sizes of index, history and producers
_PAYLOAD = struct.Struct("<QQqIII")


class CheckpointHead(NamedTuple):
    """Head of a checkpoint: the state of the log below ``log_position``, the next offset being ``log_offset``."""

    payload_bytes: int
    payload_checksum: int
    own_position: int
    log_position: int
    log_offset: int
    epoch: int
    last_position: int
    last_header_checksum: int

    @property
    def own_end(self) -> int:
        """Position in the sidecar after the record."""
        size = HEAD_BYTES + self.payload_bytes
        return self.own_position + -(-size // PAGE_BYTES) * PAGE_BYTES


def pack_checkpoint(state: LogState, own_position: int, last_header_checksum: int, salt: int) -> bytes:
    """The record of ``state`` at ``own_position`` (a multiple of 4 KiB) of the sidecar."""
    index, history, producers = state.index.pack(), state.history.pack(), state.producers.snapshot()
    sizes = len(index), len(history), len(producers)
    fixed = _PAYLOAD.pack(state.start_position, state.start_offset, state.newest_ms, *sizes)
    payload = b"".join((fixed, index, history, producers))
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        0,
        len(payload),
        crc32c(payload),
        own_position,
        state.end_position,
        state.end_offset,
        state.epoch,
        state.last_position,
        last_header_checksum,
        0,
    )[:-4]
    padding = bytes(-(HEAD_BYTES + len(payload)) % PAGE_BYTES)
    return b"".join((head, _U32.pack(crc32c(head, salt)), payload, padding))


def unpack_head(view: memoryview, own_position: int, salt: int) -> CheckpointHead | None:
    """The head at the beginning of ``view`` if it is one, of this version, of this log, and at its place."""
    if len(view) < HEAD_BYTES:
        return None
    magic, version, zero, *fields, checksum = _HEAD.unpack_from(view)
    if (magic, version, zero) != (MAGIC, VERSION, 0) or checksum != crc32c(view[: HEAD_BYTES - 4], salt):
        return None
    head = CheckpointHead(*fields)
    return head if head.own_position == own_position else None


def unpack_state(head: CheckpointHead, payload: Buffer, limits: Limits, where: str) -> LogState:
    """The state that ``pack_checkpoint`` wrote. Raises ``CorruptionError``."""
    if crc32c(payload) != head.payload_checksum:
        raise CorruptionError("checkpoint checksum does not match", where=where)
    view = memoryview(payload)
    state = LogState(limits)
    try:
        start_position, start_offset, newest_ms, index, history, producers = _PAYLOAD.unpack_from(view)
        at = _PAYLOAD.size
        if len(view) != at + index + history + producers:
            raise ValueError("sections do not fill it")
        state.index = OffsetIndex.unpack(view[at : at + index])
        at += index
        state.history = EpochHistory.unpack(view[at : at + history])
        state.producers.restore(view[at + history :])
    except (struct.error, ValueError) as error:
        raise CorruptionError(f"checkpoint does not hold together: {error}", where=where) from None
    state.start_position, state.start_offset, state.newest_ms = start_position, start_offset, newest_ms
    state.end_position, state.end_offset = head.log_position, head.log_offset
    state.epoch, state.last_position = head.epoch, head.last_position
    return state
