"""Batches as they were read, and the messages that are made of them."""

from __future__ import annotations

from operator import length_hint

from mqcore.client import ConsumedBatch, Message


def batch_of(*values: bytes, keys: list[bytes | None] | None = None) -> ConsumedBatch:
    return ConsumedBatch("lines", 3, 100, 7, list(values), keys, None, None, 1_000, 2_000)


def test_a_message_has_every_column_of_its_batch() -> None:
    first, second = batch_of(b"one", b"two", keys=[None, b"k"]).messages()
    assert type(first) is Message
    assert first == Message("lines", 3, 100, 7, b"one", None, (), 1_000, None)
    assert second == Message("lines", 3, 101, 7, b"two", b"k", (), 1_000)


def test_what_is_left_of_the_values_says_how_many_messages_were_taken() -> None:
    batch = batch_of(b"one", b"two", b"three")
    values = iter(batch.values)
    messages = batch.messages_of(values)
    assert next(messages).offset == 100
    assert length_hint(values) == 2
    assert [message.value for message in messages] == [b"two", b"three"]
    assert length_hint(values) == 0


def tagged() -> ConsumedBatch:
    values, keys, headers = [b"a", b"b", b"c", b"d"], [b"k", None, None, b"l"], [(), (("n", b"1"),), (), ()]
    tags, times = ["x", None, "y", "x"], [5, 6, 7, 8]
    return ConsumedBatch("lines", 3, 100, 7, values, list(keys), list(headers), times, 5, 2_000, 6, list(tags))


def test_messages_that_have_one_of_some_tags_keep_their_offsets_and_columns() -> None:
    chosen = tagged().having({"x", "z"})
    assert chosen is not None
    assert list(chosen.messages()) == [
        Message("lines", 3, 100, 7, b"a", b"k", (), 5, "x"),
        Message("lines", 3, 103, 7, b"d", b"l", (), 8, "x"),
    ]
    assert (chosen.offset, chosen.next_offset, list(chosen.offsets), len(chosen)) == (100, 104, [100, 103], 2)
    assert tagged().having({"z"}) is None
    whole = tagged().after(102)
    assert whole.having({"x", "y"}) is whole
    assert batch_of(b"one").having({"x"}) is None


def test_a_place_amid_chosen_messages_is_the_offset_of_the_next_one() -> None:
    chosen = tagged().having({"x"})
    assert chosen is not None
    assert [chosen.offset_before(left) for left in (2, 1, 0)] == [100, 103, 104]
    rest = chosen.after(chosen.offset_before(1))
    assert (rest.offset, rest.next_offset, rest.values, rest.tags) == (103, 104, [b"d"], ["x"])
    assert [each.after(101).offset for each in (chosen, tagged())] == [103, 101]


def test_reading_again_from_where_a_batch_begins_is_a_position_of_the_log() -> None:
    whole, y = tagged(), tagged().having({"y"})
    assert y is not None
    assert (whole.offset, whole.previous_epoch) == (100, 6)
    assert (y.offset, y.previous_epoch) == (102, 7)  # what lies before it is of the same batch
