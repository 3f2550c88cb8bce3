"""The layout that all frames share, and how their pieces are read. Rule: every length is checked before it is believed.

A frame is a 12-byte header (payload length u32, kind u8, flags u8, code u16, number u32; little-endian) and a payload:
a fixed part by kind, then bytes. The number is a request id, or a log's number on a follower's stream.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from mqcore.errors import RemoteProtocolError
from mqcore.ports import Buffer
from mqcore.protocol.codes import Code

__all__ = [
    "CLAIMED",
    "CLAIM_BYTES",
    "COMMIT",
    "COMMITTED_ENTRY",
    "COPIES_MAX",
    "COPY",
    "DUPLICATE",
    "FETCH",
    "FETCHED",
    "FROM_REPLICA",
    "FRAME",
    "FRAME_BYTES",
    "FRESH",
    "GRANT_ENTRY",
    "HELLO",
    "HELLO_BYTES_MAX",
    "HELD_ENTRY",
    "KNOWN_AGE_MS_MAX",
    "LEAVES",
    "LOGIN_BEGIN",
    "NAME_BYTES_MAX",
    "NEXT_EPOCH",
    "ONE_WAY",
    "PRODUCE",
    "PRODUCED",
    "PRODUCED_FRAME",
    "PRODUCE_FRAME",
    "PROTOCOL_MAGIC",
    "SYNC",
    "SYNCED",
    "TAGGED",
    "TEXT_BYTES_MAX",
    "U16",
    "UNCHANGED",
    "WELCOME",
    "clipped",
    "dump_json",
    "frame",
    "kind_of_frame",
    "malformed",
    "read_entries",
    "read_exact",
    "read_fixed",
    "read_json",
    "read_text",
]

FRAME = struct.Struct("<IBBHI")
FRAME_BYTES = FRAME.size
"""Size of the header that every frame begins with."""
PROTOCOL_MAGIC = b"MQCORE\x00\x01"
HELLO_BYTES_MAX = 4096
"""Largest greeting, either side's: before it a peer has been granted nothing."""
NAME_BYTES_MAX = 200
LOGIN_BEGIN = 48
"""Kind of the frame that a login begins with, which says what a stream is before anything else is read of it."""
COPIES_MAX = 255
TEXT_BYTES_MAX = 4096

CLAIM_BYTES = 16
"""What a send under the name of a producer carries, besides: the claim that it was given."""

ONE_WAY = 1
CLAIMED = 2
DUPLICATE = 1
FROM_REPLICA = 1
TAGGED = 2
FRESH = 1
LEAVES = 2
UNCHANGED = 1
KNOWN_AGE_MS_MAX = 65_535
HELLO = struct.Struct("<8sHH16sB")
WELCOME = struct.Struct("<H16s16s16sQQ")
PRODUCE_FRAME = struct.Struct("<IBBHI16sIB3x")
PRODUCE = struct.Struct("<16sIB3x")
PRODUCED_FRAME = struct.Struct("<IBBHIQQ")
PRODUCED = struct.Struct("<QQ")
COPY = struct.Struct("<16sQB")
FETCH = struct.Struct("<16sIQQII")
FETCHED = struct.Struct("<QQQ")
NEXT_EPOCH = struct.Struct("<Q")
SYNC = struct.Struct("<16s16sIQIIIBBB")
SYNCED = struct.Struct("<Q")
COMMIT = struct.Struct("<16s16sBB")
HELD_ENTRY = struct.Struct("<IQ")
GRANT_ENTRY = struct.Struct("<IQQQ")
COMMITTED_ENTRY = struct.Struct("<IQQ")
U16 = struct.Struct("<H")


def malformed(text: str) -> RemoteProtocolError:
    """Return the error for a frame whose bytes cannot be what it says it is."""
    return RemoteProtocolError(text, code=Code.MALFORMED_FRAME)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def read_json(payload: Buffer) -> Any:
    """Return a JSON value; NaN and infinities, which Python would take, are not JSON."""
    try:
        return json.loads(bytes(payload), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(f"the frame's JSON cannot be read: {error}") from None


def read_text(data: Buffer, what: str) -> str:
    """Return UTF-8 as text."""
    try:
        return str(bytes(data), "utf-8")
    except UnicodeDecodeError:
        raise malformed(f"{what} is not UTF-8") from None


def kind_of_frame(header: bytes) -> int:
    """Return the kind of the frame whose ``FRAME_BYTES`` bytes of header are given."""
    kind: int = FRAME.unpack(header)[1]
    return kind


def read_fixed(layout: struct.Struct, payload: memoryview, what: str) -> tuple[Any, ...]:
    """Return the fixed part that ``payload`` begins with."""
    if len(payload) < layout.size:
        raise malformed(f"{what} frame of {len(payload)} bytes is shorter than its fixed part of {layout.size}")
    return layout.unpack_from(payload)


def read_exact(layout: struct.Struct, payload: memoryview, what: str) -> tuple[Any, ...]:
    """Return the fixed part that is all of ``payload``."""
    if len(payload) != layout.size:
        raise malformed(f"{what} frame of {len(payload)} bytes; it has {layout.size}")
    return layout.unpack(payload)


def read_entries(layout: struct.Struct, payload: memoryview, what: str) -> list[tuple[Any, ...]]:
    """Return the entries that ``payload`` consists of, each of which begins with a partition that is in it once."""
    if len(payload) % layout.size:
        raise malformed(f"{what} frame with {len(payload)} bytes of entries; each has {layout.size}")
    entries = list(layout.iter_unpack(payload))
    if len({entry[0] for entry in entries}) != len(entries):
        raise malformed(f"{what} frame that has a partition twice")
    return entries


def frame(kind: int, payload: bytes, *, flags: int = 0, code: int = 0, number: int = 0) -> list[Buffer]:
    """Return a small frame as one buffer."""
    return [FRAME.pack(len(payload), kind, flags, code, number) + payload]


def dump_json(value: object) -> bytes:
    """Return ``value`` as compact JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def clipped(text: str) -> bytes:
    """Return ``text`` as UTF-8 of at most ``TEXT_BYTES_MAX``, cut between characters."""
    return text.encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()
