"""Each mistake of a coordinator, its keeper or the lease is seen by its contract check, and nothing else by another."""

from __future__ import annotations

import pytest

from mqcore_conformance.contract import CHECKS
from mqcore_conformance.saboteurs import COORDINATOR_SABOTEURS
from mqcore_conformance.saboteurs.selftest import run_selftest

SLOW = {"unknown-called-failed", "reigns-on-alone", "watch-silent", "renewal-unconditional"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(one.name, marks=[pytest.mark.slow] if one.name in SLOW else []) for one in COORDINATOR_SABOTEURS],
)
def test_the_check_fails_for_it(name: str) -> None:
    (kill,) = run_selftest([name])
    assert (kill.verdict, kill.stray) == ("killed", ()), kill


def test_each_names_a_check_of_its_clause() -> None:
    for one in COORDINATOR_SABOTEURS:
        assert CHECKS[one.check].kind == CHECKS[one.green].kind == "coordinator"
        assert CHECKS[one.check].clause == one.clause
