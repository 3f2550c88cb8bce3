"""Options of a client, a producer and a consumer, as attrs classes. Must not know of sockets or the protocol."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators

__all__ = ["ClientOptions", "ConsumerOptions", "ProducerOptions"]

KIB = 1024
MIB = 1024 * KIB


def _number(default: int, minimum: int, *, help: str) -> int:
    return attrs.field(default=default, validator=validators.ge(minimum), metadata={"help": help})


@attrs.frozen(kw_only=True)
class ClientOptions:
    """Options of ``mqcore.connect``. Times in ms."""

    name: str = attrs.field(
        default="mqcore-python",
        validator=validators.max_len(200),
        metadata={"help": "what the broker calls this client in its status and log"},
    )
    connect_timeout_ms: int = _number(10_000, 1, help="time in which one of the servers has to answer, in ms")
    request_timeout_ms: int = _number(30_000, 1, help="time for the answer to an administrative request, in ms")
    keepalive_ms: int = _number(30_000, 1, help="silence after which the server is asked whether it lives, in ms")
    retry_ms_min: int = _number(50, 1, help="first pause before something is tried again, in ms")
    retry_ms_max: int = _number(2_000, 1, help="longest pause before something is tried again, in ms")


@attrs.frozen(kw_only=True)
class ProducerOptions:
    """Options of ``client.producer``. Sizes in bytes, times in ms."""

    linger_ms: int = _number(0, 0, help="how long a batch that is not full waits for more messages, in ms")
    batch_bytes: int = _number(256 * KIB, 1, help="payload at which a batch is full; a larger message goes alone")
    batch_messages: int = _number(16_384, 1, help="messages at which a batch is full")
    batches_in_flight_max: int = attrs.field(
        default=16,
        validator=[validators.ge(1), validators.le(64)],
        metadata={"help": "unanswered batches of one partition; the broker remembers 64 of a producer"},
    )
    buffer_bytes_max: int = _number(64 * MIB, 1, help="messages held by the producer; a sender waits beyond it")
    delivery_timeout_ms: int = _number(60_000, 1, help="time after which an unanswered send ends, in ms")
    policy: Literal["topic", "none", "async", "sync"] = attrs.field(
        default="topic",
        validator=validators.in_(("topic", "none", "async", "sync")),
        metadata={"help": "when a send is acknowledged: topic (its policy), none, async or sync"},
    )
    codec: str = attrs.field(default="none", metadata={"help": "compression: none, zlib, zstandard, lz4"})


@attrs.frozen(kw_only=True)
class ConsumerOptions:
    """Options of ``client.consumer``. Sizes in bytes, times in ms."""

    fetch_bytes: int = _number(1 * MIB, 1, help="most bytes of one answer; a larger batch comes alone")
    prefetch_bytes: int = _number(16 * MIB, 1, help="bytes asked for ahead of the reader, over all partitions")
    wait_ms: int = attrs.field(
        default=20_000,
        validator=[validators.ge(1), validators.le(60_000)],
        metadata={"help": "how long the broker holds a request while there is nothing to read, in ms"},
    )
    refresh_ms: int = _number(5_000, 1, help="how often a consumer of a whole topic looks for new partitions, in ms")
