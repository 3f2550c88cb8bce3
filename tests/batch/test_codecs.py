"""The codecs of the project: what they compress they give back, and none writes more than it is told."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.abc import Codec
from mqcore.batch import decode_batch, encode_batch
from mqcore.errors import CorruptionError, PluginNotFoundError
from mqcore.limits import Limits
from mqcore.registry import codec_of_tag, find_codec

TEXT = b"it is a truth universally acknowledged, " * 50


@pytest.fixture(params=["zlib", "zstandard", "lz4"])
def codec(request: pytest.FixtureRequest, needs) -> Codec:
    if request.param != "zlib":
        needs(request.param)
    return find_codec(request.param)


@pytest.mark.parametrize(("name", "tag"), [("zlib", 1), ("zstandard", 2), ("lz4", 3)])
def test_tags_are_those_of_the_format(name: str, tag: int):
    assert find_codec(name).tag == tag
    assert codec_of_tag(tag).name == name


def test_what_is_compressed_comes_back(codec: Codec):
    @settings(deadline=None, max_examples=40)
    @given(st.binary(min_size=1, max_size=2000), st.integers(1, 50))
    def check(part: bytes, times: int) -> None:
        payload = part * times
        block = codec.compress(memoryview(payload))
        assert type(block) is bytes
        assert codec.decompress(memoryview(block), len(payload)) == payload

    check()


def test_text_becomes_much_smaller(codec: Codec):
    assert len(codec.compress(TEXT)) < len(TEXT) / 10


@pytest.mark.parametrize("other", [-1, 1, -len(TEXT), 10_000])
def test_another_size_than_stated_is_refused(codec: Codec, other: int):
    with pytest.raises(CorruptionError):
        codec.decompress(codec.compress(TEXT), len(TEXT) + other)


def test_every_cut_and_bytes_left_over_are_refused(codec: Codec):
    block = codec.compress(TEXT)
    for size in range(len(block)):
        with pytest.raises(CorruptionError):
            codec.decompress(block[:size], len(TEXT))
    for rest in (b"\0", block):
        with pytest.raises(CorruptionError):
            codec.decompress(block + rest, len(TEXT))


def test_damage_never_yields_another_size(codec: Codec):
    block = codec.compress(TEXT)

    @settings(deadline=None, max_examples=150)
    @given(st.integers(0, len(block) - 1), st.integers(1, 255))
    def check(position: int, change: int) -> None:
        damaged = bytearray(block)
        damaged[position] ^= change
        with contextlib.suppress(CorruptionError):
            assert len(codec.decompress(damaged, len(TEXT))) == len(TEXT)

    check()


def test_a_bomb_costs_what_it_states_and_not_what_it_holds(codec: Codec):
    block = codec.compress(bytes(64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError):
            codec.decompress(block, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2_200_000
    finally:
        tracemalloc.stop()


def test_a_zstandard_frame_that_states_no_size_is_bounded_too(needs):
    needs("zstandard")
    import zstandard

    block = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    codec = find_codec("zstandard")
    assert codec.decompress(block, len(TEXT)) == TEXT
    with pytest.raises(CorruptionError):
        codec.decompress(block, len(TEXT) - 1)


def test_a_zstandard_frame_that_states_the_moon_allocates_nothing(needs):
    needs("zstandard")
    frame = b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(CorruptionError, match=str(2**60)):
        find_codec("zstandard").decompress(frame, 1000)


@pytest.mark.parametrize(("name", "modules"), [("zstandard", ["zstandard"]), ("lz4", ["lz4", "lz4.block"])])
def test_a_codec_without_its_library_names_the_extra(name: str, modules: list[str], monkeypatch: pytest.MonkeyPatch):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    codec = find_codec(name)
    for use in (lambda: codec.compress(b"a"), lambda: codec.decompress(b"a", 1)):
        with pytest.raises(PluginNotFoundError, match=rf"mqcore\[{name}\]"):
            use()


def test_a_codec_that_is_not_installed_is_told_when_values_are_read():
    class Private(Codec):
        name = "private"
        tag = 222

        def compress(self, payload: object) -> bytes:
            return b"!"

        def decompress(self, payload: object, size: int) -> bytes:
            raise NotImplementedError

    batch = encode_batch([b"abc"], keys=[b"k"], created_ms=0, codec=Private(), limits=Limits())
    decoded = decode_batch(batch, Limits())
    assert decoded.keys == [b"k"]
    with pytest.raises(PluginNotFoundError, match="222"):
        _ = decoded.values
