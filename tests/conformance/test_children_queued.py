"""Time limits of children and checks: what waits for a processor is not late."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trio

from mqcore_conformance.children import _child, _forked, queued, run_apart
from mqcore_conformance.children.queued import queued_s
from mqcore_conformance.contract import _checks, _standstill
from mqcore_conformance.contract._checks import Check, Harness, run_check
from mqcore_conformance.verdicts import Status

LIMIT_S = 0.2
WORK_S = 3.0


@pytest.fixture
def never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which all time is spent waiting for a processor."""
    for module in (_child, _forked, _checks, _standstill):
        monkeypatch.setattr(module, "queued_s", lambda process_id=None: time.monotonic())


def work() -> str:
    time.sleep(WORK_S)
    return "done"


def test_a_child_that_waits_for_a_processor_is_not_late(never_runs: None) -> None:
    assert run_apart(work, seconds_max=LIMIT_S, returns=str).value == "done"


def test_a_child_that_gets_one_and_does_nothing_is() -> None:
    assert run_apart(work, seconds_max=LIMIT_S, returns=str).hung


@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_check_has_its_time_on_a_machine_that_does_much_else_too(
    is_loaded: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if is_loaded:
        request.getfixturevalue("never_runs")

    async def waits(harness: Harness) -> None:
        await trio.sleep(WORK_S)

    check = Check(name="waits", kind="storage", clause="G13", function=waits)
    result = run_check(check, lambda place: Harness(), tmp_path, seconds_max=LIMIT_S)
    assert result.status is (Status.PASS if is_loaded else Status.FAIL)


@pytest.mark.parametrize("is_loaded", [True, False])
def test_tasks_that_stand_still_are_told_from_a_process_that_does(
    is_loaded: bool, request: pytest.FixtureRequest
) -> None:
    if is_loaded:
        request.getfixturevalue("never_runs")
    standstill = _standstill.Standstill()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(standstill.watch)
            await trio.testing.wait_all_tasks_blocked()
            time.sleep(LIMIT_S)  # noqa: ASYNC251 - that is what is watched for
            await trio.sleep(2 * _standstill.LOOK_S)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert (standstill.longest_s < LIMIT_S / 2) == is_loaded


@pytest.mark.needs("linux")
def test_the_kernel_says_how_long_a_process_waited() -> None:
    before = queued_s()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    assert queued_s() >= before > 0.0
    assert queued_s(os.getpid()) >= before
    assert queued_s(2**22 + 1) == 0.0, "no such process"
    assert queued.NS_PER_S == 1e9
