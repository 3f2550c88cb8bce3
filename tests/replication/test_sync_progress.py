"""How fast a replica is fed and how far it is: pure, on times that are given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore.replication import SyncPace, SyncProgress


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 5)), min_size=1, max_size=50))
def test_a_pace_never_lets_more_through_than_the_rate_and_one_frame(rate: int, frames: list[tuple[int, float]]) -> None:
    pace, now, sent = SyncPace(), 1000.0, 0
    for size, pause_s in frames:
        now += pause_s
        now += pace.delay_s(now)
        assert sent <= rate * (now - 1000.0) + 1
        pace.sent(size, rate, now)
        sent += size


def test_a_pace_saves_nothing_up() -> None:
    pace = SyncPace()
    pace.sent(100, 100, 0.0)
    assert pace.delay_s(0.0) == 1.0
    assert pace.delay_s(50.0) == 0.0
    pace.sent(100, 100, 50.0)
    assert pace.delay_s(50.0) == 1.0


def test_a_copy_has_no_bound_while_nothing_is_appended() -> None:
    pace = SyncPace()
    assert pace.bytes_per_s(None, 1000.0) is None
    pace.appended(100, 1000.0)
    assert pace.bytes_per_s(None, 1000.2) == 64_000_000
    assert pace.bytes_per_s(None, 1000.25) is None


def test_a_copy_gets_several_times_of_what_is_appended_so_that_it_is_done_some_time() -> None:
    pace = SyncPace()
    for tenth in range(100):
        pace.appended(10_000_000, 1000 + tenth / 10)
    rate = pace.bytes_per_s(None, 1010.0)
    assert rate is not None
    assert 390_000_000 < rate < 410_000_000
    pace.appended(10_000_000, 2000.0)
    assert pace.bytes_per_s(None, 2000.0) == 64_000_000, "what was appended before a pause says nothing"


def test_a_rate_that_was_asked_for_holds_whatever_is_appended() -> None:
    pace = SyncPace()
    assert pace.bytes_per_s(1 << 40, 0.0) == 1 << 40
    pace.appended(100, 0.0)
    assert [pace.bytes_per_s(asked, 0.0) for asked in (5, 1 << 40)] == [5, 1 << 40]


def test_progress_says_nothing_of_speed_before_anything_came() -> None:
    state = SyncProgress().state(10, 100, 5.0)
    assert (state.held_bytes, state.bytes_total, state.bytes_per_s, state.left_ms) == (10, 100, None, None)


def test_progress_is_the_speed_of_the_last_seconds_and_what_is_left_at_that() -> None:
    progress = SyncProgress()
    for second in range(100):
        progress.received(1_000_000 if second < 50 else 1000, float(second))
    state = progress.state(1000, 3000, 100.0)
    assert state.bytes_per_s == 1000
    assert state.left_ms == 2000


def test_progress_of_a_replica_that_stands_still_falls() -> None:
    progress = SyncProgress()
    progress.received(1000, 0.0)
    assert [progress.state(0, 100, at).bytes_per_s for at in (1.0, 10.0, 10_000.0)] == [1000, 100, None]
