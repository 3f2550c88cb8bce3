"""A dead letter's history survives its headers, and headers from anybody are read without trust."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore.delivery import (
    HandlingFailure,
    Origin,
    history_of,
    history_pairs,
    original_pairs,
    settled_by,
    settled_pairs,
)

ORIGIN = Origin(topic="jobs", partition=3, offset=2**60, epoch=9, group="g 1")
FAILURE = HandlingFailure(attempts=5, first_ms=1, last_ms=2, error="ValueError: ä\nb")
OWN = (("trace", b"1"), ("trace", b"\xff"))


def test_the_history_comes_back_and_the_message_s_own_headers_are_told_apart() -> None:
    pairs = (*OWN, *history_pairs(ORIGIN, FAILURE))
    assert history_of(pairs) == (ORIGIN, FAILURE)
    assert original_pairs(pairs) == OWN


def test_a_long_error_is_cut_and_stays_text() -> None:
    found = history_of(history_pairs(ORIGIN, HandlingFailure(attempts=1, first_ms=1, last_ms=1, error="ä" * 5_000)))
    assert found is not None
    assert found[1].error == "ä" * 500


def test_what_settles_a_dead_letter_names_it() -> None:
    assert settled_by(settled_pairs(17, "replayed")) == (17, "replayed")
    assert settled_by(OWN) is None
    assert settled_by((("mqcore-dead-letter-settles", b"17 burnt"),)) is None


@given(st.lists(st.tuples(st.sampled_from([*dict(history_pairs(ORIGIN, FAILURE)), "x"]), st.binary(max_size=24))))
def test_headers_of_a_stranger_are_a_history_or_none(pairs: list[tuple[str, bytes]]) -> None:
    found = history_of(pairs)
    assert found is None or found[1].attempts >= 0
    settled_by([("mqcore-dead-letter-settles", value) for _, value in pairs])
