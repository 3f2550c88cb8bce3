"""T0 for sets: real nodes on model disks with a coordinator in memory, every family of faults, from one seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import attrs
import pytest

from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.checkers import CHECKERS, Facts, check_history
from mqcore_conformance.histories import Appended, Completed, LogHeld, Started
from mqcore_conformance.plans import (
    SIMULATED_SET_FAMILIES,
    FaultPlan,
    RunPlan,
    draw_simulated_set_plan,
    plan_from_json,
    plan_to_json,
    shrink_steps,
)
from mqcore_conformance.play import RunResult, run_plan
from mqcore_conformance.running import Request, plan_cells
from mqcore_conformance.verdicts import Status
from mqcore_conformance.witnesses import ABOUT, fault_took_effect

CELL = {"storage": "mmap://{dir}", "transport": "tcp", "flush": "sync", "nodes": 3, "replication": "sync"}
REPLAY = (
    "import sys; from mqcore_conformance.plans import plan_from_json;"
    "from mqcore_conformance.play import run_plan;"
    "print(run_plan(plan_from_json(sys.stdin.read())).digest)"
)
SENDS = 15


def plan_of(family: str, *faults: FaultPlan, seed: int = 1, **changes: object) -> RunPlan:
    """A drawn plan with less to send, and with the faults that are given, if any is."""
    plan = draw_simulated_set_plan(seed, family=family, **CELL)  # type: ignore[arg-type]
    producers = tuple(attrs.evolve(each, sends=each.sends[:SENDS]) for each in plan.producers)
    return attrs.evolve(plan, faults=faults or plan.faults, producers=producers, **changes)


def judged(plan: RunPlan) -> RunResult:
    result = run_plan(plan)
    assert result.error == ""
    assert [str(violation) for violation in check_history(result.history)] == []
    return result


@pytest.mark.parametrize("family", SIMULATED_SET_FAMILIES)
def test_a_set_keeps_every_clause_under_each_family_of_faults_and_is_whole_again(family: str) -> None:
    result = judged(plan_of(family, before_drain="none"))
    outcomes = Counter(event.outcome for event in result.history if isinstance(event, Completed))
    assert outcomes["acknowledged"] >= SENDS
    held = [event for event in result.history if isinstance(event, LogHeld)]
    assert {event.node for event in held} == {"n1", "n2", "n3"}


def test_a_plan_of_a_set_replays_bit_for_bit_in_another_process_under_another_hash_seed() -> None:
    plan = plan_of("failovers", seed=4)
    digests = {run_plan(plan).digest}
    for hash_seed in ("1", "77"):
        replay = subprocess.run(
            [sys.executable, "-c", REPLAY],
            input=plan_to_json(plan),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        )
        digests.add(replay.stdout.strip())
    assert len(digests) == 1


def test_a_killed_primary_is_followed_by_another_that_has_all_that_was_acknowledged() -> None:
    kill = FaultPlan("process-kill", "acks", 8, duration_us=3_000_000, target="primary")
    result = judged(plan_of("kill", kill, before_drain="none"))
    assert result.witnesses["process-kill"] == 1
    reigns = [event for event in result.history if isinstance(event, Started) and event.epoch]
    assert len({event.node for event in reigns}) == 2
    assert [event.epoch for event in reigns] == sorted({event.epoch for event in reigns})
    receipts = [receipt for _, _, receipt in Facts(result.history).acknowledged()]
    assert {len(receipt.copies) for receipt in receipts} == {2, 3}, "never one alone"


def test_a_primary_that_is_cut_off_acknowledges_nothing_that_the_next_reign_lacks() -> None:
    cut = FaultPlan("isolate", "acks", 8, duration_us=4_000_000, target="primary")
    result = judged(plan_of("isolate", cut, before_drain="none"))
    assert result.witnesses["failovers"] >= 1


@pytest.mark.parametrize("flush", ["sync", "async", "none"])
def test_a_slow_disk_is_slow_in_what_is_done_on_it_under_this_flush_policy(flush: str) -> None:
    stalls = 0
    for seed in range(4):
        plan = draw_simulated_set_plan(seed, family="slow", **{**CELL, "flush": flush})  # type: ignore[arg-type]
        stalls += judged(plan).witnesses["disk-stall"]
    assert stalls >= 2


def test_an_emptied_node_comes_back_as_another_one_and_gets_everything() -> None:
    fault = FaultPlan("emptied", "acks", 8, target="primary")
    result = judged(plan_of("emptied", fault, before_drain="none"))
    identities = {event.identity for event in result.history if isinstance(event, Started) and event.node == "n1"}
    assert len(identities) == 2


def test_what_a_replica_appends_at_once_of_several_epochs_is_recorded_epoch_by_epoch() -> None:
    kill = FaultPlan("process-kill", "acks", 8, duration_us=3_000_000, target="primary")
    result = judged(plan_of("kill", kill, before_drain="none"))
    spans: dict[tuple[str, str, int], set[int]] = {}
    for event in result.history:
        if isinstance(event, Appended):
            offsets = range(event.base_offset, event.next_offset)
            spans.setdefault((event.node, event.partition, event.epoch), set()).update(offsets)
    newest = {partition: max(epoch for _, each, epoch in spans if each == partition) for _, partition, _ in spans}
    assert max(newest.values()) >= 2
    for partition, epoch in newest.items():
        assert spans["n1", partition, epoch] == spans["n2", partition, epoch] == spans["n3", partition, epoch]


def test_plans_of_every_family_are_data_have_their_witnesses_and_shrink() -> None:
    for family in SIMULATED_SET_FAMILIES:
        plan = draw_simulated_set_plan(7, family=family, **CELL)  # type: ignore[arg-type]
        assert (plan.tier, plan.family, plan.nodes) == ("T0", family, 3)
        assert plan_from_json(plan_to_json(plan)) == plan
        assert fault_took_effect(family, {}) == (family == "none")
        assert set(ABOUT[family]) <= set(CHECKERS)
        assert all(simpler != plan for simpler in shrink_steps(plan))


def test_a_cell_of_a_set_is_judged_by_its_clauses() -> None:
    cell = Cell(
        tier="T0", storage="mmap://{dir}", transport="tcp", flush="sync", family="kill", replication="sync", nodes=3
    )
    result = run_cell(cell, [0, 1])
    assert result.reason == ""
    assert {result.statuses[clause] for clause in ("G01", "G09", "G10", "G13", "G14")} == {Status.PASS}
    assert result.witnesses["failovers"]


def test_cells_that_make_no_sense_say_why() -> None:
    request = Request(
        storages=("mmap://{dir}", "memory://"),
        transports=("tcp", "inproc"),
        tiers=("T0",),
        nodes=3,
        replication="sync",
        flushes=("sync", "none"),
    )
    reasons = {cell.name: why for cell, why in plan_cells(request)}
    assert reasons["T0/mmap/tcp/sync/failovers/sync-3"] == ""
    assert reasons["T0/mmap/inproc/sync/isolate/sync-3"] == "inproc has no network"
    assert "nothing is flushed" in reasons["T0/mmap/tcp/none/flush-error/sync-3"]
    assert "goes with its process" in reasons["T0/memory/tcp/sync/kill/sync-3"]
