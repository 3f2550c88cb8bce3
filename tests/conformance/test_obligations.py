"""A clause that was given nothing to look at has not passed: what each cell can say, and how much of it."""

from __future__ import annotations

import pytest
from checker_stories import STORIES

from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.checkers import CHECKERS, Facts
from mqcore_conformance.obligations import obligations
from mqcore_conformance.plans import (
    CRASH_POINTS,
    FAMILIES,
    MEMBER_FAMILIES,
    SET_FAMILIES,
    SIMULATED_SET_FAMILIES,
    T1_FAMILIES,
)
from mqcore_conformance.verdicts import Status
from mqcore_conformance.witnesses import ABOUT, ASKED_OF


def statuses(flush: str, family: str) -> dict[str, Status]:
    cell = Cell(tier="T0", storage="mmap://{dir}", transport="inproc", flush=flush, family=family)
    result = run_cell(cell, range(4))
    assert not result.failures
    for clause, status in result.statuses.items():
        assert (status is Status.PASS) == (result.looked_at[clause] > 0)
    return result.statuses


def test_a_bound_on_losses_is_judged_only_where_something_may_be_lost():
    assert statuses("async", "none")["G03"] is Status.NOT_RUN
    assert statuses("async", "power-cut")["G03"] is Status.PASS


def test_where_bits_rotted_damage_is_judged_instead_of_loss():
    looked_at = obligations(Facts(STORIES["damage_is_reported_for_its_range"].events))
    assert looked_at["G12"] > 0
    assert looked_at["G01"] == 0


def test_what_no_policy_keeps_is_not_called_kept():
    assert statuses("none", "power-cut")["G03"] is Status.NOT_RUN
    assert statuses("sync", "power-cut")["G01"] is Status.PASS


@pytest.mark.parametrize("name", [name for name, tale in STORIES.items() if tale.anomaly is not None])
def test_every_bad_history_puts_something_before_its_checker(name: str):
    tale = STORIES[name]
    looked_at = obligations(Facts(tale.events))
    assert [clause for clause in tale.clauses if not looked_at[clause]] == []


def test_every_family_is_about_clauses_and_every_clause_that_can_be_judged_has_a_family() -> None:
    of_sets = {*SET_FAMILIES, *SIMULATED_SET_FAMILIES}
    assert set(ABOUT) == {*FAMILIES, *MEMBER_FAMILIES, CRASH_POINTS, *T1_FAMILIES, *of_sets}
    about = {clause for clauses in ABOUT.values() for clause in clauses}
    assert about == set(CHECKERS) - {"G18"}, "refusals are a matter of contract checks"
    assert all(ASKED_OF[family] in ABOUT[family] for family in ASKED_OF)
