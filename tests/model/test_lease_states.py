"""R1 and R11: no two nodes hold the lease, whatever is late, lost, restarted or put back; read loosely, two do."""

from __future__ import annotations

import pytest
from lease_states import LeaseBounds, LeaseReading, search_leases

AS_WRITTEN = LeaseReading()
LOOSE: dict[str, LeaseBounds] = {
    "counts_from_sending": LeaseBounds(ticks=3, writes=2, looks=2),
    "waits_from_receipt": LeaseBounds(ticks=3, writes=2, looks=2),
    "has_margin": LeaseBounds(ticks=3, writes=1, looks=2),
    "has_stretch": LeaseBounds(ticks=2, writes=1, looks=2),
    "restart_forgets": LeaseBounds(ticks=3, writes=1, looks=2, restarts=1),
    "promotes_on_lease": LeaseBounds(ticks=3, writes=2, looks=2),
    "break_counts_anew": LeaseBounds(ticks=4, writes=2, looks=1, restores=1),
    "conflict_is_not_own": LeaseBounds(ticks=3, writes=2, looks=2),
}
"""The bounds within which a rule read loosely lets two nodes hold the lease."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "bounds",
    [
        LeaseBounds(ticks=4, writes=2, looks=2),
        LeaseBounds(ticks=3, writes=2, looks=2, losses=1),
        LeaseBounds(ticks=3, writes=2, looks=2, restarts=1),
        LeaseBounds(ticks=6, writes=2, looks=1, restores=1),
    ],
    ids=str,
)
def test_r11_the_lease_as_it_is_written_is_never_held_twice(bounds: LeaseBounds) -> None:
    found, searched = search_leases(AS_WRITTEN, bounds)
    assert found is None, "\n".join(found.events)
    assert searched > 30_000, "the bounds keep away what the search is for"


@pytest.mark.parametrize("rule", LOOSE)
def test_a_rule_of_the_lease_read_loosely_lets_two_nodes_hold_it(rule: str) -> None:
    found, searched = search_leases(AS_WRITTEN._replace(**{rule: False}), LOOSE[rule])
    print(f"{rule}, {searched} states\n{found}")
    assert found is not None
    assert found.events[-1].startswith("deliver")


def test_every_rule_of_the_lease_has_its_loose_reading() -> None:
    assert set(LOOSE) == set(LeaseReading._fields)
