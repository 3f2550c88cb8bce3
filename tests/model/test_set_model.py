"""The rules of section 6 keep the clauses in every state within bounds; each rule read loosely breaks one, shortly."""

from __future__ import annotations

import pytest
from set_rules import Reading
from set_search import Bounds, search_sets, walk_sets

AS_WRITTEN = Reading()
ANY_TIME = AS_WRITTEN._replace(r11_lease=False)
"""Elections at any moment, which is more than a lease allows: nothing synchronous stands on it."""

LOOSE: dict[str, tuple[Bounds, str, str, str]] = {
    "r1_conditional": (Bounds(elections=2, changes=1), "ABC", "AB", "G01"),
    "r2_incarnation": (Bounds(cuts=1), "ABC", "AB", "G01"),
    "r3_new_reign": (Bounds(values=2, cuts=1, elections=0), "ABC", "AB", "G05"),
    "r4_own_history": (Bounds(values=2, elections=2), "ABC", "AB", "G01"),
    "r5_whole_walk": (Bounds(values=3, elections=3), "AB", "AB", "G01"),
    "r5_cuts_divergence_only": (Bounds(kills=1, elections=1), "AB", "AB", "G01"),
    "r5_commits_after_cut": (Bounds(values=2, reads=True), "ABC", "AB", "G0"),
    "r6_joins_at_beginning": (Bounds(elections=2, changes=1), "ABC", "AB", "G01"),
    "r7_waits_for_both": (Bounds(changes=1), "ABC", "AB", "G01"),
    "r7_removed_counts": (Bounds(changes=1), "ABC", "ABC", "G01"),
    "r7_unknown_is_open": (Bounds(changes=1), "ABC", "AB", "G01"),
    "r8_floor": (Bounds(cuts=1, changes=1), "ABC", "AB", "G13"),
    "r11_lease": (Bounds(answers=True), "AB", "AB", "G09"),
}
"""The bounds within which a rule read loosely breaks a clause, the nodes, the members, and the clause."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bounds", "nodes", "states"),
    [
        (Bounds(elections=2, changes=1), "ABC", 20_000),
        (Bounds(cuts=1, changes=1), "ABC", 60_000),
        (Bounds(values=2, reads=True), "ABC", 3_000),
        (Bounds(values=2, cuts=1, elections=2, changes=1), "AB", 10_000),
    ],
    ids=str,
)
def test_section_6_as_it_is_written_breaks_no_clause(bounds: Bounds, nodes: str, states: int) -> None:
    found, searched = search_sets(ANY_TIME, bounds, nodes=nodes)
    assert found is None, str(found)
    assert searched > states, "the bounds keep away what the search is for"


@pytest.mark.slow
def test_r11_with_leases_no_acknowledgement_follows_a_promotion() -> None:
    found, searched = search_sets(AS_WRITTEN, Bounds(kills=1, elections=2, answers=True))
    assert found is None, str(found)
    assert searched > 20_000


@pytest.mark.slow
def test_section_6_holds_on_random_ways_far_beyond_what_is_searched() -> None:
    bounds = Bounds(values=4, kills=3, cuts=3, elections=5, changes=6, answers=True, reads=True)
    for seed in range(300):
        found = walk_sets(AS_WRITTEN, bounds, seed=seed, steps=90, members="ABC"[: 2 + seed % 2])
        assert found is None, f"seed {seed}\n{found}"


@pytest.mark.parametrize("rule", LOOSE)
def test_a_rule_read_loosely_breaks_its_clause(rule: str) -> None:
    bounds, nodes, members, clause = LOOSE[rule]
    reading = (AS_WRITTEN if bounds.answers else ANY_TIME)._replace(**{rule: False})
    found, searched = search_sets(reading, bounds, nodes=nodes, members=members)
    print(f"{rule}, {searched} states\n{found}")
    assert found is not None
    assert found.text.startswith(clause)


def test_every_rule_of_the_model_has_its_loose_reading() -> None:
    assert {*LOOSE, "copies"} == set(Reading._fields)
