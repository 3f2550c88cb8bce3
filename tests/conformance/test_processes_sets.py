"""T1 for sets: broker processes with a coordinator in a file, killed, stopped and cut off from each other."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from mqcore.errors import ConfigurationError
from mqcore_conformance.cells import Cell
from mqcore_conformance.checkers import CHECKERS, Facts, check_history
from mqcore_conformance.histories import Completed, FaultInjected, Started
from mqcore_conformance.plans import SET_FAMILIES, FaultPlan, RunPlan, draw_set_plan, plan_from_json, plan_to_json
from mqcore_conformance.play import run_plan
from mqcore_conformance.running import Request, plan_cells
from mqcore_conformance.verdicts import Violation
from mqcore_conformance.witnesses import ABOUT, fault_took_effect

pytestmark = pytest.mark.needs("linux")

MMAP = {"storage": "mmap://{dir}", "transport": "tcp", "flush": "sync", "nodes": 3, "replication": "sync"}
SENDS = 60
_KILLS = (
    FaultPlan("process-kill", "acks", 10, duration_us=2_000_000, target="replica"),
    FaultPlan("process-kill", "acks", 10, target="primary"),
)


def plan_of(family: str, *faults: FaultPlan, before_drain: str, seed: int = 1) -> RunPlan:
    """A drawn plan with the faults that are given and less to send."""
    plan = draw_set_plan(seed, family=family, **MMAP)
    producers = tuple(attrs.evolve(each, sends=each.sends[:SENDS]) for each in plan.producers)
    return attrs.evolve(plan, faults=faults, producers=producers, before_drain=before_drain)


def judged(plan: RunPlan) -> tuple[Facts, Counter[str]]:
    result = run_plan(plan)
    assert not result.error
    assert check_history(result.history) == [], result.exits
    facts = Facts(result.history)
    counts = Counter(event.outcome for event in result.history if isinstance(event, Completed))
    assert counts["acknowledged"] >= SENDS
    assert all(log.complete for log in facts.drain.values())
    return facts, result.witnesses


def test_a_set_whose_primary_and_then_every_node_is_killed_loses_nothing_and_reigns_on() -> None:
    faults = (
        FaultPlan("process-kill", "acks", 10, target="primary"),
        FaultPlan("process-kill", "acks", 10, target="all"),
    )
    facts, witnesses = judged(plan_of("kill", *faults, before_drain="none"))
    assert witnesses["process-kill"] >= 3
    assert witnesses["reigns"] >= 2
    copies = {len(receipt.copies) for _, _, receipt in facts.acknowledged()}
    assert copies <= {2, 3}, "never one alone"
    assert 3 in copies


def test_a_primary_that_is_stopped_for_longer_than_its_lease_acknowledges_nothing_of_its_own_when_it_goes_on() -> None:
    zombie = FaultPlan("pause", "acks", 10, duration_us=3_000_000, target="primary")
    facts, witnesses = judged(plan_of("pause", zombie, before_drain="switchover"))
    assert witnesses["pause"] == 1
    reigns = [event for event in facts.history if isinstance(event, Started) and event.epoch]
    assert len({event.epoch for event in reigns}) == len(reigns) >= 2


def test_streams_that_are_cut_between_nodes_cost_no_receipt_its_copies() -> None:
    cuts = [
        FaultPlan("proxy-cut", "acks", 8, amount=30, target=f"{direction}/{how}")
        for direction, how in (("to-broker", "reset"), ("from-broker", "half-close"))
    ]
    facts, witnesses = judged(plan_of("proxy-cut", *cuts, before_drain="switchover"))
    assert witnesses["proxy-cut"] == len([each for _, each in facts.injected if each.kind == "proxy-cut"]) > 0


def test_a_metadata_log_that_is_made_short_while_nodes_are_killed_says_the_same_on_every_disk() -> None:
    plan = plan_of("topics", *_KILLS, before_drain="process-kill")
    facts, witnesses = judged(plan)
    assert plan.churn
    assert witnesses["metadata-made-short"] == 1
    assert [probe.holds for _, probe in facts.probes if probe.clause == "G10"] == [True]


def test_plans_of_every_family_of_sets_are_data_and_have_their_witnesses() -> None:
    for family in SET_FAMILIES:
        plan = draw_set_plan(7, family=family, **MMAP)
        assert (plan.tier, plan.family, plan.nodes, plan.replication) == (
            "T1", family, 3, "sync(copies=2, level=disk)"
        )  # fmt: skip
        assert plan_from_json(plan_to_json(plan)) == plan == draw_set_plan(7, family=family, **MMAP)
        assert fault_took_effect(family, {}, "T1") == (family == "none")
        assert ABOUT[family]


def test_a_receipt_of_a_life_that_reigned_twice_is_judged_by_the_reign_that_it_names() -> None:
    """And one of a reign that this life never had is a lie."""
    result = run_plan(plan_of("none", before_drain="none"))
    events = [event for event in result.history if not isinstance(event, FaultInjected)]
    at = next(index for index, event in enumerate(events) if isinstance(event, Started) and event.epoch)
    reign = events[at]
    assert isinstance(reign, Started)
    again = [*events[: at + 1], attrs.evolve(reign, epoch=reign.epoch + 4), *events[at + 1 :]]
    assert check_history(again, ["G14"]) == []

    def lied(event: object) -> object:
        is_receipt = isinstance(event, Completed) and event.outcome == "acknowledged"
        return attrs.evolve(event, epoch=reign.epoch + 1_000) if is_receipt else event  # type: ignore[type-var]

    found: list[Violation] = check_history(list(map(lied, again)), ["G14"])  # type: ignore[arg-type]
    assert found


def request(**changes: object) -> Request:
    fields = {"storages": ("mmap://{dir}", "memory://"), "transports": ("tcp", "inproc"), "tiers": ("T0", "T1")}
    return Request(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("family", SET_FAMILIES)
def test_every_family_of_sets_can_be_asked_for(family: str) -> None:
    assert request(families=(family,)).families == (family,)


def test_cells_of_sets_have_names_of_their_own_and_say_why_they_are_not_run() -> None:
    cells = dict(plan_cells(request(nodes=3, replication="sync", flushes=("sync",), families=("kill",))))
    reasons = {cell.name: why for cell, why in cells.items()}
    assert reasons["T1/mmap/tcp/sync/kill/sync-3"] == ""
    assert reasons["T0/mmap/tcp/sync/kill/sync-3"] == ""
    assert "goes with its process" in reasons["T0/memory/tcp/sync/kill/sync-3"]
    assert "does not leave its process" in reasons["T1/mmap/inproc/sync/kill/sync-3"]
    assert "goes with its process" in reasons["T1/memory/tcp/sync/kill/sync-3"]
    alone = Cell(tier="T1", storage="mmap://{dir}", transport="tcp", flush="sync", family="kill")
    assert alone.name == "T1/mmap/tcp/sync/kill"
    assert set(CHECKERS) >= set(ABOUT["kill"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"replication": "sync"}, "--nodes 3 --replication sync, or neither"),
        ({"nodes": 9, "replication": "sync"}, "9 nodes"),
        ({"nodes": 3, "replication": "snyc"}, "did you mean 'sync'"),
    ],
)
def test_what_is_no_set_is_refused_in_a_line_that_says_what_to_write(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        request(**changes)
    assert text in str(refused.value)
