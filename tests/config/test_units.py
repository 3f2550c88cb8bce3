"""Units: what is written is what is meant, exactly, or an error that lists the units."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.units import (
    NUMBER_MAX,
    format_bytes,
    format_count,
    format_duration_ms,
    format_duration_us,
    parse_bytes,
    parse_count,
    parse_duration_ms,
    parse_duration_us,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 MB", 2_000_000),
        ("2MB", 2_000_000),
        ("2 mb", 2_000_000),
        ("64 KiB", 65_536),
        ("512", 512),
        ("512 B", 512),
        (" 1_000 ", 1_000),
        ("1.5 MB", 1_500_000),
        ("0.5 KiB", 512),
        ("1 TiB", 2**40),
        (7, 7),
    ],
)
def test_bytes_are_decimal_or_binary_as_their_unit_says(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("500 ms", 500),
        ("1 m", 60_000),
        ("2 h", 7_200_000),
        ("1.5 s", 1_500),
        ("7 d", 604_800_000),
        ("2000 us", 2),
        ("30", 30),
    ],
)
def test_durations_count_milliseconds(text: str, expected_ms: int) -> None:
    assert parse_duration_ms(text) == expected_ms


def test_counts_have_decimal_prefixes_and_durations_may_count_microseconds() -> None:
    assert [parse_count(text) for text in ("10k", "2 M", "100_000", "1.5k")] == [10_000, 2_000_000, 100_000, 1_500]
    assert parse_duration_us("2 ms") == 2_000


@pytest.mark.parametrize("parse", [parse_bytes, parse_duration_ms, parse_duration_us, parse_count])
@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "-1",
        "+1",
        "nan",
        "inf",
        "1e9",
        "0x10",
        "1 parsec",
        "one",
        "1..5",
        "1,5",
        ".5",
        "1 M B",
        "\u0661",
        True,
        None,
        1.5,
        -1,
    ],
)
def test_what_is_no_quantity_is_refused_with_the_units(parse, bad) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"write a"):
        parse(bad)


def test_fractions_of_the_smallest_unit_are_refused_not_rounded() -> None:
    for parse, text in (
        (parse_bytes, "1.5"),
        (parse_bytes, "0.0001 KB"),
        (parse_duration_ms, "1 us"),
        (parse_count, "0.5"),
    ):
        with pytest.raises(ValueError, match="whole number"):
            parse(text)


@pytest.mark.parametrize("parse", [parse_bytes, parse_duration_ms, parse_count])
def test_numbers_beyond_64_bits_and_endless_texts_are_refused(parse) -> None:  # type: ignore[no-untyped-def]
    assert parse(str(NUMBER_MAX)) == NUMBER_MAX
    with pytest.raises(ValueError, match="too large"):
        parse(str(NUMBER_MAX + 1))
    with pytest.raises(ValueError, match="not a quantity"):
        parse("9" * 100_000)


def test_case_matters_where_it_tells_minutes_from_mega() -> None:
    for parse, text in ((parse_duration_ms, "1 M"), (parse_count, "1 m")):
        with pytest.raises(ValueError, match="unknown unit"):
            parse(text)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**50))
def test_formatting_reads_back_exactly(number: int) -> None:
    assert parse_bytes(format_bytes(number)) == number
    assert parse_duration_ms(format_duration_ms(number)) == number
    assert parse_duration_us(format_duration_us(number)) == number
    assert parse_count(format_count(number)) == number
