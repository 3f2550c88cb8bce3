"""Options: one attrs class, filled alike from text (URL, environment, flags) and from TOML values."""

from collections.abc import Mapping
from typing import Literal

import attrs
import pytest
from attrs import validators

from mqcore.errors import ConfigurationError
from mqcore.guarantees import AsyncFlush, FlushPolicy, Level, NoFlush, SyncFlush
from mqcore.registry import format_value, merge_options, option_fields, structure_options


@attrs.frozen(kw_only=True)
class Inner:
    size_bytes: int = 1


@attrs.frozen(kw_only=True)
class Options:
    segment_bytes: int = attrs.field(default=64, validator=validators.ge(1), metadata={"help": "size of a segment"})
    lease_ms: int | None = None
    append_inline_us_max: int = 100
    count: int = 0
    ratio: float = 0.5
    eager: bool = False
    mode: Literal["fast", "slow"] = "fast"
    level: Level = Level.DISK
    flush: FlushPolicy | None = None
    paths: tuple[str, ...] = ()
    inner: Inner = Inner()
    more: Mapping[str, Inner] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Needy:
    path: str


def test_text_and_values_fill_the_same_options() -> None:
    from_toml = structure_options(
        Options,
        {
            "segment_bytes": "1 MiB",
            "lease_ms": 5000,
            "append_inline_us_max": "2 ms",
            "count": 10_000,
            "ratio": 0.25,
            "eager": True,
            "mode": "slow",
            "level": "page-cache",
            "flush": {"policy": "async", "max_interval": "200 ms"},
            "paths": ["/a", "/b"],
            "inner": {"size_bytes": "2 KB"},
            "more": {"x": {"size_bytes": 3}},
        },
        "file",
    )
    from_text = structure_options(
        Options,
        {
            "segment_bytes": "1048576",
            "lease": "5 s",
            "append_inline_us_max": "2000",
            "count": "10k",
            "ratio": "0.25",
            "eager": "true",
            "mode": "slow",
            "level": "page-cache",
            "flush": "async(max_interval=200 ms)",
            "paths": "/a,/b",
            "inner": Inner(size_bytes=2000),
            "more": {"x": Inner(size_bytes=3)},
        },
        "URL",
    )
    assert from_toml == from_text
    assert from_toml.flush == AsyncFlush(max_interval_ms=200)
    assert from_toml.segment_bytes == 2**20


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"segment_byte": 1}, ["segment_byte", "did you mean 'segment_bytes'", "allowed: segment_bytes, lease_ms"]),
        ({"segment_bytes": "2 parsecs"}, ["segment_bytes", "'2 parsecs'", "KiB"]),
        ({"segment_bytes": -4}, ["segment_bytes", "-4 is negative"]),
        ({"segment_bytes": 0}, ["segment_bytes", "must be >= 1: 0"]),
        ({"segment_bytes": True}, ["segment_bytes", "True"]),
        ({"segment_bytes": 1.5}, ["segment_bytes", "1.5"]),
        ({"lease": 5}, ["lease", "5 needs its unit", "lease_ms"]),
        ({"lease": "5 s", "lease_ms": 5}, ["given twice"]),
        ({"ratio": "nan"}, ["ratio", "'nan' is not a number"]),
        ({"eager": "yes"}, ["eager", "'yes'", "true nor false"]),
        ({"mode": "slowly"}, ["mode", "'slowly'", "fast, slow"]),
        ({"level": "disc"}, ["level", "'disc'", "memory, page-cache, disk"]),
        ({"flush": "asink"}, ["flush", "'asink'", "sync, none, async"]),
        ({"flush": {"policy": "async", "max_bites": 1}}, ["flush.max_bites", "max_messages, max_bytes"]),
        ({"flush": {"max_bytes": 1}}, ["flush.policy", "sync, async, none"]),
        ({"flush": 7}, ["flush", "7 is no policy"]),
        ({"paths": 7}, ["paths", "7 is not a list"]),
        ({"paths": ["/a", 7]}, ["paths[1]", "7 is not text"]),
        ({"inner": {"size": 1}}, ["inner.size", "allowed: size_bytes"]),
        ({"inner": 3}, ["inner", "3 is not a table"]),
        ({"more": {"x": {"size_bytes": "?"}}}, ["more.x.size_bytes", "'?'"]),
    ],
)
def test_a_bad_option_is_named_with_its_value_and_what_is_allowed(mapping: dict[str, object], named: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        structure_options(Options, mapping, "broker.toml: [storage]")
    message = str(caught.value)
    assert message.startswith("broker.toml: [storage]: ")
    assert "\n" not in message
    for part in named:
        assert part in message


def test_an_option_that_has_no_default_must_be_given() -> None:
    with pytest.raises(ConfigurationError, match=r"URL: path must be given"):
        structure_options(Needy, {}, "URL")


def test_sources_of_equal_rank_may_agree_and_must_not_differ() -> None:
    table = ("the table", {"segment_bytes": "1 KiB", "count": 3})
    assert merge_options(Options, [("the URL", {"segment_bytes": "1024"}), table]).segment_bytes == 1024
    with pytest.raises(ConfigurationError, match=r"segment_bytes is given twice: '1' by the URL, '1 KiB' by the table"):
        merge_options(Options, [("the URL", {"segment_bytes": "1"}), table])
    with pytest.raises(ConfigurationError, match=r"lease is given twice"):
        merge_options(Options, [("the URL", {"lease_ms": "1"}), ("the table", {"lease": "1 s"})])


def test_policies_of_every_kind_are_read() -> None:
    for text, policy in (("sync", SyncFlush()), ("none", NoFlush()), ("async", AsyncFlush())):
        assert structure_options(Options, {"flush": text}, "x").flush == policy
        assert structure_options(Options, {"flush": {"policy": text}}, "x").flush == policy


def test_every_default_reads_back_from_its_written_form() -> None:
    written = {
        field.name: format_value(field.name, field.default)
        for field in option_fields(Options)
        if field.default is not None
    }
    assert structure_options(Options, written, "x") == Options()


def test_option_fields_say_what_is_allowed() -> None:
    fields = {field.name: field for field in option_fields(Options)}
    assert fields["segment_bytes"].help == "size of a segment"
    assert 'bytes, as in "2 MB"' in fields["segment_bytes"].allowed
    assert fields["lease_ms"].none_writable
    assert fields["mode"].allowed == "fast, slow"
    assert option_fields(Needy)[0].required
