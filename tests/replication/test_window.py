"""G03: the asynchronous window is a promise; what is acknowledged and unflushed stays within every bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.guarantees import AsyncFlush
from mqcore.replication import AsyncWindow, UnflushedTotal

pytestmark = pytest.mark.quick

BOUNDS = st.builds(
    AsyncFlush,
    max_messages=st.none() | st.integers(1, 20),
    max_bytes=st.none() | st.integers(1, 2000),
    max_interval_ms=st.none() | st.integers(1, 50),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12), st.integers(1, 500)),
        st.tuples(st.just("flush"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 40), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(policy=BOUNDS, total_max=st.none() | st.integers(1, 3000), steps=STEPS)
def test_g03_no_bound_is_ever_exceeded_except_by_a_batch_that_its_flush_covers(
    policy: AsyncFlush, total_max: int | None, steps: list[tuple[str, int, int]]
) -> None:
    total = UnflushedTotal(total_max)
    window = AsyncWindow(policy, total, offset=0, position=0)
    ends: list[tuple[int, int]] = []
    acknowledged_at: dict[int, int] = {}
    offset = position = durable = now_us = 0
    durable_position = 0
    before = 0
    for step, amount, size in steps:
        if step == "append":
            offset, position = offset + amount, position + size
            ends.append((offset, position))
            window.appended(offset, position)
        elif step == "flush":
            covered = ends[: max(len(ends) - amount, 0)]
            if covered and covered[-1][0] > durable:
                durable, durable_position = covered[-1]
                window.flushed(durable, durable_position)
        else:
            now_us += amount * 1000
        frontier = window.advance(now_us, 10**9)
        assert frontier >= before
        for end, _ in ends:
            if before < end <= frontier:
                acknowledged_at[end] = now_us
        before = frontier
        unflushed = [end for end, _ in ends if durable < end <= frontier]
        if unflushed:
            unflushed_position = dict(ends)[unflushed[-1]]
            if policy.max_messages is not None:
                assert unflushed[-1] - durable <= policy.max_messages
            if policy.max_bytes is not None:
                assert unflushed_position - durable_position <= policy.max_bytes
            if policy.max_interval_ms is not None:
                times = [acknowledged_at[end] for end in unflushed]
                assert max(times) - min(times) < policy.max_interval_ms * 1000 or max(times) == min(times)
            if total_max is not None:
                assert unflushed_position - durable_position <= total_max
            assert total.bytes_now == window.unflushed_bytes == unflushed_position - durable_position
        else:
            assert total.bytes_now == 0
    if ends:
        window.flushed(*ends[-1])
        assert window.advance(now_us, 10**9) == ends[-1][0]


def test_a_batch_larger_than_the_bound_is_acknowledged_by_the_flush_that_covers_it() -> None:
    window = AsyncWindow(AsyncFlush(max_messages=5), UnflushedTotal(), offset=0, position=0)
    window.appended(6, 600)
    assert window.advance(0, 10**9) == 0
    assert window.wants_flush_now
    window.flushed(6, 600)
    assert window.advance(0, 10**9) == 6


def test_a_stall_makes_the_oldest_older_but_adds_nothing_to_it() -> None:
    policy = AsyncFlush(max_messages=None, max_bytes=None, max_interval_ms=10)
    window = AsyncWindow(policy, UnflushedTotal(), offset=0, position=0)
    window.appended(1, 10)
    assert window.advance(0, 10**9) == 1
    window.appended(2, 20)
    assert window.advance(9_999, 10**9) == 2
    window.appended(3, 30)
    assert window.advance(10_000, 10**9) == 2
    assert window.advance(10_000_000, 10**9) == 2
    window.flushed(2, 20)
    assert window.advance(10_000_000, 10**9) == 3


def test_a_flush_is_due_before_acknowledgements_have_to_wait() -> None:
    window = AsyncWindow(AsyncFlush(max_messages=100, max_interval_ms=1000), UnflushedTotal(), offset=0, position=0)
    window.appended(49, 10)
    window.advance(0, 10**9)
    assert not window.wants_flush_now
    assert window.flush_due_us == 500_000
    window.appended(50, 11)
    window.advance(0, 10**9)
    assert window.wants_flush_now


def test_a_log_that_has_nothing_to_flush_wants_no_flush_for_the_bytes_of_others() -> None:
    total = UnflushedTotal(bytes_max=3_000)
    stopped, other = (AsyncWindow(AsyncFlush(max_messages=40), total, offset=0, position=0) for _ in range(2))
    stopped.appended(1, 2_000)
    assert stopped.advance(0, 10**9) == 1
    assert stopped.wants_flush_now
    assert not other.wants_flush_now
    other.appended(1, 500)
    assert other.advance(0, 10**9) == 1
    assert other.wants_flush_now
    other.flushed(1, 500)
    assert not other.wants_flush_now


def test_g03_what_was_acknowledged_before_there_was_an_interval_counts_as_too_old_to_be_added_to() -> None:
    window = AsyncWindow(AsyncFlush(max_messages=100), UnflushedTotal(), offset=0, position=0)
    window.appended(1, 10)
    assert window.advance(1_000_000_000, 1) == 1
    window.set_policy(AsyncFlush(max_messages=100, max_interval_ms=1000))
    window.appended(2, 20)
    assert window.advance(1_000_000_000, 2) == 1
    window.flushed(1, 10)
    assert window.advance(1_000_000_000, 2) == 2
