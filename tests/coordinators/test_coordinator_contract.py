"""The suite's contract checks on the coordinators that need no server of somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqcore_conformance.claims import Claims, KnownFailure
from mqcore_conformance.contract import CHECKS, check_part, checks_of, load_check_repro, write_check_repro
from mqcore_conformance.verdicts import Status

SLOW = {"never_two_primaries_at_once", "a_frozen_server_ends_the_reign_in_time_and_blocks_nothing"}
NOT_CLAIMED = {
    "memory": {
        "what_a_killed_server_answered_is_there",
        "a_server_that_is_gone_is_said_to_be_unreachable",
        "a_watch_goes_on_after_a_restart",
        "every_member_shows_what_was_written",
        "an_ensemble_goes_on_without_its_leader",
        "a_sick_member_does_not_end_the_reign",
    },
}
"""What cannot happen to a part without a server of its own."""
NOT_CLAIMED["file"] = {*NOT_CLAIMED["memory"], "a_frozen_server_ends_the_reign_in_time_and_blocks_nothing"}


@pytest.mark.parametrize("part", ["memory", "file"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(one.name, marks=[pytest.mark.slow] if one.name in SLOW else []) for one in checks_of("coordinator")],
)
def test_the_check_passes(part: str, name: str) -> None:
    result = check_part(CHECKS[name], part)
    wanted = Status.NOT_CLAIMED if name in NOT_CLAIMED[part] else Status.PASS
    assert result.status is wanted, result.text


def test_a_claims_file_may_know_of_a_clause_that_only_coordinators_are_checked_for() -> None:
    known = Claims(xfail=(KnownFailure(clause="G09", reason="not yet", issue="https://example.org/1"),))
    assert known.judge("G09", "contract/memory/never_two_primaries_at_once", Status.FAIL) is Status.XFAIL


def test_a_check_of_a_coordinator_is_replayed_from_its_folder(tmp_path: Path) -> None:
    result = check_part(CHECKS["one_of_eight_writers_wins"], "memory")
    place = write_check_repro(tmp_path, "memory", result)
    repro = load_check_repro(tmp_path / place)
    assert (repro.check.name, repro.url, repro.seed) == ("one_of_eight_writers_wins", "memory", result.seed)
