"""T0 itself: the same plan is the same run anywhere, faults bite, shrinking keeps what matters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mqcore.errors import ConfigurationError
from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import Completed, Drained, Probed
from mqcore_conformance.plans import FAMILIES, FLUSH_POLICIES, draw_plan, plan_from_json, plan_to_json, shrink_steps
from mqcore_conformance.play import run_plan

REPLAY = (
    "import sys; from mqcore_conformance.plans import plan_from_json;"
    "from mqcore_conformance.play import run_plan;"
    "print(run_plan(plan_from_json(sys.stdin.read())).digest)"
)


def plan(seed: int, family: str, flush: str = "sync", transport: str = "tcp", storage: str = "mmap://{dir}"):
    return draw_plan(seed, storage=storage, transport=transport, flush=FLUSH_POLICIES[flush], family=family)


@pytest.mark.parametrize(("seed", "family", "transport"), [(3, "mixed", "tcp"), (4, "power-cut", "unix")])
def test_a_plan_replays_bit_for_bit_in_another_process_under_another_hash_seed(seed, family, transport) -> None:
    one = plan(seed, family, "async", transport)
    digests = {run_plan(one).digest}
    for hash_seed in ("1", "77"):
        replay = subprocess.run(
            [sys.executable, "-c", REPLAY],
            input=plan_to_json(one),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        )
        digests.add(replay.stdout.strip())
    assert len(digests) == 1


def test_what_ran_before_in_the_process_does_not_show() -> None:
    one = plan(3, "rot-identity")
    first = run_plan(one)
    run_plan(plan(2, "none"))
    assert run_plan(one).digest == first.digest
    refusals = [event.observed for event in first.history if isinstance(event, Probed)]
    assert any("CorruptionError" in text for text in refusals), "a refusal's text is part of what is compared"


@pytest.mark.parametrize("flush", list(FLUSH_POLICIES))
@pytest.mark.parametrize("family", ["none", "power-cut", "flush-error", "full"])
def test_a_run_keeps_every_clause_and_proves_something(family: str, flush: str) -> None:
    result = run_plan(plan(2, family, flush))
    assert result.error == ""
    assert [str(violation) for violation in check_history(result.history)] == []
    assert any(isinstance(event, Completed) and event.outcome == "acknowledged" for event in result.history)
    assert any(isinstance(event, Drained) for event in result.history)


def test_memory_forgets_and_says_so() -> None:
    result = run_plan(plan(5, "kill", "none", "inproc", "memory://"))
    assert result.error == ""
    assert result.witnesses["process-kill"] > 0
    assert check_history(result.history) == []


def test_a_plan_is_the_same_after_a_round_trip_and_a_broken_one_is_named() -> None:
    for family in FAMILIES:
        one = plan(1, family)
        assert plan_from_json(plan_to_json(one)) == one
    with pytest.raises(ConfigurationError, match=r"x\.json: not a plan"):
        plan_from_json('{"seed": 1}', "x.json")


def test_shrinking_only_takes_away() -> None:
    one = plan(1, "mixed")
    for simpler in shrink_steps(one):
        assert simpler != one
        assert len(plan_to_json(simpler)) <= len(plan_to_json(one)) + 100
