"""Bytes to messages. Rule: every length is checked before it is believed, every frame is used up exactly.

A decoder takes the header's flags, code and number, and the payload as a view; byte fields of what it returns are views
into it. Must not know of connections, credit or order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from mqcore.batch import read_tag_table
from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Copy, Level
from mqcore.protocol._group_frames import decode_commit, decode_committed, decode_sync, decode_synced
from mqcore.protocol._layout import (
    CLAIM_BYTES,
    CLAIMED,
    COPIES_MAX,
    COPY,
    DUPLICATE,
    FETCH,
    FETCHED,
    FROM_REPLICA,
    HELLO,
    NAME_BYTES_MAX,
    NEXT_EPOCH,
    ONE_WAY,
    PRODUCE,
    PRODUCED,
    PROTOCOL_MAGIC,
    TAGGED,
    TEXT_BYTES_MAX,
    U16,
    WELCOME,
    malformed,
    read_exact,
    read_fixed,
    read_json,
    read_text,
)
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

__all__ = ["DECODERS", "decode_end", "decode_fatal"]

_LIMIT_MAX = 1 << 63
_LIMITS_NEEDED = ("requests_in_flight_max", "bytes_in_flight_max", "frame_bytes_max")


def _decode_hello(flags: int, code: int, request_id: int, payload: memoryview) -> Hello:
    magic, version_min, version_max, session, has_session = read_fixed(HELLO, payload, "hello")
    if magic != PROTOCOL_MAGIC:
        raise RemoteProtocolError("the peer does not speak the mqcore protocol", code=Code.NOT_THIS_PROTOCOL)
    if version_min > version_max:
        raise malformed(f"hello with versions {version_min} to {version_max}")
    client = read_text(payload[HELLO.size :], "the client's name")
    if len(client) > NAME_BYTES_MAX:
        raise malformed(f"the client's name has {len(client)} characters; at most {NAME_BYTES_MAX}")
    return Hello(version_min, version_max, client, session if has_session else b"")


def _decode_welcome(flags: int, code: int, number: int, payload: memoryview) -> Welcome:
    version, session, node_id, set_id, incarnation, epoch = read_fixed(WELCOME, payload, "welcome")
    facts = read_json(payload[WELCOME.size :])
    match facts:
        # Further keys are a newer broker's: what this side does not know it does not need.
        case {"name": str(name), "role": str(role), "limits": dict(limits)}:
            pass
        case _:
            raise malformed("a welcome has name, role and limits in its JSON object")
    for limit, value in limits.items():
        if type(value) is not int or not 0 <= value < _LIMIT_MAX:
            raise malformed(f"welcome with the limit {limit}={value!r}")
    for limit in _LIMITS_NEEDED:
        if limit not in limits:
            raise malformed(f"welcome without the limit {limit}")
    return Welcome(version, session, node_id, name, incarnation, epoch, set_id, role, limits)


def _decode_produce(flags: int, code: int, request_id: int, payload: memoryview) -> Produce:
    if len(payload) < PRODUCE.size:
        raise malformed(f"produce frame of {len(payload)} bytes is shorter than {PRODUCE.size}")
    topic_id, partition, policy = PRODUCE.unpack_from(payload)
    if policy > SendPolicy.SYNC:
        raise malformed(f"unknown send policy {policy}")
    if not flags & CLAIMED:
        return Produce(request_id, topic_id, partition, policy, bool(flags & ONE_WAY), payload[PRODUCE.size :])
    begin = PRODUCE.size + CLAIM_BYTES
    if len(payload) < begin:
        raise malformed(f"produce frame of {len(payload)} bytes is shorter than {begin}, with its claim")
    claim = bytes(payload[PRODUCE.size : begin])
    return Produce(request_id, topic_id, partition, policy, bool(flags & ONE_WAY), payload[begin:], claim)


def _decode_produced(flags: int, code: int, request_id: int, payload: memoryview) -> Produced:
    base_offset, epoch = read_fixed(PRODUCED, payload, "produced")
    copies = _unpack_copies(bytes(payload[PRODUCED.size :]))
    return Produced(request_id, base_offset, epoch, bool(flags & DUPLICATE), copies)


# The same few sets of copies come with every acknowledgement: the cache, in C, spares a call for each. It is bounded,
# since what a hostile broker states is kept here too.
@functools.lru_cache(maxsize=256)
def _unpack_copies(data: bytes) -> tuple[Copy, ...]:
    count, rest = divmod(len(data), COPY.size)
    if rest or not 1 <= count <= COPIES_MAX:
        raise malformed(f"produced frame with {len(data)} bytes of copies; each has {COPY.size}, 1 to {COPIES_MAX}")
    try:
        return tuple(Copy(node, incarnation, Level(level)) for node, incarnation, level in COPY.iter_unpack(data))
    except ValueError as error:
        raise malformed(f"produced frame: {error}") from None


def _decode_fetch(flags: int, code: int, request_id: int, payload: memoryview) -> Fetch:
    tags: tuple[bytes, ...] = ()
    if flags & TAGGED:
        table = read_tag_table(payload, FETCH.size, len(payload))
        if table is None or table.end != len(payload) or b"" in table.tags:
            raise malformed(f"fetch frame of {len(payload)} bytes does not end with a table of tags")
        payload, tags = payload[: FETCH.size], tuple(table.tags)
    return Fetch._make((request_id, *read_exact(FETCH, payload, "fetch"), bool(flags & FROM_REPLICA), tags))


def _decode_fetched(flags: int, code: int, request_id: int, payload: memoryview) -> Fetched:
    next_offset, start_offset, committed_offset = read_fixed(FETCHED, payload, "fetched")
    batches = payload[FETCHED.size :]
    next_epoch = None
    if flags & TAGGED:
        (next_epoch,) = read_fixed(NEXT_EPOCH, batches, "fetched")
        batches = batches[NEXT_EPOCH.size :]
    age_ms = code if flags & FROM_REPLICA else None
    chunks = (batches,) if batches else ()
    return Fetched(request_id, next_offset, start_offset, committed_offset, chunks, age_ms, next_epoch)


def _decode_call(flags: int, code: int, request_id: int, payload: memoryview) -> Call:
    (size,) = read_fixed(U16, payload, "call")
    if size > NAME_BYTES_MAX or len(payload) < 2 + size:
        raise malformed(f"call with an operation name of {size} bytes in a frame of {len(payload)}")
    arguments = read_json(payload[2 + size :])
    if not isinstance(arguments, dict):
        raise malformed("the arguments of a call are a JSON object")
    return Call(request_id, read_text(payload[2 : 2 + size], "the operation's name"), arguments)


def _decode_result(flags: int, code: int, request_id: int, payload: memoryview) -> Result:
    return Result(request_id, read_json(payload))


def _decode_failed(flags: int, code: int, request_id: int, payload: memoryview) -> Failed:
    (size,) = read_fixed(U16, payload, "failed")
    if size > TEXT_BYTES_MAX or len(payload) < 2 + size:
        raise malformed(f"failed with a text of {size} bytes in a frame of {len(payload)}")
    facts = read_json(payload[2 + size :])
    if not isinstance(facts, dict):
        raise malformed("the facts of a failure are a JSON object")
    return Failed(request_id, code, read_text(payload[2 : 2 + size], "the text of a failure"), facts)


def _check_empty(kind: Kind, payload: memoryview) -> None:
    if payload:
        raise malformed(f"{kind.name.lower()} frame carries {len(payload)} bytes; it has none")


def _decode_ping(flags: int, code: int, request_id: int, payload: memoryview) -> Ping:
    _check_empty(Kind.PING, payload)
    return Ping(request_id)


def _decode_pong(flags: int, code: int, request_id: int, payload: memoryview) -> Pong:
    _check_empty(Kind.PONG, payload)
    return Pong(request_id)


def decode_end(flags: int, code: int, number: int, payload: memoryview) -> End:
    """Return the end of a direction."""
    _check_empty(Kind.END, payload)
    return End()


def decode_fatal(flags: int, code: int, number: int, payload: memoryview) -> Fatal:
    """Return the end of a connection, and why."""
    if len(payload) > TEXT_BYTES_MAX:
        raise malformed(f"fatal with a text of {len(payload)} bytes")
    return Fatal(code, read_text(payload, "the text of a fatal error"))


DECODERS: dict[int, Callable[[int, int, int, memoryview], Message]] = {
    Kind.HELLO: _decode_hello,
    Kind.WELCOME: _decode_welcome,
    Kind.PRODUCE: _decode_produce,
    Kind.PRODUCED: _decode_produced,
    Kind.FETCH: _decode_fetch,
    Kind.FETCHED: _decode_fetched,
    Kind.CALL: _decode_call,
    Kind.RESULT: _decode_result,
    Kind.FAILED: _decode_failed,
    Kind.PING: _decode_ping,
    Kind.PONG: _decode_pong,
    Kind.END: decode_end,
    Kind.FATAL: decode_fatal,
    Kind.SYNC: decode_sync,
    Kind.SYNCED: decode_synced,
    Kind.COMMIT: decode_commit,
    Kind.COMMITTED: decode_committed,
}
"""How a frame of each kind is read: ``(flags, code, number, payload)`` to a message, or ``RemoteProtocolError``."""
