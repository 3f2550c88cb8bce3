"""Cells of T0: a PASS says how it was come by, and only a fault that found something to bite proves anything."""

from __future__ import annotations

import time
from collections import Counter

import attrs
import pytest

from mqcore_conformance import cells
from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.checkers import Facts
from mqcore_conformance.histories import FaultInjected
from mqcore_conformance.plans import (
    CRASH_POINTS,
    FAMILIES,
    FLUSH_POLICIES,
    T1_FAMILIES,
    FaultPlan,
    ProducerPlan,
    RunPlan,
    SendPlan,
    crash_point_bases,
    crash_points,
    draw_plan,
)
from mqcore_conformance.play import CrashCalls, crash_calls, run_plan
from mqcore_conformance.verdicts import Status
from mqcore_conformance.witnesses import fault_took_effect, tally

STORAGE = "mmap://{dir}?segment_bytes=16384&first_extent_bytes=4096&extent_bytes_max=4096&journal_bytes=65536"


def cell(family: str, flush: str = "sync") -> Cell:
    return Cell(tier="T0", storage="mmap://{dir}", transport="tcp", flush=flush, family=family)


def plan(**changes: object) -> RunPlan:
    sends = tuple(SendPlan(sizes=(20, 100)) for _ in range(6))
    producer = ProducerPlan(name="producer-0", partition=0, idempotent=True, window=2, retries=True, sends=sends)
    plain = RunPlan(
        seed=1,
        family="kill",
        storage=STORAGE,
        transport="tcp",
        flush="sync",
        partitions=1,
        producers=(producer,),
        consumers=(),
    )
    return attrs.evolve(plain, **changes)


def witnesses(one: RunPlan) -> dict[str, int]:
    result = run_plan(one)
    assert result.error == ""
    return dict(tally(Facts(result.history)) + result.witnesses)


def test_a_sampled_cell_says_of_how_many_seeds() -> None:
    result = run_cell(cell("none"), [1, 2])
    assert result.status is Status.PASS
    assert result.how == "sampled: 2 seeds"


def test_crash_points_of_a_seed_are_proved_and_say_for_how_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "crash_calls", lambda base: CrashCalls(100, (3, 60)))
    result = run_cell(cell(CRASH_POINTS), [1])
    assert result.statuses["G01"] is Status.PASS
    assert result.how == (
        "proved: a crash at each of 200 calls of 1 plan of three batches, 6 runs where it differs; what a power "
        "cut keeps is sampled"
    )


def test_crash_points_cut_short_are_sampled() -> None:
    result = run_cell(cell(CRASH_POINTS), [1], deadline=time.perf_counter() + 0.3)
    assert result.how in ("", f"sampled: {result.runs} crash points, not all of one plan")


@pytest.mark.parametrize("variant", [0, 1])
def test_a_crash_point_strikes_at_the_call_that_the_run_without_it_made(variant: int) -> None:
    base = crash_point_bases(2, storage="mmap://{dir}", transport="tcp", flush="async")[variant]
    calls = crash_calls(base)
    assert 0 < len(calls.distinct) <= calls.count
    made: dict[int, tuple[str, str]] = {}
    run_plan(base, watch=lambda world, call: made.setdefault(call.number, (call.operation, call.path)) and None)
    for number in (calls.distinct[3], calls.distinct[len(calls.distinct) // 2], calls.distinct[-1]):
        struck = next(one for one in crash_points(base, [number]))
        deaths = [event for event in run_plan(struck).history if isinstance(event, FaultInjected)]
        assert deaths[0].detail == " ".join(made[number])


def test_a_kill_that_finds_nothing_in_flight_and_nothing_unflushed_is_no_witness() -> None:
    assert not fault_took_effect("kill", {"process-kill": 3, "in-flight-at-kill": 0, "unflushed-at-kill": 0})
    kill = FaultPlan(kind="process-kill", trigger="call", when=70)
    found = witnesses(plan(faults=(kill,)))
    assert found["process-kill"] == 1
    assert fault_took_effect("kill", found)


def test_losses_that_are_allowed_are_counted() -> None:
    cut = FaultPlan(kind="power-cut", trigger="acks", when=5)
    found: Counter[str] = Counter()
    for seed in range(4):
        found.update(witnesses(plan(seed=seed, flush="none", family="power-cut", faults=(cut,))))
    assert found["lost-as-allowed"] > 0
    assert found["faults-that-hit-unflushed"] == 4
    assert found["acknowledged-before-any-fault"] >= 20
    assert found["acknowledged-after-a-fault"] > 0


def test_every_family_has_its_witnesses() -> None:
    for family in (*FAMILIES, CRASH_POINTS):
        assert fault_took_effect(family, {}) == (family == "none")
    for family in T1_FAMILIES:
        assert fault_took_effect(family, {}, "T1") == (family == "none")


def test_a_cell_whose_clause_had_nothing_to_judge_tries_more_seeds() -> None:
    result = run_cell(cell("flush-error", "async"), [0], clauses=["G11"])
    assert result.looked_at["G11"]
    assert result.status is Status.PASS
    assert len(result.seeds) > 1


def test_a_cell_whose_clause_never_had_anything_to_judge_is_inconclusive_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cells, "obligations", lambda facts: Counter({"G01": 1}))
    result = run_cell(cell("flush-error"), [0], extra_seeds_max=1)
    assert result.statuses["G01"] is Status.PASS
    assert result.statuses["G11"] is result.status is Status.INCONCLUSIVE
    assert result.reason == "G11 not judged: nothing for it to look at in 2 seeds"


def test_where_nothing_waits_for_a_flush_the_line_says_that_failed_flushes_were_not_judged() -> None:
    result = run_cell(cell("flush-error", "none"), [0])
    assert result.status is Status.PASS
    assert result.how == "sampled: 1 seed; G11 not judged"


def test_plans_vary_everything_that_a_run_can_do() -> None:
    plans = [
        draw_plan(seed, storage="mmap://{dir}", transport="tcp", flush=FLUSH_POLICIES["async"], family="network")
        for seed in range(150)
    ]
    producers = [each for one in plans for each in one.producers]
    consumers = [each for one in plans for each in one.consumers]
    sends = [send for each in producers for send in each.sends]
    assert {each.library is None for each in producers} == {True, False}
    assert {each.library for each in consumers} == {True, False}
    assert {0, 1, 70_000} <= {size for send in sends for size in send.sizes}
    assert any(send.spoiled for send in sends)
    assert any(each.seeks for each in consumers)
    assert any(each.stays_us for each in consumers)
    assert any(one.alters for one in plans)
    assert any(one.total_bytes_max for one in plans)
    assert max(one.partitions for one in plans) > 8
    assert any(fault.kind.startswith("peer-") for one in plans for fault in one.faults)
