"""Plans that once broke something, each run again: the file's name says what was broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqcore_conformance.checkers import check_history
from mqcore_conformance.plans import plan_from_json
from mqcore_conformance.play import run_plan

PLANS = sorted(Path(__file__).with_name("regressions").glob("*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_what_was_broken_once_stays_whole(path: Path) -> None:
    result = run_plan(plan_from_json(path.read_text(), str(path)))
    assert result.error == ""
    assert [str(violation) for violation in check_history(result.history)] == []
