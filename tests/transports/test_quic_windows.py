"""Shares of a listener's windows: never more than the total, and something for each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore_quic._windows import LEAST_BYTES, WindowShares, full_window

MIB = 1 << 20


def test_g20_all_windows_together_are_within_the_total_however_many_connections_come() -> None:
    shares = WindowShares(1024 * MIB, 4096, full_window(MIB))
    windows = [shares.take() for _ in range(4096)]
    assert sum(windows) <= 1024 * MIB
    assert windows[0] == windows[40] == 8 * MIB
    assert min(windows) >= 128 * 1024


@given(st.integers(MIB, 1 << 40), st.integers(1, 5_000), st.integers(64 * 1024, 1 << 30), st.lists(st.booleans()))
def test_what_was_given_back_is_there_again(total: int, links_max: int, window: int, comes: list[bool]) -> None:
    shares = WindowShares(total, links_max, full_window(window))
    first = shares.take()
    shares.give_back(first)
    out: list[int] = []
    for is_new in comes:
        if is_new and len(out) < links_max:
            out.append(shares.take())
            assert LEAST_BYTES <= out[-1] <= full_window(window)
            assert sum(out) <= max(total, LEAST_BYTES * links_max)
        elif out:
            shares.give_back(out.pop(0))
    for each in out:
        shares.give_back(each)
    assert shares.take() == first
