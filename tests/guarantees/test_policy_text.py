"""Policies as text: what is written reads back, what is not understood is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.guarantees import (
    CLAUSES,
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    Level,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
    format_flush,
    format_replication,
    parse_flush,
    parse_replication,
)

pytestmark = pytest.mark.quick

bounds = st.one_of(st.none(), st.integers(1, 2**40))
flushes = st.one_of(
    st.just(SyncFlush()),
    st.just(NoFlush()),
    st.builds(AsyncFlush, max_messages=bounds, max_bytes=bounds, max_interval_ms=bounds),
)
replications = st.one_of(
    st.just(NoReplication()),
    st.builds(AsyncReplication, max_delay_ms=st.integers(1, 10**9)),
    st.builds(
        AsyncReplication,
        max_delay_ms=st.integers(1, 10**9),
        on_exceeded=st.just("throttle"),
        on_missing=st.sampled_from(["block", "reject"]),
    ),
    st.builds(
        SyncReplication,
        copies=st.integers(2, 9),
        level=st.sampled_from(Level),
        on_missing=st.sampled_from(["block", "reject"]),
    ),
)


@settings(deadline=None, max_examples=100)
@given(flushes, replications)
def test_policies_read_back_from_their_text(flush: FlushPolicy, replication: ReplicationPolicy) -> None:
    assert parse_flush(format_flush(flush)) == flush
    assert parse_replication(format_replication(replication)) == replication


def test_units_and_spaces_are_read() -> None:
    text = " async( max_messages=1k , max_bytes=1 MB, max_interval=200 ms ) "
    assert parse_flush(text) == AsyncFlush(max_messages=1000, max_bytes=10**6, max_interval_ms=200)
    assert parse_flush("async") == parse_flush("async()") == AsyncFlush()


def test_a_bound_given_leaves_the_others_unbounded_and_none_given_takes_the_defaults() -> None:
    assert AsyncFlush(max_bytes=5) == parse_flush("async(max_bytes=5)")
    assert AsyncFlush(max_bytes=5).max_messages is None
    assert (AsyncFlush().max_messages, AsyncFlush().max_bytes, AsyncFlush().max_interval_ms) == (100_000, 2**26, 1000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown flush policy ''; one of sync, none, async"),
        ("Sync", "unknown flush policy 'Sync'"),
        ("sometimes", "unknown flush policy 'sometimes'"),
        ("async(max_bytes=1 MB", "unknown flush policy"),
        ("sync(max_bytes=1)", "sync takes no arguments"),
        ("async(max_bites=1)", "'max_bites=1' is not understood; async takes max_messages, max_bytes, max_interval"),
        ("async(max_bytes)", "'max_bytes' is not understood"),
        ("async(max_bytes=)", "'max_bytes=' is not understood"),
        ("async(max_bytes=1, max_bytes=2)", "max_bytes is given twice"),
        ("async(max_interval=1 parsec)", "max_interval: unknown unit 'parsec'"),
        ("async(max_bytes=0)", "must be >= 1: 0"),
        ("async(" + "x" * 10_000, "unknown flush policy"),
    ],
)
def test_a_flush_policy_that_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_flush(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raft", "unknown replication policy 'raft'"),
        ("sync(copies=1)", "copies = 1"),
        ("sync(level=disc)", "unknown level 'disc'; one of none, memory"),
        ("sync(on_missing=pray)", "on_missing"),
        ("async(on_exceeded=pray)", "on_exceeded"),
        ("async(on_exceeded=throttle, on_missing=pray)", "on_missing"),
        ("async(on_missing=reject)", "on_missing = reject: without meaning under on_exceeded = report"),
    ],
)
def test_a_replication_policy_that_is_not_understood_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_replication(text)
    assert said in str(caught.value)


def test_there_are_twenty_clauses_in_order_each_with_a_statement() -> None:
    assert list(CLAUSES) == [f"G{number:02}" for number in range(1, 21)]
    assert all(clause.id == key and clause.name and clause.statement for key, clause in CLAUSES.items())
    assert len({clause.name for clause in CLAUSES.values()}) == 20
