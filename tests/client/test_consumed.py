"""Batches as they were read, and the messages that are made of them."""

from __future__ import annotations

from operator import length_hint

from mqcore.client import ConsumedBatch, Message


def batch_of(*values: bytes, keys: list[bytes | None] | None = None) -> ConsumedBatch:
    return ConsumedBatch("lines", 3, 100, 7, list(values), keys, None, None, 1_000, 2_000)


def test_a_message_has_every_column_of_its_batch() -> None:
    first, second = batch_of(b"one", b"two", keys=[None, b"k"]).messages()
    assert type(first) is Message
    assert first == Message("lines", 3, 100, 7, b"one", None, (), 1_000)
    assert second == Message("lines", 3, 101, 7, b"two", b"k", (), 1_000)


def test_what_is_left_of_the_values_says_how_many_messages_were_taken() -> None:
    batch = batch_of(b"one", b"two", b"three")
    values = iter(batch.values)
    messages = batch.messages_of(values)
    assert next(messages).offset == 100
    assert length_hint(values) == 2
    assert [message.value for message in messages] == [b"two", b"three"]
    assert length_hint(values) == 0
