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
    "COPIES_MAX",
    "COPY",
    "DUPLICATE",
    "FETCH",
    "FETCHED",
    "FRAME",
    "FRAME_BYTES",
    "HELLO",
    "HELLO_BYTES_MAX",
    "NAME_BYTES_MAX",
    "ONE_WAY",
    "PRODUCE",
    "PRODUCED",
    "PRODUCED_FRAME",
    "PRODUCE_FRAME",
    "PROTOCOL_MAGIC",
    "TEXT_BYTES_MAX",
    "U16",
    "WELCOME",
    "clipped",
    "dump_json",
    "frame",
    "malformed",
    "read_exact",
    "read_fixed",
    "read_json",
    "read_text",
]

FRAME = struct.Struct("<IBBHI")
FRAME_BYTES = FRAME.size
PROTOCOL_MAGIC = b"MQCORE\x00\x01"
HELLO_BYTES_MAX = 4096
"""Largest greeting, either side's: before it a peer has been granted nothing."""
NAME_BYTES_MAX = 200
COPIES_MAX = 255
TEXT_BYTES_MAX = 4096

ONE_WAY = 1
DUPLICATE = 1
HELLO = struct.Struct("<8sHH16sB")
WELCOME = struct.Struct("<H16s16s16sQQ")
PRODUCE_FRAME = struct.Struct("<IBBHI16sIB3x")
PRODUCE = struct.Struct("<16sIB3x")
PRODUCED_FRAME = struct.Struct("<IBBHIQQ")
PRODUCED = struct.Struct("<QQ")
COPY = struct.Struct("<16sQB")
FETCH = struct.Struct("<16sIQQII")
FETCHED = struct.Struct("<QQQ")
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


def frame(kind: int, payload: bytes, *, flags: int = 0, code: int = 0, number: int = 0) -> list[Buffer]:
    """Return a small frame as one buffer."""
    return [FRAME.pack(len(payload), kind, flags, code, number) + payload]


def dump_json(value: object) -> bytes:
    """Return ``value`` as compact JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def clipped(text: str) -> bytes:
    """Return ``text`` as UTF-8 of at most ``TEXT_BYTES_MAX``, cut between characters."""
    return text.encode("utf-8", "replace")[:TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()
