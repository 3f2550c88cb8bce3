"""State that a part keeps outside its disk is no durability: neither between lives nor between seeds.

The part is a third party's: installed beside mqcore with entry points of its own (``bad_plugins``).
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.children import Interrupt
from mqcore_conformance.contract import CHECKS, check_part
from mqcore_conformance.report import ReportFile
from mqcore_conformance.running import Ending, Request, RunWatcher, run_request, why_not_repeatable
from mqcore_conformance.verdicts import Status

PLUGINS = Path(__file__).parent / "bad_plugins"
ELSEWHERE = CHECKS["what_was_flushed_is_on_the_disk_and_not_in_the_process"]
NOT_REPEATABLE = (
    "not repeatable: seed 1 gave another history in a process of its own: the part keeps state outside its disk "
    "(module or class)"
)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))


def record_of_run(folder: Path, does: str, seeds: tuple[int, ...]) -> dict[str, object]:
    request = Request(
        storages=(f"bad://{{dir}}?does={does}",),
        transports=("inproc",),
        flushes=("sync",),
        families=("none",),
        tiers=("T0",),
        seeds=seeds,
        extra_seeds=False,
    )
    report = ReportFile(folder, request.arguments())
    try:
        assert run_request(request, report, RunWatcher(), interrupt=Interrupt()) is Ending.COMPLETE
        return next(record for record in report.latest() if record["kind"] == "cell")
    finally:
        report.close()


def test_a_cell_whose_runs_depend_on_those_before_is_an_error_and_never_passes(tmp_path) -> None:
    record = record_of_run(tmp_path / "report", "counts-lives", (0, 1))
    assert record["status"] == "ERROR"
    assert record["reason"] == NOT_REPEATABLE
    assert "PASS" not in record["clauses"].values()


def test_runs_that_repeat_and_a_run_alone_are_judged_as_ever(tmp_path) -> None:
    assert record_of_run(tmp_path / "same", "nothing", (0, 1))["status"] == "PASS"
    assert record_of_run(tmp_path / "alone", "counts-lives", (1,))["status"] == "PASS"


@pytest.mark.parametrize(
    ("transport", "family"), [("tcp", "mixed"), ("tcp", "crash-points"), ("tls", "mixed"), ("quic", "mixed")]
)
def test_a_run_of_mqcores_own_parts_is_the_same_in_a_process_of_its_own(transport: str, family: str) -> None:
    cell = Cell(tier="T0", storage="mmap://{dir}", transport=transport, flush="sync", family=family)
    deadline = time.perf_counter() + 1.0 if family == "crash-points" else None
    result = run_cell(cell, [3, 4], extra_seeds_max=0, deadline=deadline)
    assert result.last is not None
    assert why_not_repeatable(result.last, seconds_max=60.0) == ""


def test_a_process_that_has_the_disk_and_nothing_else_finds_what_was_flushed() -> None:
    assert check_part(ELSEWHERE, "mmap://{dir}").status is Status.PASS
    assert check_part(ELSEWHERE, "bad://{dir}?does=nothing").status is Status.PASS


@pytest.mark.parametrize("does", ["keeps", "acknowledges-before-flushing"])
def test_a_storage_that_keeps_flushed_bytes_in_its_module_is_found_out(does: str) -> None:
    result = check_part(ELSEWHERE, f"bad://{{dir}}?does={does}")
    assert result.status is Status.FAIL
    assert result.text.startswith("7000 bytes were to survive a power cut; a process that has nothing but the disk")


@pytest.mark.parametrize(
    ("url", "why"),
    [("memory://", "a flush reaches memory"), ("bad://{dir}?own_io=true", "it does not claim simulable")],
)
def test_a_storage_whose_power_nobody_can_cut_does_not_claim_it(url: str, why: str) -> None:
    result = check_part(ELSEWHERE, url)
    assert result.status is Status.NOT_CLAIMED
    assert result.text.startswith(why)
