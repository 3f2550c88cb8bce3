"""The checkers can fail: each careless one, and each that differs from them in one place, judges a story otherwise.

What no story tells apart is named in ``accepted_mutants``; a name that is not on that list fails here.
"""

from __future__ import annotations

import sys

import pytest
from accepted_mutants import ACCEPTED_MUTANTS
from careless_checkers import CARELESS_CHECKERS, stories_judged_otherwise
from checker_mutants import MODULES, Mutant, mutants, noticed_by

ACCEPTED_MAX = 42
"""What stories do not tell apart today; a story more makes it less."""
MUTANTS = list(mutants())


@pytest.mark.parametrize("name", CARELESS_CHECKERS)
def test_a_careless_checker_is_noticed(name: str) -> None:
    assert stories_judged_otherwise(CARELESS_CHECKERS[name]()) != []


def test_checkers_as_they_are_judge_every_story_as_told() -> None:
    unchanged = Mutant(module="", number=len(MUTANTS), line=0, what="nothing is changed")
    assert [story for _, story in noticed_by([unchanged])] == [""]
    assert not any(name.startswith("mqcore_conformance_mutant") for name in sys.modules)


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "__init__")
def test_every_mutant_of_a_checker_is_told_apart_by_a_story_or_accepted(module: str) -> None:
    missed = {mutant.key for mutant, story in noticed_by([one for one in MUTANTS if one.module == module]) if not story}
    accepted = {key for key in ACCEPTED_MUTANTS if key.startswith(f"{module or '__init__'}.")}
    assert missed == accepted


def test_the_list_of_accepted_mutants_only_becomes_shorter() -> None:
    assert len(ACCEPTED_MUTANTS) <= ACCEPTED_MAX
    assert {mutant.key for mutant in MUTANTS} >= ACCEPTED_MUTANTS
    assert len(MUTANTS) > 400
