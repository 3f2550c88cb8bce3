"""Messages to bytes: a list of buffers to send one after the other; large byte fields are not copied.

Must not know of connections, credit or order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mqcore.batch import pack_tag_table
from mqcore.guarantees import Copy
from mqcore.ports import Buffer
from mqcore.protocol._group_frames import encode_commit, encode_committed, encode_sync, encode_synced
from mqcore.protocol._layout import (
    CLAIMED,
    COPY,
    DUPLICATE,
    FETCH,
    FETCHED,
    FRAME,
    FROM_REPLICA,
    HELLO,
    KNOWN_AGE_MS_MAX,
    NEXT_EPOCH,
    ONE_WAY,
    PRODUCE,
    PRODUCE_FRAME,
    PRODUCED,
    PRODUCED_FRAME,
    PROTOCOL_MAGIC,
    TAGGED,
    U16,
    WELCOME,
    clipped,
    dump_json,
    frame,
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
    Produce,
    Welcome,
)

__all__ = ["ENCODERS", "encode_end", "encode_fatal", "encode_produced"]

_PRODUCED = int(Kind.PRODUCED)


# The same few sets of copies are stated with every acknowledgement: the cache, in C, spares packing each anew.
@functools.lru_cache(maxsize=256)
def _pack_copies(copies: tuple[Copy, ...]) -> bytes:
    return b"".join(COPY.pack(*copy) for copy in copies)


def _encode_hello(message: Hello) -> list[Buffer]:
    fixed = HELLO.pack(
        PROTOCOL_MAGIC, message.version_min, message.version_max, message.session, 1 if message.session else 0
    )
    return frame(Kind.HELLO, fixed + message.client.encode())


def _encode_welcome(message: Welcome) -> list[Buffer]:
    fixed = WELCOME.pack(
        message.version, message.session, message.node_id, message.set_id, message.incarnation, message.epoch
    )
    # JSON, since limits come and go with releases: a peer reads those that it knows by name.
    facts = {"name": message.node_name, "role": message.role, "limits": message.limits}
    return frame(Kind.WELCOME, fixed + dump_json(facts))


def _encode_produce(message: Produce) -> list[Buffer]:
    claim = message.claim
    head = PRODUCE_FRAME.pack(
        PRODUCE.size + len(claim) + len(message.batch),
        Kind.PRODUCE,
        (ONE_WAY if message.one_way else 0) | (CLAIMED if claim else 0),
        0,
        message.request_id,
        message.topic_id,
        message.partition,
        message.policy,
    )
    return [head + claim, message.batch]


def encode_produced(request_id: int, base_offset: int, epoch: int, duplicate: bool, copies: tuple[Copy, ...]) -> bytes:
    """Return the frame of a ``Produced``; apart, because the broker makes one per batch."""
    stated = _pack_copies(copies)
    size = PRODUCED.size + len(stated)
    flags = DUPLICATE if duplicate else 0
    return PRODUCED_FRAME.pack(size, _PRODUCED, flags, 0, request_id, base_offset, epoch) + stated


def _encode_fetch(message: Fetch) -> list[Buffer]:
    payload, flags = FETCH.pack(*message[1:-2]), FROM_REPLICA if message.from_replica else 0
    if message.tags:
        payload, flags = payload + pack_tag_table(message.tags), flags | TAGGED
    return frame(Kind.FETCH, payload, flags=flags, number=message.request_id)


def _encode_fetched(message: Fetched) -> list[Buffer]:
    size = sum(map(len, message.batches))
    age_ms = message.known_age_ms
    flags, age_ms = (0, 0) if age_ms is None else (FROM_REPLICA, min(age_ms, KNOWN_AGE_MS_MAX))
    fields = FETCHED.pack(message.next_offset, message.start_offset, message.committed_offset)
    if message.next_epoch is not None:
        fields, flags = fields + NEXT_EPOCH.pack(message.next_epoch), flags | TAGGED
    return [FRAME.pack(len(fields) + size, Kind.FETCHED, flags, age_ms, message.request_id) + fields, *message.batches]


def _encode_call(message: Call) -> list[Buffer]:
    name = message.operation.encode()
    return frame(Kind.CALL, U16.pack(len(name)) + name + dump_json(message.arguments), number=message.request_id)


def _encode_failed(message: Failed) -> list[Buffer]:
    text = clipped(message.text)
    payload = U16.pack(len(text)) + text + dump_json(message.facts)
    return frame(Kind.FAILED, payload, code=message.code, number=message.request_id)


def encode_end(message: End) -> list[Buffer]:
    """Return the end of a direction."""
    return frame(Kind.END, b"")


def encode_fatal(message: Fatal) -> list[Buffer]:
    """Return the end of a connection, and why."""
    return frame(Kind.FATAL, clipped(message.text), code=message.code)


ENCODERS: dict[int, Callable[[Any], list[Buffer]]] = {
    Kind.HELLO: _encode_hello,
    Kind.WELCOME: _encode_welcome,
    Kind.PRODUCE: _encode_produce,
    Kind.PRODUCED: lambda message: [encode_produced(*message)],
    Kind.FETCH: _encode_fetch,
    Kind.FETCHED: _encode_fetched,
    Kind.CALL: _encode_call,
    Kind.RESULT: lambda message: frame(Kind.RESULT, dump_json(message.value), number=message.request_id),
    Kind.FAILED: _encode_failed,
    Kind.PING: lambda message: frame(Kind.PING, b"", number=message.request_id),
    Kind.PONG: lambda message: frame(Kind.PONG, b"", number=message.request_id),
    Kind.END: encode_end,
    Kind.FATAL: encode_fatal,
    Kind.SYNC: encode_sync,
    Kind.SYNCED: encode_synced,
    Kind.COMMIT: encode_commit,
    Kind.COMMITTED: encode_committed,
}
"""How a message of each kind is written."""
