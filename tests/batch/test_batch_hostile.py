"""Hostile bytes: refused by name or decoded to exactly what they say, never a crash and never above the limits."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.abc import Buffer, Codec
from mqcore.batch import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_KEYS,
    BODY_CONTROL,
    HEADER_BYTES,
    PRODUCER_BYTES,
    BatchHeader,
    control_batch,
    control_payload,
    decode_batch,
    encode_batch,
    pack_header,
    seal_body,
    tags_in,
    unpack_header,
    validate_batch,
)
from mqcore.errors import CorruptionError, MqcoreError, PluginNotFoundError, RejectedError
from mqcore.limits import Limits
from mqcore.protocol.codes import Code
from mqcore.registry import find_codec

LIMITS = Limits()
SMALL = Limits(
    batch_bytes_max=8192, message_bytes_max=4096, key_bytes_max=512, headers_bytes_max=512, batch_messages_max=256,
    batch_uncompressed_bytes_max=8192, batch_tags_max=8, tag_bytes_max=64,
)  # fmt: skip


def small_batch(**more: Any) -> bytearray:
    columns: dict[str, Any] = {
        "keys": [b"k", None, b""],
        "headers": [[("a", b"1")], [], [("b", b"22")]],
        "timestamps_ms": [10, 12, 11],
        "tags": ["paid", None, "größe"],
    }
    values = [b"one", b"", b"three"] if not more.get("codec") else [b"one" * 9, b"", b"three" * 9]
    return encode_batch(values, created_ms=0, limits=LIMITS, **(columns | more))


def resealed(batch: Buffer, **fields: int) -> bytearray:
    """Return ``batch`` with some header fields changed and a body checksum that holds: what a hostile peer can send."""
    changed = bytearray(batch)
    changed[:HEADER_BYTES] = pack_header(unpack_header(batch)._replace(**fields))
    seal_body(changed)
    return changed


def read_all(batch: Buffer, limits: Limits = LIMITS) -> tuple[object, ...]:
    decoded = decode_batch(batch, limits)
    return decoded.values, decoded.keys, decoded.headers, decoded.timestamps_ms, decoded.tags


def test_every_flipped_bit_is_refused_or_changes_no_message():
    batch = small_batch()
    meaning = read_all(batch)
    for position in range(len(batch)):
        for bit in range(8):
            damaged = bytearray(batch)
            damaged[position] ^= 1 << bit
            if PRODUCER_BYTES <= position < 96 or 100 <= position < HEADER_BYTES:
                assert read_all(damaged) == meaning  # the broker's part: the header checksum's to tell
                continue
            with pytest.raises((CorruptionError, RejectedError)):
                validate_batch(damaged, LIMITS)


def test_every_cut_and_every_byte_too_many_is_refused():
    batch = small_batch()
    for size in range(len(batch)):
        with pytest.raises(CorruptionError):
            validate_batch(memoryview(batch)[:size], LIMITS)
    with pytest.raises(CorruptionError, match="another size"):
        validate_batch(batch + b"\0", LIMITS)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutations_with_a_valid_checksum_are_refused_or_read_within_the_limits(data: st.DataObject):
    codec = data.draw(st.sampled_from([None, find_codec("zlib")]))
    batch = small_batch(codec=codec)
    assert unpack_header(batch).codec == (codec.tag if codec else 0)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(4, len(batch) - 4))
        width = data.draw(st.sampled_from([1, 4]))
        batch[position : position + width] = data.draw(st.binary(min_size=width, max_size=width))
    seal_body(batch)
    try:
        values, keys, headers, timestamps, tags = read_all(batch, SMALL)
    except (CorruptionError, RejectedError, PluginNotFoundError):
        return
    header = unpack_header(batch)
    for column in (values, keys, headers, timestamps, tags):
        assert column is None or (isinstance(column, list) and len(column) == header.count)
    assert isinstance(values, list)
    different = set() if tags is None else {tag.encode() for tag in tags if tag is not None}
    assert set(tags_in(batch, header) or ()) == different
    assert sum(map(len, values)) == header.payload_uncompressed_bytes <= SMALL.batch_uncompressed_bytes_max


class Liar(Codec):
    """Says that every payload is one byte shorter than it is."""

    name = "liar"
    tag = 1

    def compress(self, payload: Buffer) -> bytes:
        raise NotImplementedError

    def decompress(self, payload: Buffer, size: int) -> bytes:
        return bytes(size - 1)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes):
    with pytest.raises((CorruptionError, RejectedError)):
        decode_batch(data, LIMITS)
    with pytest.raises(CorruptionError):
        control_payload(data)


HOSTILE_FIELDS = [
    ({"size": 5000}, CorruptionError, "expected 5000"),
    ({"count": 0}, RejectedError, "without a message"),
    ({"count": 2}, CorruptionError, "add up"),
    ({"count": 4}, CorruptionError, "add up"),
    ({"count": LIMITS.batch_messages_max}, CorruptionError, "too small for its columns"),
    ({"count": 2**32 - 1}, RejectedError, "4294967295 messages"),
    ({"codec": 4}, RejectedError, "codec tag 4 is not known"),
    ({"codec": 127}, RejectedError, "codec tag 127 is not known"),
    ({"attributes": 0}, CorruptionError, "add up"),
    ({"attributes": ATTRIBUTE_CONTROL}, RejectedError, "broker's own"),
    ({"body_encoding": BODY_CONTROL}, RejectedError, "broker's own"),
    ({"body_encoding": 2}, RejectedError, "body encoding 2"),
    ({"body_encoding": 127}, RejectedError, "body encoding 127"),
    ({"payload_bytes": 7}, CorruptionError, "expected 8, found 7"),
    ({"payload_bytes": 7, "payload_uncompressed_bytes": 7}, CorruptionError, "expected 7, found 8"),
    ({"payload_uncompressed_bytes": 2**32 - 1, "codec": 1}, RejectedError, "4294967295 bytes uncompressed"),
    ({"payload_uncompressed_bytes": 0, "codec": 1}, CorruptionError, "never compressed"),
    ({"payload_bytes": 0, "codec": 1}, CorruptionError, "never compressed"),
    ({"created_last_ms": 9}, CorruptionError, "before the first"),
    ({"created_last_ms": 13}, CorruptionError, "expected 3, found 2"),
    ({"first_sequence": 2**64 - 3}, CorruptionError, "64 bits"),
]


@pytest.mark.parametrize(("fields", "error", "words"), HOSTILE_FIELDS, ids=[str(row[0]) for row in HOSTILE_FIELDS])
def test_a_header_that_lies_is_refused_with_the_number(fields: dict[str, int], error: type[MqcoreError], words: str):
    with pytest.raises(error, match=words) as caught:
        validate_batch(resealed(small_batch(), **fields), LIMITS)
    if isinstance(caught.value, RejectedError):
        assert Code(caught.value.code).label == caught.value.name


def test_payload_larger_than_the_batch_is_refused():
    with pytest.raises(CorruptionError, match="smaller than header and payload"):
        validate_batch(resealed(small_batch(), payload_bytes=10_000), LIMITS)


@pytest.mark.parametrize("value", [0xFFFFFFFE, 0x80000000, 7])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_length_that_lies_is_refused(column: int, value: int):
    batch = small_batch()
    struct.pack_into("<I", batch, HEADER_BYTES + column * 12 + 4, value)
    seal_body(batch)
    with pytest.raises((CorruptionError, RejectedError)):
        validate_batch(batch, LIMITS)


NUMBERS_AT = HEADER_BYTES + 4 * 12
"""Where in ``small_batch`` the tags column begins: three numbers, the count, two lengths, the tags."""


@pytest.mark.parametrize(
    ("at", "values", "words"),
    [
        (0, (1, 0xFFFF, 1), "do not have the tags"),
        (0, (0, 0xFFFF, 2), "do not have the tags"),
        (0, (0xFFFF, 0xFFFF, 0xFFFF), "do not have the tags"),
        (6, (0,), "do not fit the body"),
        (6, (1,), "do not have the tags|add up"),
        (6, (3,), "do not"),
        (6, (0xFFFF,), "do not fit the body"),
        (8, (0xFFFF,), "do not fit the body"),
        (8, (0, 11), "empty tag"),
        (8, (7, 4), "UTF-8"),
        (8, (3, 7), "add up"),
        (8, (5, 7), "add up|UTF-8"),
        (12, (0xFFFF,), "UTF-8"),
    ],
)
def test_a_tags_column_that_lies_is_refused(at: int, values: tuple[int, ...], words: str):
    batch = small_batch()
    struct.pack_into(f"<{len(values)}H", batch, NUMBERS_AT + at, *values)
    seal_body(batch)
    with pytest.raises(CorruptionError, match=words):
        validate_batch(batch, LIMITS)


def test_a_tag_that_is_in_the_table_twice_is_refused():
    batch = encode_batch([b"v", b"v"], tags=["aa", "ab"], created_ms=0, limits=LIMITS)
    batch[batch.index(b"aaab") + 3] = ord("a")
    seal_body(batch)
    with pytest.raises(CorruptionError, match="twice"):
        validate_batch(batch, LIMITS)


def test_a_table_that_cannot_be_read_is_no_table_without_the_tag():
    batch = small_batch()
    assert tags_in(batch, unpack_header(batch)) == [b"paid", "größe".encode()]
    struct.pack_into("<H", batch, NUMBERS_AT + 6, 0xFFFF)
    assert tags_in(batch, unpack_header(batch)) is None
    assert tags_in(batch, unpack_header(batch)._replace(body_encoding=200)) is None
    assert tags_in(batch, unpack_header(batch)._replace(attributes=0)) == ()


def test_lengths_whose_sum_wraps_around_32_bits_are_refused():
    batch = encode_batch([b"ab", b"cd"], created_ms=0, limits=LIMITS)
    struct.pack_into("<II", batch, HEADER_BYTES, 2**31 + 2, 2**31 + 2)
    seal_body(batch)
    with pytest.raises(CorruptionError, match=f"expected 4, found {2**32 + 4}"):
        validate_batch(batch, LIMITS)


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x00\x00",
        b"\x01",
        b"\x01\x00\x01\x00a",
        b"\x01\x00\x01\x00a\xff\xff\xff\xffv",
        b"\x01\x00\x00\x00\x01\x00\x00\x00v",
        b"\x01\x00\x01\x00\xff\x01\x00\x00\x00v",
        b"\x02\x00\x01\x00a\x01\x00\x00\x00v",
        b"\x01\x00\x01\x00a\x00\x00\x00\x00v",
        b"\xff\xff" + bytes(300),
    ],
)
def test_malformed_headers_of_a_message_are_an_error_of_that_column_only(encoded: bytes):
    good = b"\x01\x00\x01\x00a" + struct.pack("<I", len(encoded)) + bytes(len(encoded))
    batch = encode_batch([b"value"], headers=[{"a": bytes(len(encoded))}], created_ms=0, limits=LIMITS)
    body = bytes(batch[HEADER_BYTES:]).replace(struct.pack("<I", len(good)), struct.pack("<I", len(encoded)))
    hostile = bytearray(batch[:HEADER_BYTES] + body.replace(good, encoded))
    hostile = resealed(hostile, size=len(hostile))
    validate_batch(hostile, LIMITS)
    decoded = decode_batch(hostile, LIMITS, where="topic/0 offset 7")
    assert decoded.values == [b"value"]
    with pytest.raises(CorruptionError, match="topic/0 offset 7: malformed message headers"):
        _ = decoded.headers


def test_a_batch_of_a_newer_version_is_refused_as_such_and_is_no_damage():
    for position, value in ((4, 2), (8, 0x20), (7, 1), (64, 1)):
        batch = small_batch()
        batch[position] = value
        with pytest.raises(CorruptionError):
            validate_batch(batch, LIMITS)
        seal_body(batch)
        with pytest.raises(RejectedError, match="newer version"):
            validate_batch(batch, LIMITS)


def test_private_codecs_and_encodings_are_stored_untouched():
    batch = small_batch()
    assert validate_batch(resealed(batch, codec=128), LIMITS).codec == 128
    opaque = resealed(batch, body_encoding=200, attributes=ATTRIBUTE_KEYS, count=77)
    assert validate_batch(opaque, LIMITS).body_encoding == 200
    with pytest.raises(RejectedError, match="private body encoding 200"):
        decode_batch(opaque, LIMITS)


@pytest.mark.parametrize(
    "change", [{"attributes": 0}, {"codec": 1}, {"body_encoding": 1}, {"payload_bytes": 2}, {"size": 106}], ids=str
)
def test_a_control_batch_that_lies_is_refused(change: dict[str, int]):
    batch = control_batch(b"abc", created_ms=0)
    with pytest.raises(CorruptionError):
        control_payload(resealed(batch, **change))


def test_a_damaged_control_batch_is_refused():
    batch = control_batch(b"abc", created_ms=0)
    batch[-1] ^= 1
    with pytest.raises(CorruptionError, match="body checksum does not match"):
        control_payload(batch)


def bomb(name: str, stated: int, real: int) -> bytearray:
    """Return a batch of one message of ``stated`` bytes whose payload decompresses to ``real`` bytes."""
    codec = find_codec(name)
    block = codec.compress(bytes(real))
    header = BatchHeader(
        1, codec.tag, 0, HEADER_BYTES + 4 + len(block), 1, 0, 0, 0, 0, 0, len(block), stated, 0, 0, 0, 0, 0
    )
    batch = pack_header(header) + struct.pack("<I", stated) + block
    seal_body(batch)
    return batch


@pytest.mark.parametrize("name", ["zlib", "zstandard", "lz4"])
def test_a_bomb_is_stopped_at_the_stated_size(name: str, needs):
    if name != "zlib":
        needs(name)
    batch = bomb(name, stated=100_000, real=32 * 1024 * 1024)
    validate_batch(batch, LIMITS)
    decoded = decode_batch(batch, LIMITS)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError):
            _ = decoded.values
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["zlib", "zstandard", "lz4"])
def test_a_payload_shorter_than_stated_is_refused(name: str, needs):
    if name != "zlib":
        needs(name)
    with pytest.raises(CorruptionError):
        _ = decode_batch(bomb(name, stated=5000, real=4999), LIMITS).values


def test_a_codec_that_returns_another_size_is_caught():
    batch = bomb("zlib", stated=5000, real=5000)
    with pytest.raises(CorruptionError, match="expected 5000, found 4999"):
        _ = decode_batch(batch, LIMITS, lambda tag: Liar()).values


def test_refusing_a_header_of_large_numbers_allocates_next_to_nothing():
    batch = small_batch()
    hostile = [
        resealed(batch, count=LIMITS.batch_messages_max),
        resealed(batch, payload_uncompressed_bytes=LIMITS.batch_uncompressed_bytes_max, codec=1),
    ]
    tracemalloc.start()
    try:
        for each in hostile:
            with pytest.raises(CorruptionError):
                decode_batch(each, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()
