"""Messages of a follower's stream to bytes and back. Rule: every frame is used up exactly, every list is bounded by it.

Must not know of order, credit, or which logs have a name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore.protocol._follow_messages import (
    CommittedOffsets,
    Credit,
    Diverged,
    Follow,
    Followed,
    FollowKind,
    FollowMessage,
    Heartbeat,
    LogBegins,
    LogCommitted,
    LogData,
    LogNamed,
    LogPositions,
    PositionRefused,
    Positions,
)
from mqcore.protocol._layout import (
    FRAME,
    FRAME_BYTES,
    PROTOCOL_MAGIC,
    TEXT_BYTES_MAX,
    clipped,
    frame,
    malformed,
    read_exact,
    read_fixed,
    read_text,
)
from mqcore.protocol._readers import decode_end, decode_fatal
from mqcore.protocol._writers import encode_end, encode_fatal
from mqcore.protocol.codes import Code

__all__ = ["FOLLOW_DECODERS", "FOLLOW_ENCODERS", "LOG_DATA_OVERHEAD_BYTES"]

_FOLLOW = struct.Struct("<8sHH16s16sQ16sQBQI")
_FOLLOWED = struct.Struct("<H16s16sQQ16sII")
_LOG_NAMED = struct.Struct("<16sI")
_LOG_DATA = struct.Struct("<QQ")
_COMMITTED = struct.Struct("<IQ")
_POSITIONS = struct.Struct("<IQ16sQQQB")
_DIVERGED = struct.Struct("<QQQ")
_CREDIT = struct.Struct("<Q")
_LOG_BEGINS = struct.Struct("<QQQ16sQQ")

NODE_NAME_BYTES_MAX = 64

LOG_DATA_OVERHEAD_BYTES = FRAME_BYTES + _LOG_DATA.size
"""What a data frame is larger than its batches."""


def _decode_follow(flags: int, code: int, number: int, payload: memoryview) -> Follow:
    magic, *fields = read_fixed(_FOLLOW, payload, "follow")
    if magic != PROTOCOL_MAGIC:
        raise RemoteProtocolError("the peer does not speak the mqcore protocol", code=Code.NOT_THIS_PROTOCOL)
    if len(payload) - _FOLLOW.size > NODE_NAME_BYTES_MAX:
        raise malformed(f"follow with a name of {len(payload) - _FOLLOW.size} bytes; at most {NODE_NAME_BYTES_MAX}")
    name = read_text(payload[_FOLLOW.size :], "the name of a node")
    follow = Follow._make((*fields, name))
    if follow.version_min > follow.version_max:
        raise malformed(f"follow with versions {follow.version_min} to {follow.version_max}")
    return follow._replace(append_level=_level(follow.append_level))


def _level(number: int) -> Level:
    try:
        return Level(number)
    except ValueError as error:
        raise malformed(str(error)) from None


def _decode_followed(flags: int, code: int, number: int, payload: memoryview) -> Followed:
    return Followed(*read_exact(_FOLLOWED, payload, "followed"))


def _decode_log_named(flags: int, code: int, number: int, payload: memoryview) -> LogNamed:
    return LogNamed(number, *read_exact(_LOG_NAMED, payload, "log-named"))


def _decode_log_data(flags: int, code: int, number: int, payload: memoryview) -> LogData:
    position, committed_offset = read_fixed(_LOG_DATA, payload, "log-data")
    batches = payload[_LOG_DATA.size :]
    if not batches:
        raise malformed("a data frame without a batch")
    return LogData(number, position, committed_offset, (batches,))


def _records(layout: struct.Struct, payload: memoryview, what: str) -> Iterator[tuple[Any, ...]]:
    """The records that ``payload`` is made of: at least one, in the order of their numbers, each log once."""
    if not payload or len(payload) % layout.size:
        raise malformed(f"{what} frame of {len(payload)} bytes; it has records of {layout.size}")
    last = -1
    for record in layout.iter_unpack(payload):
        if record[0] <= last:
            raise malformed(f"{what} frame with log {record[0]} after log {last}")
        last = record[0]
        yield record


def _decode_committed(flags: int, code: int, number: int, payload: memoryview) -> CommittedOffsets:
    return CommittedOffsets(tuple(LogCommitted(*each) for each in _records(_COMMITTED, payload, "committed")))


def _decode_positions(flags: int, code: int, number: int, payload: memoryview) -> Positions:
    logs = []
    for log, epoch, reign_id, position, end, flushed, level in _records(_POSITIONS, payload, "positions"):
        # A last batch lies below the end; a log without one may begin anywhere.
        if flushed > end or (position >= end if epoch else position):
            raise malformed(
                f"log {log}: last batch at {position} of epoch {epoch}, flushed to {flushed}, with the end at {end}"
            )
        logs.append(LogPositions(log, epoch, reign_id, position, end, flushed, _level(level)))
    return Positions(tuple(logs))


def _decode_diverged(flags: int, code: int, number: int, payload: memoryview) -> Diverged:
    return Diverged(number, *read_exact(_DIVERGED, payload, "diverged"))


def _decode_refused(flags: int, code: int, number: int, payload: memoryview) -> PositionRefused:
    if len(payload) > TEXT_BYTES_MAX:
        raise malformed(f"position-refused with a text of {len(payload)} bytes")
    return PositionRefused(number, read_text(payload, "the text of a refusal"))


def _decode_credit(flags: int, code: int, number: int, payload: memoryview) -> Credit:
    return Credit(*read_exact(_CREDIT, payload, "credit"))


def _decode_heartbeat(flags: int, code: int, number: int, payload: memoryview) -> Heartbeat:
    if payload:
        raise malformed(f"heartbeat frame carries {len(payload)} bytes; it has none")
    return Heartbeat(number)


def _decode_log_begins(flags: int, code: int, number: int, payload: memoryview) -> LogBegins:
    return LogBegins(number, *read_exact(_LOG_BEGINS, payload, "log-begins"))


FOLLOW_DECODERS: dict[int, Callable[[int, int, int, memoryview], FollowMessage]] = {
    FollowKind.FOLLOW: _decode_follow,
    FollowKind.FOLLOWED: _decode_followed,
    FollowKind.LOG_NAMED: _decode_log_named,
    FollowKind.LOG_DATA: _decode_log_data,
    FollowKind.COMMITTED_OFFSETS: _decode_committed,
    FollowKind.POSITIONS: _decode_positions,
    FollowKind.DIVERGED: _decode_diverged,
    FollowKind.POSITION_REFUSED: _decode_refused,
    FollowKind.CREDIT: _decode_credit,
    FollowKind.HEARTBEAT: _decode_heartbeat,
    FollowKind.LOG_BEGINS: _decode_log_begins,
    FollowKind.END: decode_end,
    FollowKind.FATAL: decode_fatal,
}
"""How a frame of each kind is read: ``(flags, code, number, payload)`` to a message, or ``RemoteProtocolError``."""


def _encode_log_data(message: LogData) -> list[Buffer]:
    size = _LOG_DATA.size + sum(map(len, message.batches))
    head = FRAME.pack(size, FollowKind.LOG_DATA, 0, 0, message.number)
    # The batches are sent from where they are: the same buffers go to every replica and to consumers.
    return [head + _LOG_DATA.pack(message.position, message.committed_offset), *message.batches]


def _encode_positions(message: Positions) -> list[Buffer]:
    return frame(FollowKind.POSITIONS, b"".join(_POSITIONS.pack(*each) for each in message.logs))


def _encode_committed(message: CommittedOffsets) -> list[Buffer]:
    return frame(FollowKind.COMMITTED_OFFSETS, b"".join(_COMMITTED.pack(*each) for each in message.logs))


FOLLOW_ENCODERS: dict[int, Callable[[Any], list[Buffer]]] = {
    FollowKind.FOLLOW: lambda message: frame(
        FollowKind.FOLLOW, _FOLLOW.pack(PROTOCOL_MAGIC, *message[:-1]) + message.name.encode()
    ),
    FollowKind.FOLLOWED: lambda message: frame(FollowKind.FOLLOWED, _FOLLOWED.pack(*message)),
    FollowKind.LOG_NAMED: lambda message: frame(
        FollowKind.LOG_NAMED, _LOG_NAMED.pack(*message[1:]), number=message.number
    ),
    FollowKind.LOG_DATA: _encode_log_data,
    FollowKind.COMMITTED_OFFSETS: _encode_committed,
    FollowKind.POSITIONS: _encode_positions,
    FollowKind.DIVERGED: lambda message: frame(
        FollowKind.DIVERGED, _DIVERGED.pack(*message[1:]), number=message.number
    ),
    FollowKind.POSITION_REFUSED: lambda message: frame(
        FollowKind.POSITION_REFUSED, clipped(message.text), number=message.number
    ),
    FollowKind.CREDIT: lambda message: frame(FollowKind.CREDIT, _CREDIT.pack(message.size)),
    FollowKind.HEARTBEAT: lambda message: frame(FollowKind.HEARTBEAT, b"", number=message.number),
    FollowKind.LOG_BEGINS: lambda message: frame(
        FollowKind.LOG_BEGINS, _LOG_BEGINS.pack(*message[1:]), number=message.number
    ),
    FollowKind.END: encode_end,
    FollowKind.FATAL: encode_fatal,
}
"""How a message of each kind is written."""
