"""Sending again what was kept aside, without what the log has already: a new send by an operator (R5)."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator

import attrs

from mqcore.batch import HeaderPairs, decode_batch, unpack_header
from mqcore.client import Client, ConsumedBatch, Delivery, Message
from mqcore.limits import Limits
from mqcore.operations import QuarantinedSuffix

__all__ = ["Replayed", "messages_in", "replay_messages"]

MARK_HEADER = "mqcore-replayed"
"""Header of what was sent again: the side file and the offset that the message had there."""
ON_THEIR_WAY_MAX = 10_000


@attrs.frozen(kw_only=True)
class Replayed:
    """What a replay did: how many messages it sent, and how many it skipped because the log has them."""

    topic: str
    partition: int
    sent: int
    skipped: int


def messages_in(batch: bytes, suffix: QuarantinedSuffix) -> Iterator[Message]:
    """Return the messages of a stored batch; none of one that only the brokers read."""
    header = unpack_header(batch)
    if header.is_control:
        return iter(())
    decoded = decode_batch(memoryview(batch), Limits(), where=f"side file {suffix.name}")
    return ConsumedBatch.of(decoded, suffix.topic, suffix.partition).messages()


async def replay_messages(
    client: Client,
    topic: str,
    suffix: QuarantinedSuffix,
    messages: Callable[[], AsyncIterator[Message]],
    *,
    on_message: Callable[[], None],
) -> Replayed:
    """Send every message of ``messages``, which is called twice, that the partition of ``topic`` does not have.

    Looked for from the offset on at which the side file begins. ``on_message`` is called for each. Raises what the
    first message that was not acknowledged raises; doing it again then goes on where it was.
    """
    wanted: set[bytes] = set()
    async for message in messages():
        wanted |= {_content(message), _mark(suffix, message)}
    held = await _held(client, topic, suffix, wanted)
    sent = skipped = 0
    deliveries: deque[Delivery] = deque()
    async with client.producer(topic) as producer:
        async for message in messages():
            content = _content(message)
            if held[_mark(suffix, message)]:
                skipped += 1
            elif held[content]:
                held[content] -= 1  # as many as the log has: equal messages are still as many messages
                skipped += 1
            else:
                headers = [*message.headers, (MARK_HEADER, _mark(suffix, message))]
                await producer.wait_for_room(len(message.value))
                deliveries.append(producer.post(message.value, message.key, headers, suffix.partition, tag=message.tag))
                sent += 1
            while len(deliveries) > ON_THEIR_WAY_MAX:
                await deliveries.popleft().wait()
            on_message()
        for delivery in deliveries:
            await delivery.wait()
    return Replayed(topic=topic, partition=suffix.partition, sent=sent, skipped=skipped)


async def _held(client: Client, topic: str, suffix: QuarantinedSuffix, wanted: set[bytes]) -> Counter[bytes]:
    """Count those of ``wanted`` that the partition has: by content, and by the mark of an earlier replay."""
    held: Counter[bytes] = Counter()
    start = (await client.admin.look_up_offset(topic, suffix.partition, "start")).offset
    end = (await client.admin.look_up_offset(topic, suffix.partition, "end")).offset
    at = max(start, min(suffix.first_offset, end))
    if at >= end:
        return held
    async with client.consumer(topic, [suffix.partition], start=at) as consumer:
        while at < end:
            batch = await consumer.next_batch()
            for message in batch.messages():
                marks = [value for name, value in message.headers if name == MARK_HEADER]
                held.update(key for key in (marks or [_content(message)]) if key in wanted)
            at = batch.next_offset
    return held


def _content(message: Message) -> bytes:
    """What two copies of one message have in common: value, key, headers, tag and the time at which it was made."""
    digest = hashlib.blake2b(digest_size=20)
    for part in (message.value, message.key or b"", (message.tag or "").encode(), *_flat(message.headers)):
        digest.update(len(part).to_bytes(8, "little") + part)
    digest.update(message.timestamp_ms.to_bytes(8, "little") + bytes([message.key is not None]))
    return digest.digest()


def _mark(suffix: QuarantinedSuffix, message: Message) -> bytes:
    return f"{suffix.name}@{message.offset}".encode()


def _flat(headers: HeaderPairs) -> list[bytes]:
    return [part if isinstance(part, bytes) else part.encode() for pair in headers for part in pair]
