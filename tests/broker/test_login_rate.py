"""Failed logins: counted by host, or by network where each host has one of its own, and in a bounded table."""

from __future__ import annotations

import pytest

from mqcore.abc import Peer
from mqcore.broker._login_rate import ADDRESSES_MAX, LoginRate, origin_of


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("192.0.2.7:5000", "192.0.2.7"),
        ("[2001:db8:1:2:3:4:5:6]:5000", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff:ffff:ffff:ffff]:1", "2001:db8:1:2::/64"),
        ("[2001:db8:1:3::1]:5000", "2001:db8:1:3::/64"),
        ("[::ffff:192.0.2.7]:5000", "192.0.2.7"),
        ("[fe80::1%eth0]:5000", "fe80::/64"),
        ("model-host:1", "model-host"),
        ("inproc", "inproc"),
    ],
)
def test_attempts_are_counted_by_host_and_of_ipv6_by_network(address: str, origin: str) -> None:
    assert origin_of(Peer(address=address)) == origin


def test_a_user_of_this_machine_is_counted_as_that_user() -> None:
    assert origin_of(Peer(address="unix:/run/mq.sock", user_id=1000)) == "user 1000"


class Time:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def test_so_many_a_minute_may_fail_and_the_rest_is_told_how_long_to_wait() -> None:
    now = Time()
    rate = LoginRate(2, now)
    assert [rate.charge("a") for _ in range(3)] == [0.0, 0.0, 30.0]
    assert rate.charge("b") == 0.0, "another one is not made to wait"
    now.s += 29.0
    assert rate.charge("a") == pytest.approx(1.0)
    now.s += 1.0
    assert rate.charge("a") == 0.0


def test_an_attempt_that_succeeded_costs_nothing_and_leaves_nothing() -> None:
    rate = LoginRate(1, Time())
    for _ in range(10):
        assert rate.charge("a") == 0.0
        rate.refund("a")
    assert len(rate) == 0


@pytest.mark.parametrize("over", [-1, 0, 1, 1000])
def test_g20_the_table_is_bounded_and_forgets_who_was_quiet_longest(over: int) -> None:
    rate = LoginRate(1, Time())
    for number in range(ADDRESSES_MAX + over):
        rate.charge(f"network {number}")
    assert len(rate) == min(ADDRESSES_MAX + over, ADDRESSES_MAX)
    assert rate.charge(f"network {ADDRESSES_MAX + over - 1}") > 0, "the newest is still counted"
