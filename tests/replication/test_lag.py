"""How far replicas lag: exact to the delay, in memory that does not grow with the number of batches."""

from __future__ import annotations

import pytest

from mqcore.replication._lag import ReplicaLag

pytestmark = pytest.mark.quick


def test_what_the_set_holds_may_go_back_and_what_it_lacks_then_is_as_old_as_it_was() -> None:
    lag = ReplicaLag(10_000)
    lag.acknowledged(5, 0)
    assert not lag.is_exceeded(0, 9_999)
    assert lag.is_exceeded(4, 10_000)
    assert not lag.is_exceeded(5, 50_000)
    assert lag.is_exceeded(3, 50_000), "a member came back without what it had"


def test_the_age_is_that_of_the_oldest_that_is_lacking() -> None:
    lag = ReplicaLag(10_000)
    for end_offset, now_us in ((1, 0), (2, 4_000), (3, 8_000)):
        lag.acknowledged(end_offset, now_us)
    assert lag.is_exceeded(0, 10_000)
    assert not lag.is_exceeded(1, 13_999)
    assert lag.is_exceeded(1, 14_000)


def test_g20_any_number_of_batches_is_remembered_in_few_entries_and_never_as_younger_than_it_is() -> None:
    lag = ReplicaLag(64_000)
    for number in range(100_000):
        lag.acknowledged(number + 1, number)
    assert len(lag._young) <= 130
    for number in range(0, 36_000, 500):
        assert lag.is_exceeded(number, number + 64_000)
