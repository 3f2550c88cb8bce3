"""Parked fetches: woken in order of what they wait for, at the cost of those that wake, and nothing stays behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore.broker._parked import ParkedFetches

STEPS = st.lists(
    st.tuples(st.sampled_from(["park", "forget", "wake"]), st.integers(0, 12), st.integers(0, 8)), max_size=60
)


@given(STEPS)
def test_what_wakes_is_what_waits_below_the_offset(steps: list[tuple[str, int, int]]) -> None:
    parked: ParkedFetches[int] = ParkedFetches()
    waiting: dict[int, int] = {}
    for step, key, offset in steps:
        if step == "park" and key not in waiting:
            parked.park(offset, key)
            waiting[key] = offset
        elif step == "forget":
            parked.forget(key)
            waiting.pop(key, None)
        elif step == "wake":
            woken = parked.wake(offset)
            assert sorted(woken) == sorted(key for key, beyond in waiting.items() if beyond < offset)
            assert [waiting[key] for key in woken] == sorted(waiting[key] for key in woken)
            waiting = {key: beyond for key, beyond in waiting.items() if beyond >= offset}
        assert len(parked) == len(waiting)


def test_g20_fetches_that_come_and_go_without_a_commit_leave_nothing_behind() -> None:
    parked: ParkedFetches[int] = ParkedFetches()
    parked.park(5, 0)
    for key in range(1, 10_000):
        parked.park(key % 7, key)
        parked.forget(key)
    assert len(parked._heap) < 50
    assert parked.wake(6) == [0]


def test_waking_one_touches_none_of_those_that_wait_for_more() -> None:
    class Offset(int):
        compared = 0

        def __lt__(self, other: int) -> bool:
            Offset.compared += 1
            return int.__lt__(self, other)

    parked: ParkedFetches[int] = ParkedFetches()
    for key in range(10_000):
        parked.park(Offset(100 + key), key)
    Offset.compared = 0
    assert parked.wake(101) == [0]
    assert Offset.compared < 100
