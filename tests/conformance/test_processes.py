"""T1: clients against broker processes, real sockets, real files, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import pytest

from mqcore.cli import main
from mqcore_conformance.cells import Cell
from mqcore_conformance.checkers import check_history
from mqcore_conformance.cli._kill_matrix import kill_line
from mqcore_conformance.histories import Completed, Drained, FaultInjected, FetchAnswered, Probed, Started
from mqcore_conformance.plans import (
    FLUSH_POLICIES,
    T1_FAMILIES,
    ConsumerPlan,
    FaultPlan,
    LibraryPlan,
    RunPlan,
    draw_processes_plan,
    plan_from_json,
    plan_to_json,
    simpler_plans,
)
from mqcore_conformance.play import RunResult, run_plan
from mqcore_conformance.saboteurs.selftest import run_selftest

pytestmark = pytest.mark.needs("linux")

SENDS = 40
TRIES = 10
SIZES = (100, 3)


def small_plan(family: str, flush: str, transport: str, *faults: FaultPlan, sends: int = SENDS) -> RunPlan:
    """One producer and one consumer, both of ``mqcore.client``, and the faults that are given."""
    plan = draw_processes_plan(
        1, storage="mmap://{dir}", transport=transport, flush=FLUSH_POLICIES[flush], family=family
    )
    producer = attrs.evolve(plan.producers[0], partition=0, idempotent=True, library=LibraryPlan())
    send = attrs.evolve(producer.sends[0], sizes=SIZES, policy="topic", one_way=False, pause_us=3_000)
    return attrs.evolve(
        plan,
        partitions=1,
        producers=(attrs.evolve(producer, sends=(send,) * sends),),
        consumers=(ConsumerPlan(name="consumer-0", partition=0, bytes_max=10_000, pause_us=0, library=True),),
        faults=faults,
        last_ending="none",
        visible="committed",
        weakest_send=None,
    )


def run_and_judge(plan: RunPlan) -> RunResult:
    result = run_plan(plan)
    assert result.error == ""
    assert result.exits == []
    assert [str(violation) for violation in check_history(result.history)] == []
    assert any(isinstance(event, Drained) for event in result.history)
    return result


def cut_after(acknowledgements: int) -> FaultPlan:
    return FaultPlan(kind="power-cut", trigger="acks", when=acknowledgements)


@pytest.mark.slow
@pytest.mark.needs("dirty-pages")
def test_what_clients_saw_is_whole_after_a_kill_and_a_power_cut() -> None:
    kill = FaultPlan(kind="process-kill", trigger="acks", when=5)
    result = run_and_judge(small_plan("power-cut", "sync", "tcp", kill, cut_after(5)))
    receipts = [each for each in result.history if isinstance(each, Completed) and each.outcome == "acknowledged"]
    assert len(receipts) >= SENDS
    assert {each.life for each in receipts} >= {1, 3}, "lives are told apart"
    assert sum(isinstance(event, Started) for event in result.history) == 3
    assert any(isinstance(event, FetchAnswered) and event.process == "consumer-0" for event in result.history)
    faults = [event.kind for event in result.history if isinstance(event, FaultInjected)]
    assert faults == ["process-kill", "power-cut"]


@pytest.mark.slow
@pytest.mark.needs("dirty-pages")
def test_a_power_cut_takes_what_nobody_flushed() -> None:
    tries = 1
    while not (result := run_and_judge(small_plan("power-cut", "none", "unix", cut_after(15)))).witnesses["pages-lost"]:
        tries += 1  # the kernel may write back what nobody flushed whenever it likes
        assert tries <= TRIES
    assert result.witnesses["pages-lost"] > 0
    first = next(event for event in result.history if isinstance(event, Drained))
    assert first.end_offset < SENDS * len(SIZES), "some of what was acknowledged is gone, as this policy allows"


@pytest.mark.slow
@pytest.mark.needs("dirty-pages", "eatmydata")
def test_a_broker_whose_flushes_do_nothing_is_found_out_by_a_power_cut() -> None:
    (kill,) = run_selftest(["eatmydata"])
    assert (kill.verdict, kill.expected, kill.stray) == ("killed", "G01", ())


def test_without_libeatmydata_its_saboteur_is_not_run_and_says_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqcore_conformance.saboteurs.selftest.why_no_lying_disk", lambda: "apt-get install eatmydata")
    (kill,) = run_selftest(["eatmydata"])
    assert (kill.verdict, kill.survived, kill.caught) == ("NOT RUN", False, ())
    assert "apt-get install eatmydata" in kill_line(kill)


@pytest.mark.slow
def test_a_full_disk_is_survived_and_reads_go_on_meanwhile() -> None:
    full = FaultPlan(kind="full", trigger="acks", when=3, amount=0, duration_us=100_000)
    result = run_and_judge(small_plan("full", "async", "unix", full, sends=10 * SENDS))
    assert result.witnesses["disk-full"] > 0
    probes = [event for event in result.history if isinstance(event, Probed) and event.clause == "G20"]
    assert [probe.holds for probe in probes] == [True]


def test_plans_of_every_family_are_data_that_says_its_tier() -> None:
    for family in T1_FAMILIES:
        plan = draw_processes_plan(7, storage="mmap://{dir}", transport="tcp", flush="sync", family=family)
        assert (plan.tier, plan.family) == ("T1", family)
        assert plan_from_json(plan_to_json(plan)) == plan
        assert plan == draw_processes_plan(7, storage="mmap://{dir}", transport="tcp", flush="sync", family=family)


def test_simpler_plans_have_less_to_do() -> None:
    plan = draw_processes_plan(3, storage="mmap://{dir}", transport="tcp", flush="sync", family="proxy-cut")
    for simpler in simpler_plans(plan):
        assert len(plan_to_json(simpler)) < len(plan_to_json(plan))
        assert (simpler.tier, simpler.seed) == (plan.tier, plan.seed)


def test_cells_that_cannot_be_run_say_why() -> None:
    from mqcore_conformance.running import Request, plan_cells

    request = Request(
        storages=("memory://", "mmap://{dir}", "null://"),
        transports=("tcp", "inproc"),
        tiers=("T1",),
        flushes=("none",),
    )
    reasons: dict[tuple[str, str, str], str] = {}
    for cell, why in plan_cells(request):
        assert isinstance(cell, Cell)
        reasons[cell.storage.partition(":")[0], cell.transport, cell.family] = why
    assert reasons["memory", "tcp", "kill"] == ""
    assert "no disk" in reasons["memory", "tcp", "power-cut"]
    assert "keeps nothing" in reasons["null", "tcp", "kill"]
    assert "does not leave its process" in reasons["mmap", "inproc", "kill"]
    assert reasons["mmap", "tcp", "kill-at-call"] == ""


RUN = """
import sys
from mqcore_conformance.plans import plan_from_json
from mqcore_conformance.play import run_plan
run_plan(plan_from_json(open(sys.argv[1]).read()))
"""


def processes_of(folder: Path) -> list[int]:
    """Processes whose temporary files go to ``folder``."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                variables = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"TMPDIR={folder}".encode() in variables:
                found.append(int(process.name))
    return found


def broker_runs(folder: Path) -> bool:
    """Whether there is, beside the suite's process and the one that starts brokers, a broker."""
    return len(processes_of(folder)) >= 3 and any(folder.rglob("data"))


def nobody_runs(folder: Path) -> bool:
    return not processes_of(folder)


@pytest.mark.slow
def test_no_process_outlives_the_suite(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(plan_to_json(small_plan("none", "sync", "tcp")))
    folders = {number: tmp_path / number.name for number in (signal.SIGINT, signal.SIGKILL)}
    suites = {}
    try:
        for number, folder in folders.items():
            folder.mkdir()
            suites[number] = subprocess.Popen(
                [sys.executable, "-c", RUN, str(plan)],
                env={**os.environ, "TMPDIR": str(folder)},
                stderr=subprocess.DEVNULL,
            )
        for number, folder in folders.items():
            wait_until(partial(broker_runs, folder))
            suites[number].send_signal(number)
    finally:
        for suite in suites.values():
            try:
                suite.wait(60)
            finally:
                suite.kill()
    for folder in folders.values():
        wait_until(partial(nobody_runs, folder))
    assert list(folders[signal.SIGINT].iterdir()) == []


def wait_until(holds: Callable[[], bool], seconds_max: float = 60.0) -> None:
    until = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_plan_of_this_tier_replays_against_processes_and_says_how_often(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqcore_conformance.cli._replay.ATTEMPTS_IN_REAL_TIME", 1)
    place = tmp_path / "plan.json"
    place.write_text(plan_to_json(small_plan("none", "sync", "tcp")))
    with pytest.raises(SystemExit) as ended:
        main(["conformance", "replay", str(place)])
    assert ended.value.code == 0
    assert "not seen in 1 runs; time is real here" in capsys.readouterr().out
