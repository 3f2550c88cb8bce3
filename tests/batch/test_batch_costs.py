"""Costs that can be counted: calls per batch do not grow with its messages, bytes are copied once."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from mqcore.abc import Buffer, Codec
from mqcore.batch import BatchHeader, control_batch, decode_batch, encode_batch, tags_in, unpack_header, validate_batch
from mqcore.limits import Limits

LIMITS = Limits()


def count_calls(action: Callable[[], object]) -> Counter[str]:
    """Return how many calls ``action`` makes, of Python functions (``call``) and of C functions (``c_call``)."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        calls[event] += 1

    previous = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(previous)
    return calls


def peak_bytes(action: Callable[[], object]) -> int:
    """Return how much memory ``action`` holds at most, its result included."""
    tracemalloc.start()
    try:
        kept = action()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak
    finally:
        tracemalloc.stop()


def batch_of(count: int, equal: bool, columns: bool) -> bytearray:
    more: dict[str, Any] = {}
    if columns:
        more = {
            "keys": [None if n % 3 else b"key%d" % n for n in range(count)],
            "headers": [[("n", b"%d" % n)] for n in range(count)],
            "timestamps_ms": list(range(count)),
            "tags": [None if n % 5 else "ab"[n % 2] for n in range(count)],
        }
    return encode_batch([b"x" * (50 if equal else n % 90) for n in range(count)], created_ms=0, limits=LIMITS, **more)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("equal", [True, False])
def test_calls_per_validated_batch_do_not_depend_on_its_messages(equal: bool, columns: bool):
    few, many = (memoryview(batch_of(count, equal, columns)) for count in (8, 4000))
    for_few, for_many = (count_calls(lambda batch=batch: validate_batch(batch, LIMITS)) for batch in (few, many))
    assert for_few["call"] == for_many["call"] <= 25
    assert for_few["c_call"] == for_many["c_call"] <= 50


@pytest.mark.parametrize("equal", [True, False])
def test_python_calls_per_decoded_batch_do_not_depend_on_its_messages(equal: bool):
    few, many = (memoryview(batch_of(count, equal, False)) for count in (8, 1000))
    for_few, for_many = (count_calls(lambda batch=batch: decode_batch(batch, LIMITS).values) for batch in (few, many))
    assert abs(for_few["call"] - for_many["call"]) <= 1  # the Struct of equal lengths may be cached or not
    assert for_many["call"] <= 30


def test_python_calls_per_encoded_batch_do_not_depend_on_its_messages():
    for_few, for_many = (
        count_calls(lambda values=[b"x" * 20] * count: encode_batch(values, created_ms=0, limits=LIMITS))
        for count in (8, 4000)
    )
    assert for_few["call"] == for_many["call"] <= 15


def test_calls_to_tell_the_tags_of_a_batch_do_not_depend_on_its_messages():
    few, many = (memoryview(batch_of(count, True, True)) for count in (8, 4000))
    for_few, for_many = (count_calls(lambda batch=batch: tags_in(batch, unpack_header(batch))) for batch in (few, many))
    assert for_few["call"] == for_many["call"] <= 15
    assert for_few["c_call"] == for_many["c_call"] <= 20


def test_one_header_is_made_with_one_python_call():
    batch = batch_of(3, True, False)
    assert count_calls(lambda: unpack_header(batch))["call"] <= 2  # the lambda, and unpack_header


def test_encoding_copies_each_message_once():
    values = [bytes(65536)] * 64
    assert peak_bytes(lambda: encode_batch(values, created_ms=0, limits=LIMITS)) < 64 * 65536 * 1.05


def test_validating_copies_no_payload():
    batch = memoryview(encode_batch([bytes(65536)] * 64, created_ms=0, limits=LIMITS))
    assert peak_bytes(lambda: validate_batch(batch, LIMITS)) < 8192


def test_decoding_messages_of_one_length_copies_each_once():
    batch = memoryview(encode_batch([bytes(65536)] * 64, created_ms=0, limits=LIMITS))
    assert peak_bytes(lambda: decode_batch(batch, LIMITS).values) < 64 * 65536 * 1.05


def test_decoding_holds_at_most_the_payload_twice():
    values = [bytes(60000 + n) for n in range(64)]
    batch = memoryview(encode_batch(values, created_ms=0, limits=LIMITS))
    assert peak_bytes(lambda: decode_batch(batch, LIMITS).values) < sum(map(len, values)) * 2.05


class Counting(Codec):
    """Counts what is asked of it; its blocks are one byte."""

    name = "counting"
    tag = 200

    def __init__(self) -> None:
        self.decompressed = 0

    def compress(self, payload: Buffer) -> bytes:
        return b"!"

    def decompress(self, payload: Buffer, size: int) -> bytes:
        self.decompressed += 1
        return bytes(size)


def test_payload_is_decompressed_by_who_reads_values_and_once():
    codec = Counting()
    batch = encode_batch([bytes(10), bytes(3)], keys=[b"k", None], created_ms=0, codec=codec, limits=LIMITS)
    validate_batch(batch, LIMITS)
    decoded = decode_batch(batch, LIMITS, lambda tag: codec if tag == 200 else Counting())
    assert decoded.keys == [b"k", None]
    assert codec.decompressed == 0
    assert decoded.values == [bytes(10), bytes(3)]
    assert decoded.values is decoded.values
    assert codec.decompressed == 1


def test_a_header_is_an_immutable_value():
    header = unpack_header(control_batch(b"", created_ms=0))
    assert isinstance(header, BatchHeader)
    with pytest.raises(AttributeError):
        header.base_offset = 1  # type: ignore[misc]
