"""Each limit of a batch, at one below, at, and one above, for who builds a batch and for who takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from mqcore.batch import decode_batch, encode_batch, unpack_header, validate_batch
from mqcore.errors import MqcoreError, RejectedError
from mqcore.limits import Limits
from mqcore.protocol.codes import Code
from mqcore.registry import find_codec

WIDE = Limits(batch_tags_max=65_535, tag_bytes_max=65_535)


def of_batch_bytes(size: int) -> dict[str, Any]:
    return {"values": [b"x" * (size - 104 - 2 * 4 - 10), b"y" * 10]}


def of_uncompressed_bytes(size: int) -> dict[str, Any]:
    return {"values": [bytes(3000), bytes(size - 3000)], "codec": find_codec("zlib")}


def of_messages(count: int) -> dict[str, Any]:
    return {"values": [b"m"] * count}


def of_message_bytes(size: int) -> dict[str, Any]:
    return {"values": [b"", bytes(size), b"x"]}


def of_compressed_message_bytes(size: int) -> dict[str, Any]:
    return {"values": [b"", bytes(size), b"x"], "codec": find_codec("zlib")}


def of_key_bytes(size: int) -> dict[str, Any]:
    return {"values": [b"a", b"b", b"c"], "keys": [b"", None, bytes(size)]}


def of_headers_bytes(size: int) -> dict[str, Any]:
    return {"values": [b"a", b"b"], "headers": [[("a", b"1")], [("name", bytes(size - 2 - 2 - 4 - 4))]]}


def of_tags(count: int) -> dict[str, Any]:
    return {"values": [b""] * (count + 1), "tags": [None, *map(str, range(count))]}


def of_tag_bytes(size: int) -> dict[str, Any]:
    return {"values": [b"a", b"b", b"c"], "tags": ["t", None, "t" * size]}


CASES = [
    ("batch_bytes_max", of_batch_bytes, "batch-too-large"),
    ("batch_uncompressed_bytes_max", of_uncompressed_bytes, "batch-too-large"),
    ("batch_messages_max", of_messages, "batch-too-large"),
    ("message_bytes_max", of_message_bytes, "message-too-large"),
    ("message_bytes_max", of_compressed_message_bytes, "message-too-large"),
    ("key_bytes_max", of_key_bytes, "message-too-large"),
    ("headers_bytes_max", of_headers_bytes, "message-too-large"),
    ("batch_tags_max", of_tags, "batch-too-large"),
    ("tag_bytes_max", of_tag_bytes, "message-too-large"),
]
MAXIMUM = 5000


@pytest.mark.parametrize(("limit", "make", "name"), CASES, ids=[case[1].__name__ for case in CASES])
@pytest.mark.parametrize("above", [-1, 0, 1])
def test_limit_holds_for_producer_broker_and_consumer(
    limit: str, make: Callable[[int], dict[str, Any]], name: str, above: int
):
    limits = attrs.evolve(WIDE, **{limit: MAXIMUM})
    content = make(MAXIMUM + above)
    batch = encode_batch(**content, created_ms=0, limits=WIDE)
    takers: list[Callable[[], object]] = [
        lambda: encode_batch(**content, created_ms=0, limits=limits),
        lambda: validate_batch(batch, limits),
        lambda: decode_batch(batch, limits),
    ]
    for take in takers:
        if above <= 0:
            take()
            continue
        with pytest.raises(RejectedError, match=f"{MAXIMUM + above} .*at most {MAXIMUM}") as caught:
            take()
        assert caught.value.name == name
        assert caught.value.code == Code[name.upper().replace("-", "_")]
        assert not caught.value.retryable


@pytest.mark.parametrize("equal", [True, False])
def test_the_message_that_is_too_large_is_named_by_its_place(equal: bool):
    limits = attrs.evolve(WIDE, message_bytes_max=10)
    values = [bytes(11)] * 3 if equal else [b"a", bytes(11), b"b"]
    batch = encode_batch(values, created_ms=0, limits=WIDE)
    words = f"message {0 if equal else 1} "
    with pytest.raises(RejectedError, match=words):
        encode_batch(values, created_ms=0, limits=limits)
    with pytest.raises(RejectedError, match=words):
        validate_batch(batch, limits)


def test_many_messages_that_are_large_together_are_taken():
    limits = attrs.evolve(WIDE, message_bytes_max=10, key_bytes_max=10, headers_bytes_max=10, tag_bytes_max=10)
    columns = {"keys": [bytes(10)] * 9, "headers": [{"n": b"1"}] * 9, "tags": [str(n) * 10 for n in range(9)]}
    batch = encode_batch([bytes(10)] * 9, **columns, created_ms=0, limits=limits)
    assert validate_batch(batch, limits).count == 9


def test_a_batch_without_a_message_is_not_built():
    with pytest.raises(RejectedError, match="at least 1"):
        encode_batch([], created_ms=0, limits=WIDE)


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_timestamps_span_at_most_32_bits_of_milliseconds(above: int):
    times = [1000, 1000 + 2**32 - 1 + above]
    if above <= 0:
        batch = encode_batch([b"a", b"b"], timestamps_ms=times, created_ms=0, limits=WIDE)
        assert decode_batch(batch, WIDE).timestamps_ms == times
        return
    with pytest.raises(RejectedError, match="different batches"):
        encode_batch([b"a", b"b"], timestamps_ms=times, created_ms=0, limits=WIDE)


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_a_message_has_at_most_65535_headers(above: int):
    limits = attrs.evolve(WIDE, headers_bytes_max=2**20)
    headers = [("n", b"")] * (0xFFFF + above)
    if above > 0:
        with pytest.raises(ValueError, match="65536"):
            encode_batch([b"a"], headers=[headers], created_ms=0, limits=limits)
        return
    decoded = decode_batch(encode_batch([b"a"], headers=[headers], created_ms=0, limits=limits), limits)
    assert decoded.headers == [tuple(headers)]


@pytest.mark.parametrize(("length", "taken"), [(0, False), (1, True), (0xFFFF, True), (0x10000, False)])
def test_a_header_name_has_1_to_65535_bytes(length: int, taken: bool):
    limits = attrs.evolve(WIDE, headers_bytes_max=2**20)
    if taken:
        batch = encode_batch([b"a"], headers=[{"n" * length: b"v"}], created_ms=0, limits=limits)
        decoded = decode_batch(batch, limits)
        assert decoded.headers == [(("n" * length, b"v"),)]
    else:
        with pytest.raises(ValueError, match=f"not {length}"):
            encode_batch([b"a"], headers=[{"n" * length: b"v"}], created_ms=0, limits=limits)


@pytest.mark.parametrize("count", [65_534, 65_535])
def test_a_batch_has_as_many_tags_as_there_are_numbers_whatever_the_limit(count: int):
    limits = attrs.evolve(WIDE, batch_tags_max=10**6, batch_messages_max=10**6)
    content = of_tags(count)
    batch = encode_batch(**content, created_ms=0, limits=limits)
    assert decode_batch(batch, limits).tags == content["tags"]
    with pytest.raises(RejectedError, match="65536 different tags; allowed are at most 65535"):
        encode_batch(**of_tags(65_536), created_ms=0, limits=limits)


def test_errors_of_limits_are_errors_of_mqcore():
    with pytest.raises(MqcoreError):
        validate_batch(bytes(WIDE.batch_bytes_max + 1), WIDE)
    assert unpack_header(encode_batch([b"a"], created_ms=0, limits=WIDE)).size == 104 + 4 + 1
