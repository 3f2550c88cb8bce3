"""Each checker finds what is wrong with a bad history and leaves a good one alone: every story, told in the package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from checker_stories import STORIES, Case, Story

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore_conformance.checkers import CHECKERS, check_history
from mqcore_conformance.checkers._endings import described_endings
from mqcore_conformance.histories import Completed, NodeLife, history_digest, read_history, write_history

BAD = [tale for tale in STORIES.values() if tale.clauses]
GOOD = [tale for tale in STORIES.values() if not tale.clauses]
STORIES_LEAST = {"G17": 3, "G18": 1, "G20": 1, "G13": 3}
"""Bad stories that each clause must have, where it is not four."""


def test_every_clause_has_a_checker() -> None:
    assert sorted(CHECKERS) == sorted(CLAUSES)


def test_every_checker_has_stories_in_which_its_clause_breaks() -> None:
    told = Counter(tale.clauses[0] for tale in BAD)
    assert {clause: told[clause] for clause in CHECKERS if told[clause] < STORIES_LEAST.get(clause, 4)} == {}
    assert len(GOOD) > 50


@pytest.mark.parametrize("tale", BAD, ids=lambda tale: tale.name)
def test_what_is_wrong_is_found_and_named(tale: Case) -> None:
    violations = check_history(tale.events)
    assert {violation.clause for violation in violations} == set(tale.clauses), [str(one) for one in violations]
    assert {one.anomaly for one in violations if one.clause == tale.clauses[0]} == {tale.anomaly}
    assert all("\n" not in str(one) and len(str(one)) < 400 for one in violations)
    assert all(0 <= index < len(tale.events) for one in violations for index in one.events)


@pytest.mark.parametrize("tale", GOOD, ids=lambda tale: tale.name)
def test_where_nothing_is_wrong_nothing_is_found(tale: Case) -> None:
    assert [str(violation) for violation in check_history(tale.events)] == []


def test_one_clause_can_be_judged_alone() -> None:
    events = STORIES["the_reported_range_ends_too_soon"].events
    assert {violation.clause for violation in check_history(events, ["G02"])} == {"G02"}


@pytest.mark.parametrize("tale", STORIES.values(), ids=lambda tale: tale.name)
def test_a_history_is_the_same_after_a_round_trip(tale: Case, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    events = tale.events
    write_history(path, events)
    assert read_history(path) == events
    assert history_digest(read_history(path)) == history_digest(events)


def test_a_broken_history_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"event":"Phase","time_us":1,"name":"safety"}\n{"event":"Nonsense"}\n')
    with pytest.raises(ConfigurationError, match=r"history\.jsonl, line 2"):
        read_history(path)


def test_a_history_without_its_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with its Setting"):
        check_history(Story().events[1:])


def test_an_end_without_a_beginning_is_refused() -> None:
    story = Story().add(Completed, process="p", send="a", attempt=1, outcome="unknown")
    with pytest.raises(ValueError, match="never invoked"):
        check_history(story.events)


def test_starts_that_failed_are_not_told_as_kills() -> None:
    story = Story("sync").send("a", 0, "disk").fault("power-cut")
    for _ in range(61):
        story.life += 1
        story.fault("exit")
    lost = [one for one in check_history(story.start().drain(end=0).events) if one.clause == "G01"]
    assert "after node-power-cut, 61 starts that failed it is absent" in lost[0].text


def test_an_end_that_nobody_brought_about_is_told_as_such() -> None:
    events = Story("sync").send("a", 0, "disk").restart("exit").restart("stop").restart("stop").events
    assert described_endings(events, NodeLife("n1", 1)) == "exit by itself, 2 x stop"
    assert described_endings(events, NodeLife("n1", 9)) == "no fault"
