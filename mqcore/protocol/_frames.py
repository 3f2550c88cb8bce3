"""Messages to bytes and back. Rule: every length is checked before it is believed, every frame is used up exactly.

A frame is a 12-byte header (payload length u32, kind u8, flags u8, code u16, request id u32; little-endian) and a
payload: a fixed part by kind, then bytes. Must not know of connections, credit or order.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Copy, Level
from mqcore.ports import Buffer
from mqcore.protocol._messages import (
    Call,
    End,
    Failed,
    Fatal,
    Fetch,
    Fetched,
    Hello,
    Kind,
    Message,
    Ping,
    Pong,
    Produce,
    Produced,
    Result,
    SendPolicy,
    Welcome,
)
from mqcore.protocol.codes import Code

__all__ = ["FRAME", "FRAME_BYTES", "HELLO_BYTES_MAX", "FrameHead", "decode", "encode", "encode_produced"]

FRAME = struct.Struct("<IBBHI")
FRAME_BYTES = FRAME.size
PROTOCOL_MAGIC = b"MQCORE\x00\x01"
HELLO_BYTES_MAX = 4096
NAME_BYTES_MAX = 200
COPIES_MAX = 255
TEXT_BYTES_MAX = 4096
_ONE_WAY = 1
_PRODUCED_KIND = int(Kind.PRODUCED)
_DUPLICATE = 1

_HELLO = struct.Struct("<8sHH16sB")
_WELCOME = struct.Struct("<H16s16sQQIQ9I")
_PRODUCE = struct.Struct("<IBBHI16sIB3x")
_PRODUCE_TAIL = struct.Struct("<16sIB3x")
_PRODUCED = struct.Struct("<IBBHIQQ")
_PRODUCED_TAIL = struct.Struct("<QQ")
_COPY = struct.Struct("<16sQB")
_FETCH_TAIL = struct.Struct("<16sIQQII")
_FETCHED_TAIL = struct.Struct("<QQQ")
_U16 = struct.Struct("<H")


class FrameHead(NamedTuple):
    """A frame's header, unpacked. ``length`` counts the payload only."""

    length: int
    kind: int
    flags: int
    code: int
    request_id: int


def _malformed(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, code=Code.MALFORMED_FRAME)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _json(payload: Buffer) -> Any:
    try:
        return json.loads(bytes(payload), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"the frame's JSON cannot be read: {error}") from None


def _text(data: Buffer, what: str) -> str:
    try:
        return str(bytes(data), "utf-8")
    except UnicodeDecodeError:
        raise _malformed(f"{what} is not UTF-8") from None


def _fixed(layout: struct.Struct, payload: memoryview, what: str) -> tuple[Any, ...]:
    if len(payload) < layout.size:
        raise _malformed(f"{what} frame of {len(payload)} bytes is shorter than its fixed part of {layout.size}")
    return layout.unpack_from(payload)


def _exact(layout: struct.Struct, payload: memoryview, what: str) -> tuple[Any, ...]:
    if len(payload) != layout.size:
        raise _malformed(f"{what} frame of {len(payload)} bytes; it has {layout.size}")
    return layout.unpack(payload)


def _decode_hello(head: FrameHead, payload: memoryview) -> Hello:
    magic, version_min, version_max, session, has_session = _fixed(_HELLO, payload, "hello")
    if magic != PROTOCOL_MAGIC:
        raise RemoteProtocolError("the peer does not speak the mqcore protocol", code=Code.NOT_THIS_PROTOCOL)
    if version_min > version_max:
        raise _malformed(f"hello with versions {version_min} to {version_max}")
    client = _text(payload[_HELLO.size :], "the client's name")
    if len(client) > NAME_BYTES_MAX:
        raise _malformed(f"the client's name has {len(client)} characters; at most {NAME_BYTES_MAX}")
    return Hello(version_min, version_max, client, session if has_session else b"")


def _decode_welcome(head: FrameHead, payload: memoryview) -> Welcome:
    version, session, node_id, incarnation, epoch, *limits = _fixed(_WELCOME, payload, "welcome")
    name = _text(payload[_WELCOME.size :], "the node's name")
    return Welcome(version, session, node_id, name, incarnation, epoch, *limits)


def _decode_produce(head: FrameHead, payload: memoryview) -> Produce:
    if len(payload) < _PRODUCE_TAIL.size:
        raise _malformed(f"produce frame of {len(payload)} bytes is shorter than {_PRODUCE_TAIL.size}")
    topic_id, partition, policy = _PRODUCE_TAIL.unpack_from(payload)
    if policy > SendPolicy.SYNC:
        raise _malformed(f"unknown send policy {policy}")
    return Produce(
        head.request_id,
        topic_id,
        partition,
        policy,
        bool(head.flags & _ONE_WAY),
        payload[_PRODUCE_TAIL.size :],
    )


def _decode_produced(head: FrameHead, payload: memoryview) -> Produced:
    base_offset, epoch = _fixed(_PRODUCED_TAIL, payload, "produced")
    copies = _unpack_copies(bytes(payload[_PRODUCED_TAIL.size :]))
    return Produced(head.request_id, base_offset, epoch, bool(head.flags & _DUPLICATE), copies)


# The same few sets of copies come with every acknowledgement: the cache, in C, spares a call for each. It is bounded,
# since what a hostile broker states is kept here too.
@functools.lru_cache(maxsize=256)
def _unpack_copies(data: bytes) -> tuple[Copy, ...]:
    count, rest = divmod(len(data), _COPY.size)
    if rest or not 1 <= count <= COPIES_MAX:
        raise _malformed(f"produced frame with {len(data)} bytes of copies; each has {_COPY.size}, 1 to {COPIES_MAX}")
    try:
        return tuple(Copy(node, incarnation, Level(level)) for node, incarnation, level in _COPY.iter_unpack(data))
    except ValueError as error:
        raise _malformed(f"produced frame: {error}") from None


@functools.lru_cache(maxsize=256)
def _pack_copies(copies: tuple[Copy, ...]) -> bytes:
    return b"".join(_COPY.pack(*copy) for copy in copies)


def _decode_fetch(head: FrameHead, payload: memoryview) -> Fetch:
    return Fetch(head.request_id, *_exact(_FETCH_TAIL, payload, "fetch"))


def _decode_fetched(head: FrameHead, payload: memoryview) -> Fetched:
    next_offset, start_offset, committed_offset = _fixed(_FETCHED_TAIL, payload, "fetched")
    batches = payload[_FETCHED_TAIL.size :]
    return Fetched(head.request_id, next_offset, start_offset, committed_offset, (batches,) if batches else ())


def _decode_call(head: FrameHead, payload: memoryview) -> Call:
    (size,) = _fixed(_U16, payload, "call")
    if size > NAME_BYTES_MAX or len(payload) < 2 + size:
        raise _malformed(f"call with an operation name of {size} bytes in a frame of {len(payload)}")
    arguments = _json(payload[2 + size :])
    if not isinstance(arguments, dict):
        raise _malformed("the arguments of a call are a JSON object")
    return Call(head.request_id, _text(payload[2 : 2 + size], "the operation's name"), arguments)


def _decode_result(head: FrameHead, payload: memoryview) -> Result:
    return Result(head.request_id, _json(payload))


def _decode_failed(head: FrameHead, payload: memoryview) -> Failed:
    (size,) = _fixed(_U16, payload, "failed")
    if size > TEXT_BYTES_MAX or len(payload) < 2 + size:
        raise _malformed(f"failed with a text of {size} bytes in a frame of {len(payload)}")
    facts = _json(payload[2 + size :])
    if not isinstance(facts, dict):
        raise _malformed("the facts of a failure are a JSON object")
    return Failed(head.request_id, head.code, _text(payload[2 : 2 + size], "the text of a failure"), facts)


def _empty(make: Callable[[FrameHead], Message]) -> Callable[[FrameHead, memoryview], Message]:
    def decode_empty(head: FrameHead, payload: memoryview) -> Message:
        if payload:
            raise _malformed(f"frame kind {head.kind} carries {len(payload)} bytes; it has none")
        return make(head)

    return decode_empty


def _decode_fatal(head: FrameHead, payload: memoryview) -> Fatal:
    if len(payload) > TEXT_BYTES_MAX:
        raise _malformed(f"fatal with a text of {len(payload)} bytes")
    return Fatal(head.code, _text(payload, "the text of a fatal error"))


_DECODERS: dict[int, Callable[[FrameHead, memoryview], Message]] = {
    Kind.HELLO: _decode_hello,
    Kind.WELCOME: _decode_welcome,
    Kind.PRODUCE: _decode_produce,
    Kind.PRODUCED: _decode_produced,
    Kind.FETCH: _decode_fetch,
    Kind.FETCHED: _decode_fetched,
    Kind.CALL: _decode_call,
    Kind.RESULT: _decode_result,
    Kind.FAILED: _decode_failed,
    Kind.PING: _empty(lambda head: Ping(head.request_id)),
    Kind.PONG: _empty(lambda head: Pong(head.request_id)),
    Kind.END: _empty(lambda head: End()),
    Kind.FATAL: _decode_fatal,
}


def decode(head: FrameHead, payload: memoryview) -> Message:
    """Return the message of one whole frame; byte fields are views into ``payload``.

    Raises ``RemoteProtocolError`` with the code to answer.
    """
    decoder = _DECODERS.get(head.kind)
    if decoder is None:
        raise _malformed(f"unknown frame kind {head.kind}")
    return decoder(head, payload)


def _frame(kind: Kind, payload: bytes, *, flags: int = 0, code: int = 0, request_id: int = 0) -> list[Buffer]:
    return [FRAME.pack(len(payload), kind, flags, code, request_id) + payload]


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _clipped(text: str) -> bytes:
    return text.encode()[:TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()


def _encode_hello(message: Hello) -> list[Buffer]:
    fixed = _HELLO.pack(
        PROTOCOL_MAGIC, message.version_min, message.version_max, message.session, 1 if message.session else 0
    )
    return _frame(Kind.HELLO, fixed + message.client.encode())


def _encode_welcome(message: Welcome) -> list[Buffer]:
    version, session, node_id, name, *rest = message
    fixed = _WELCOME.pack(version, session, node_id, *rest)
    return _frame(Kind.WELCOME, fixed + name.encode())


def _encode_produce(message: Produce) -> list[Buffer]:
    return [
        _PRODUCE.pack(
            _PRODUCE_TAIL.size + len(message.batch),
            Kind.PRODUCE,
            _ONE_WAY if message.one_way else 0,
            0,
            message.request_id,
            message.topic_id,
            message.partition,
            message.policy,
        ),
        message.batch,
    ]


def encode_produced(request_id: int, base_offset: int, epoch: int, duplicate: bool, copies: tuple[Copy, ...]) -> bytes:
    """Return the frame of a ``Produced``; apart, because the broker makes one per batch."""
    stated = _pack_copies(copies)
    size = _PRODUCED_TAIL.size + len(stated)
    flags = _DUPLICATE if duplicate else 0
    return _PRODUCED.pack(size, _PRODUCED_KIND, flags, 0, request_id, base_offset, epoch) + stated


def _encode_fetch(message: Fetch) -> list[Buffer]:
    return _frame(Kind.FETCH, _FETCH_TAIL.pack(*message[1:]), request_id=message.request_id)


def _encode_fetched(message: Fetched) -> list[Buffer]:
    size = sum(map(len, message.batches))
    head = FRAME.pack(_FETCHED_TAIL.size + size, Kind.FETCHED, 0, 0, message.request_id)
    return [
        head + _FETCHED_TAIL.pack(message.next_offset, message.start_offset, message.committed_offset),
        *message.batches,
    ]


def _encode_call(message: Call) -> list[Buffer]:
    name = message.operation.encode()
    return _frame(Kind.CALL, _U16.pack(len(name)) + name + _dump(message.arguments), request_id=message.request_id)


def _encode_failed(message: Failed) -> list[Buffer]:
    text = _clipped(message.text)
    payload = _U16.pack(len(text)) + text + _dump(message.facts)
    return _frame(Kind.FAILED, payload, code=message.code, request_id=message.request_id)


_ENCODERS: dict[type, Callable[[Any], list[Buffer]]] = {
    Hello: _encode_hello,
    Welcome: _encode_welcome,
    Produce: _encode_produce,
    Produced: lambda message: [encode_produced(*message)],
    Fetch: _encode_fetch,
    Fetched: _encode_fetched,
    Call: _encode_call,
    Result: lambda message: _frame(Kind.RESULT, _dump(message.value), request_id=message.request_id),
    Failed: _encode_failed,
    Ping: lambda message: _frame(Kind.PING, b"", request_id=message.request_id),
    Pong: lambda message: _frame(Kind.PONG, b"", request_id=message.request_id),
    End: lambda message: _frame(Kind.END, b""),
    Fatal: lambda message: _frame(Kind.FATAL, _clipped(message.text), code=message.code),
}


def encode(message: Message) -> list[Buffer]:
    """Return the frame of ``message`` as buffers to send one after the other; large byte fields are not copied."""
    return _ENCODERS[type(message)](message)
