"""What is encoded is what is decoded: all columns, any bytes, any size, compressed or not."""

from __future__ import annotations

from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.abc import Buffer
from mqcore.batch import (
    ATTRIBUTE_HEADERS,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_TAGS,
    ATTRIBUTE_TIMESTAMPS,
    HEADER_BYTES,
    BatchHeader,
    control_batch,
    control_payload,
    decode_batch,
    encode_batch,
    pack_header,
    stamp,
    tags_in,
    unpack_header,
    validate_batch,
)
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.registry import find_codec

LIMITS = Limits()
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
HEADER_NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
TAG = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
HEADER_PAIR = st.tuples(HEADER_NAME, st.binary(max_size=20))


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    values = draw(st.lists(st.binary(max_size=70), min_size=1, max_size=40))
    count = len(values)
    first = draw(st.integers(-(2**40), 2**40))

    def column(item: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | st.lists(item, min_size=count, max_size=count))

    return {
        "values": values,
        "keys": column(st.none() | st.binary(max_size=12)),
        "headers": column(st.lists(HEADER_PAIR, max_size=3)),
        "timestamps_ms": column(st.integers(first, first + 2**32 - 1)),
        "tags": column(st.none() | st.sampled_from(["a", "b"]) | TAG),
        "created_ms": first,
    }


def assert_decodes_to(batch: Buffer, given_: dict[str, Any]) -> None:
    decoded = decode_batch(batch, LIMITS)
    count = len(given_["values"])
    assert len(decoded) == count
    assert decoded.values == given_["values"]
    assert all(type(value) is bytes for value in decoded.values)
    keys, headers = given_["keys"], given_["headers"]
    assert decoded.keys == (keys if keys and any(key is not None for key in keys) else None)
    assert decoded.headers == ([tuple(pairs) for pairs in headers] if headers and any(headers) else None)
    assert decoded.timestamps_ms == (given_["timestamps_ms"] or [given_["created_ms"]] * count)
    tags = given_["tags"]
    assert decoded.tags == (tags if tags and any(tags) else None)
    different = {tag.encode() for tag in tags or () if tag is not None}
    found = tags_in(batch, decoded.header)
    assert found is not None
    assert (set(found), len(found)) == (different, len(different))


@settings(deadline=None, max_examples=80)
@given(messages())
def test_messages_come_back_as_they_were(given_: dict[str, Any]):
    batch = encode_batch(**given_, limits=LIMITS)
    assert validate_batch(batch, LIMITS).size == len(batch)
    assert_decodes_to(batch, given_)


@pytest.mark.parametrize("name", ["zlib", "zstandard", "lz4"])
def test_compressed_messages_come_back_as_they_were(name: str, needs):
    if name != "zlib":
        needs(name)
    given_: dict[str, Any] = {
        "values": [b"to be or not to be, " * n for n in range(30)],
        "keys": [None, b""] * 15,
        "headers": [[("n", b"1")], []] * 15,
        "timestamps_ms": list(range(30)),
        "tags": ["x", None, "y"] * 10,
        "created_ms": 0,
    }
    batch = encode_batch(**given_, codec=find_codec(name), limits=LIMITS)
    header = validate_batch(batch, LIMITS)
    assert header.codec == find_codec(name).tag
    assert header.payload_bytes < header.payload_uncompressed_bytes == sum(map(len, given_["values"]))
    assert_decodes_to(batch, given_)


@pytest.mark.parametrize("values", [[b"\x00\xff\x10\x83"], [b""], [b"", b""]])
def test_payload_that_does_not_shrink_is_stored_as_it_is(values: list[bytes]):
    header = unpack_header(encode_batch(values, created_ms=0, codec=find_codec("zlib"), limits=LIMITS))
    assert header.codec == 0
    assert header.payload_bytes == header.payload_uncompressed_bytes


@pytest.mark.parametrize("length", [0, 1, 100, 5000])
@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025])
def test_equal_lengths_split_like_any_other(length: int, count: int):
    values = [n.to_bytes(4, "little").ljust(length)[:length] for n in range(count)]
    assert decode_batch(encode_batch(values, created_ms=0, limits=LIMITS), LIMITS).values == values


def test_a_key_that_is_empty_is_not_a_key_that_is_absent():
    for keys in ([None, b""], [b"", None], [b"", b""], [None, b"k"]):
        decoded = decode_batch(encode_batch([b"", b""], keys=keys, created_ms=0, limits=LIMITS), LIMITS)
        assert decoded.keys == keys


def test_columns_that_say_nothing_take_no_space():
    plain = encode_batch([b"a", b"b"], created_ms=5, limits=LIMITS)
    empty = encode_batch(
        [b"a", b"b"], keys=[None, None], headers=[None, {}], tags=[None, None], created_ms=5, limits=LIMITS
    )
    assert empty == plain
    assert len(plain) == HEADER_BYTES + 2 * 4 + 2
    assert unpack_header(plain).attributes == 0


def test_each_column_is_told_by_its_attribute():
    columns = {"keys": [b"k"], "headers": [{"n": b"v"}], "timestamps_ms": [3], "tags": ["t"]}
    batch = encode_batch([b"v"], **columns, created_ms=0, limits=LIMITS)
    expected = ATTRIBUTE_KEYS | ATTRIBUTE_HEADERS | ATTRIBUTE_TIMESTAMPS | ATTRIBUTE_TAGS
    assert unpack_header(batch).attributes == expected


def test_a_tag_lies_in_a_batch_once_however_many_messages_have_it():
    sizes = [len(encode_batch([b"v"] * n, tags=["a tag"] * n, created_ms=0, limits=LIMITS)) for n in (1, 1001)]
    assert sizes[1] - sizes[0] == 1000 * (1 + 4 + 2)


def test_an_empty_tag_is_refused():
    with pytest.raises(ValueError, match="at least one character"):
        encode_batch([b"a", b"b"], tags=["", "t"], created_ms=0, limits=LIMITS)


def test_headers_given_as_a_mapping_and_as_pairs_are_the_same_bytes():
    as_mapping = encode_batch([b"v"], headers=[{"a": b"1", "b": b"2"}], created_ms=0, limits=LIMITS)
    as_pairs = encode_batch([b"v"], headers=[[("a", b"1"), ("b", b"2")]], created_ms=0, limits=LIMITS)
    assert as_mapping == as_pairs


def test_any_buffer_of_bytes_is_a_value_or_a_key():
    values = [b"one", bytearray(b"two"), memoryview(b"three")]
    decoded = decode_batch(encode_batch(values, keys=values, created_ms=0, limits=LIMITS), LIMITS)
    assert decoded.values == decoded.keys == [b"one", b"two", b"three"]


@pytest.mark.parametrize("column", ["keys", "headers", "timestamps_ms", "tags"])
def test_a_column_of_another_length_is_refused_by_name(column: str):
    with pytest.raises(ValueError, match=f"{column} has 1 items for 2 values"):
        encode_batch([b"a", b"b"], created_ms=0, limits=LIMITS, **{column: [b"" if column == "keys" else 0]})


def test_a_view_of_wider_items_is_refused():
    wide = memoryview(bytes(8)).cast("I")
    with pytest.raises(ValueError, match="cast to bytes"):
        encode_batch([wide], created_ms=0, limits=LIMITS)


def test_a_number_that_does_not_fit_the_header_is_refused():
    with pytest.raises(ValueError, match="producer_id=-1"):
        encode_batch([b""], created_ms=0, producer_id=-1, limits=LIMITS)


@settings(deadline=None, max_examples=50)
@given(st.builds(
    BatchHeader,
    body_encoding=st.integers(0, 255), codec=st.integers(0, 255), attributes=st.integers(0, 31),
    size=st.integers(HEADER_BYTES + 1000, 2**32 - 1), count=U32, producer_id=U64, producer_epoch=U32,
    first_sequence=U64, created_first_ms=I64, created_last_ms=I64, payload_bytes=st.integers(0, 1000),
    payload_uncompressed_bytes=U32, base_offset=U64, epoch=U64, appended_ms=I64, body_checksum=U32, header_checksum=U32,
))  # fmt: skip
def test_header_fields_come_back_as_they_were(header: BatchHeader):
    packed = pack_header(header)
    assert len(packed) == HEADER_BYTES
    assert unpack_header(memoryview(packed)) == header
    assert header.end_offset == header.base_offset + header.count


@settings(deadline=None, max_examples=30)
@given(offset=U64, epoch=U64, time=I64, salt=U32)
def test_stamping_changes_the_brokers_part_only_and_seals_it(offset: int, epoch: int, time: int, salt: int):
    batch = encode_batch([b"abc"], keys=[b"k"], created_ms=1, limits=LIMITS)
    before = bytes(batch)
    stamp(memoryview(batch)[:HEADER_BYTES], base_offset=offset, epoch=epoch, appended_ms=time, salt=salt)
    header = validate_batch(batch, LIMITS)
    assert (header.base_offset, header.epoch, header.appended_ms) == (offset, epoch, time)
    assert batch[:72] == before[:72]
    assert batch[96:100] == before[96:100]
    assert batch[104:] == before[104:]
    assert header.header_checksum == crc32c(bytes(batch[:100]), salt)


@settings(deadline=None, max_examples=30)
@given(payload=st.binary(max_size=300), count=st.integers(0, 1000), time=I64)
def test_control_payload_comes_back_as_it_was(payload: bytes, count: int, time: int):
    batch = control_batch(payload, created_ms=time, count=count)
    header = unpack_header(batch)
    assert header.is_control
    assert (header.count, header.created_first_ms) == (count, time)
    assert control_payload(batch) == payload


def test_control_payload_of_a_producers_batch_is_refused():
    batch = encode_batch([b"abc"], created_ms=1, limits=LIMITS)
    with pytest.raises(CorruptionError, match="not a control batch"):
        control_payload(batch)
