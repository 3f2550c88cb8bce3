"""``mqcore conformance``: what it refuses and writes, how it ends, that it goes on where it was interrupted."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from mqcore.cli import main
from mqcore.guarantees import CLAUSES
from mqcore.registry import register, unregister
from mqcore_conformance import disk_space
from mqcore_conformance.cli._explain import EXPLANATIONS
from mqcore_conformance.cli._progress import line_of
from mqcore_conformance.cli._replay import check_plan
from mqcore_conformance.contract import CHECKS, CheckResult, run_check
from mqcore_conformance.plans import (
    FAMILIES,
    MEMBER_FAMILIES,
    SET_FAMILIES,
    SIMULATED_SET_FAMILIES,
    T1_FAMILIES,
    FaultPlan,
    RunPlan,
    draw_plan,
    draw_processes_plan,
    draw_set_plan,
    draw_simulated_set_plan,
    plan_to_json,
)
from mqcore_conformance.report import Repro, read_records
from mqcore_conformance.verdicts import Status

MEMORY = ("--storage", "memory", "--transport", "inproc", "--flush", "none", "--tier", "T0", "--seed", "0")
"""Cells of a tenth of a second."""
QUICK = (*MEMORY, "--family", "none,kill")
LONG = ("--storage", "memory", "--transport", "inproc", "--flush", "none", "--tier", "T0", "--seeds", "400")
"""Cells of many seconds."""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conformance", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mqcore", "conformance", "run", *arguments, "--to", str(folder)]
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def names_in(folder: Path) -> list[str]:
    return [record["name"] for record in read_records(folder) if record["kind"] == "cell"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--storage", "bogus"), "no storage 'bogus'; one of memory, mmap, null"),
        (("--storage", "memry"), "did you mean 'memory'?"),
        (("--storage", "raid"), "needs two members"),
        (("--storage", "mm ap:/{{"), "no storage 'mm ap:/{{'"),
        (("--storage", "mmap:///var/lib/mq"), "write 'mmap://{dir}'"),
        (("--storage", "mmap://"), "write 'mmap://{dir}'"),
        (("--storage", "mmap://{dir}?segment_bytes=banana"), "'banana' is not a quantity"),
        (("--transport", "udp"), "no transport 'udp'; one of inproc, "),
        (("--family", "earthquake"), "no fault family 'earthquake'"),
        (("--family", "power_cut"), "did you mean 'power-cut'?"),
        (("--flush", "maybe"), "no flush policy 'maybe'"),
        (("--clause", "g1"), "did you mean 'G01'?"),
        (("--offset-store", "sqlit"), "no offset store 'sqlit'; did you mean 'sqlite'?"),
        (("--authenticator", "tokn"), "no authenticator 'tokn'; did you mean 'token'?"),
        (("--tier", "T7"), "no tier 'T7'"),
        (("--tier", "T2"), "not built yet"),
        (("--cell", "nowhere"), "no cell's name contains 'nowhere'"),
        (("--seed", "3", "--seeds", "2"), "leave out --seeds"),
        (("--budget", "soon"), "soon"),
        (("--dir", "/nowhere"), "/nowhere"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2_before_anything_runs(
    options: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    assert run("run", *options, "--to", str(folder)) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert out == ""
    assert len([line for line in err.splitlines() if not line.startswith("Try ")]) == 1
    assert not folder.exists()


def test_a_strangers_storage_without_its_folder_gets_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mqcore_mmap import MmapStorage

    class Shelf(MmapStorage):
        pass

    register("storage", "shelf", Shelf)
    try:
        assert run("run", "--storage", "shelf:///srv/data", "--to", str(tmp_path / "report")) == 2
        assert "write 'shelf://{dir}'" in capsys.readouterr().err
        assert run("list", "--storage", "shelf", "--cell", "T0/shelf/tcp/sync/none") == 0
        assert "T0/shelf/tcp/sync/none" in capsys.readouterr().out
    finally:
        unregister("storage", "shelf")


def test_a_folder_that_cannot_hold_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert run("run", *QUICK, "--to", str(foreign)) == 2
    assert "holds other files and no report.jsonl" in capsys.readouterr().err
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    (foreign / "thesis.txt").rename(tmp_path / "file")
    assert run("run", *QUICK, "--to", str(tmp_path / "file")) == 2
    assert run("run", *QUICK, "--to", str(tmp_path / "file" / "report")) == 2
    assert "Not a directory" in capsys.readouterr().err
    for verb in (("run", *QUICK), ("selftest", "empty-flush")):
        assert run(*verb, "--to", str(tmp_path / "nowhere" / "report")) == 2
        assert "nowhere does not exist; make it first" in capsys.readouterr().err, "told before anything runs"


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """What ``list`` says is run, by name."""
    assert run("list", *arguments, "--output", "json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["name"]: line["what"] for line in lines if not line["not_run"]}


def test_an_option_that_is_given_again_adds_to_what_it_named_before(capsys: pytest.CaptureFixture[str]) -> None:
    again = ("--tier", "t0", "--tier", "T1", "--family", "none", "--family", "kill", "--flush", "none,sync")
    more = ("--transport", "tcp", "--transport", "unix", "--flush", "async", "--storage", "mmap")
    once = ("--tier", "T0,T1", "--family", "none,kill", "--flush", "none,sync,async", "--storage", "mmap")
    found = listed(capsys, *again, *more)
    assert found == listed(capsys, *once, "--transport", "tcp,unix")
    assert {"T0/mmap/tcp/none/none", "T1/mmap/unix/async/kill"} < found.keys()
    clauses = listed(capsys, "--storage", "mmap", "--tier", "contract", "--clause", "G03", "--clause", "g18")
    assert clauses == listed(capsys, "--storage", "mmap", "--tier", "contract", "--clause", "G03,G18")


def test_a_million_seeds_are_planned_in_little_memory_and_one_more_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("list", "--storage", "mmap", "--tier", "T0,T1", "--seeds", "1000001") == 2
    assert "1000000" in capsys.readouterr().err
    tracemalloc.start()
    try:
        found = listed(capsys, "--storage", "memory", "--transport", "tcp", "--tier", "T0", "--seeds", "1000000")
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert found["T0/memory/tcp/none/kill, part 200 of 200"] == "5000 seeds"


def test_without_a_part_what_pyproject_says_is_tested_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = '[tool.mqcore.conformance]\nstorage = "memory://"\nseeds = 3\n'
    (tmp_path / "pyproject.toml").write_text(table + 'tiers = ["T0"]\nfamilies = ["none", "kill"]\n')
    assert listed(capsys) == {"T0/memory/inproc/none/none": "3 seeds", "T0/memory/inproc/none/kill": "3 seeds"}
    assert listed(capsys, "--family", "stop", "--seeds", "1") == {"T0/memory/inproc/none/stop": "1 seed"}
    assert "T0/memory/tcp/none/clock" in listed(capsys, "--storage", "memory", "--tier", "T0")
    (tmp_path / "pyproject.toml").write_text('[tool.mqcore.conformance]\ntransport = "unix"\nseeds = 1\n')
    found = listed(capsys)
    assert {name.split("/")[1] for name in found if name.startswith("contract/")} == {"unix"}
    assert {tuple(name.split("/")[1:3]) for name in found if name.startswith("T0/")} == {("mmap", "unix")}
    assert "T0/mmap/unix/sync/clock" not in found


def test_the_folder_of_data_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    check = ("--storage", "mmap", "--transport", "inproc", "--tier", "contract", "--cell", "views_stay_valid")
    assert run("run", *check, "--dir", "data", "--to", "report") == 0


# ---- running ---------------------------------------------------------------------------------------------------------


def test_a_run_writes_every_page_tells_each_cell_and_ends_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    assert run("run", *QUICK, "--jobs", "1", "--to", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["PASS", "T0/memory/inproc/none/none"],
        ["PASS", "T0/memory/inproc/none/kill"],
    ]
    assert re.fullmatch(r"conformant: 2 PASS; 1 seed each; \d+ s; " + re.escape(f"{folder}/report.html"), lines[-1])
    assert {path.name for path in folder.iterdir()} == {
        "report.jsonl",
        "report.html",
        "matrix.md",
        "junit.xml",
        "claims.lock",
    }


def test_json_output_is_json_lines_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", *QUICK, "--output", "json", "--to", str(tmp_path / "report")) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["kind"] for record in records] == ["cell", "cell", "end"]
    assert records[-1]["exit"] == 0


def test_a_storage_that_keeps_nothing_and_says_so_is_not_blamed_for_losses(tmp_path: Path) -> None:
    arguments = ("--storage", "null", "--transport", "inproc", "--family", "none", "--flush", "none", "--tier", "T0")
    assert run("run", *arguments, "--seed", "0", "--to", str(tmp_path / "report")) == 0


def test_exactly_the_seeds_that_are_asked_for_are_run(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    arguments = [*MEMORY[:-2], "--seed", "7", "--seed", "3", "--family", "none"]
    assert run("run", *arguments, "--to", str(folder)) == 0
    assert read_records(folder)[1]["seeds"] == [7, 3]


def test_only_the_clauses_that_are_asked_for_are_judged(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    assert run("run", *MEMORY, "--family", "none", "--clause", "g04", "--to", str(folder)) == 0
    clauses = read_records(folder)[1]["clauses"]
    assert {clause for clause, status in clauses.items() if status != "NOT RUN"} == {"G04"}


def test_a_clause_of_offset_stores_alone_runs_their_checks_and_no_cell(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    wanted = ("--offset-store", "file", *MEMORY, "--clause", "G16", "--cell", "stamp")
    assert run("run", *wanted, "--to", str(folder)) == 2  # no tier of checks was asked for
    wanted = ("--offset-store", "file", "--storage", "memory", "--tier", "contract,T0", "--clause", "G16")
    assert run("run", *wanted, "--cell", "earlier_stamp", "--to", str(folder)) == 0
    assert names_in(folder) == []
    checks = [record for record in read_records(folder) if record["kind"] == "check"]
    assert [(each["part"], each["status"]) for each in checks] == [("offset store file", "PASS")]


def test_a_finished_cell_is_not_run_again_and_a_cut_line_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    assert run("run", *QUICK, "--jobs", "1", "--to", str(folder)) == 0
    whole = (folder / "report.jsonl").read_bytes()
    (folder / "report.jsonl").write_bytes(whole[:-40])
    capsys.readouterr()
    assert run("run", *QUICK, "--to", str(folder)) == 0
    out = capsys.readouterr().out
    assert "1 of 2 are in the report already" in out
    assert "none/kill " in out
    assert "none/none " not in out
    kept = whole[: whole.rindex(b'{"kind"')]
    assert (folder / "report.jsonl").read_bytes().startswith(kept)
    assert len(read_records(folder)) == 3


def test_a_cell_that_ended_in_an_error_counts_anew(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    assert run("run", *QUICK, "--jobs", "1", "--to", str(folder)) == 0
    lines = (folder / "report.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    record["status"] = "ERROR"
    record["clauses"] = dict.fromkeys(record["clauses"], "ERROR")
    (folder / "report.jsonl").write_text("\n".join([*lines[:-1], json.dumps(record), ""]))
    assert run("run", *QUICK, "--to", str(folder)) == 0
    assert "ERROR" not in (folder / "matrix.md").read_text()


def test_a_resume_with_other_arguments_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert run("run", *MEMORY, "--family", "none", "--to", str(folder)) == 0
    before = (folder / "report.jsonl").read_bytes()
    capsys.readouterr()
    assert run("run", *MEMORY, "--family", "none", "--transport", "tcp", "--to", str(folder)) == 2
    err = capsys.readouterr().err
    assert "holds a run with --transport inproc, this one has inproc,tcp; write --to another folder" in err
    assert (folder / "report.jsonl").read_bytes() == before
    assert run("run", *MEMORY, "--family", "none", "--jobs", "3", "--budget", "1h", "--to", str(folder)) == 0


SHELF = "from mqcore_memory import MemoryStorage\n\n\nclass Shelf(MemoryStorage):\n    name = 'shelf'\n"


def test_what_was_run_of_a_part_that_has_changed_since_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shelf_of_a_test.py").write_text(SHELF)
    monkeypatch.syspath_prepend(tmp_path)
    register("storage", "shelf", importlib.import_module("shelf_of_a_test").Shelf)
    folder = tmp_path / "report"
    both = ("--storage", "shelf", *QUICK[:-1], "none", "--jobs", "1", "--to", str(folder))
    try:
        assert run("run", *both) == 0
        capsys.readouterr()
        assert run("run", *both) == 0
        captured = capsys.readouterr()
        assert "PASS  " not in captured.out
        assert "nothing was run: every result is of the report of 20" in captured.err
        (tmp_path / "shelf_of_a_test.py").write_text(SHELF + "    # mended\n")
        assert run("run", *both) == 0
        captured = capsys.readouterr()
        assert "shelf changed since" in captured.err
        assert "PASS         T0/shelf/inproc/none/none" in captured.out
        assert "PASS         T0/memory/" not in captured.out
        assert run("run", *both) == 0
        assert "nothing was run" in capsys.readouterr().err
    finally:
        unregister("storage", "shelf")


def test_results_of_a_part_as_it_was_are_in_no_page(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    assert run("run", *QUICK, "--to", str(folder)) == 0
    lines = [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]
    lines[0]["made_of"]["memory"] = "memory as it was"
    changed = lines[1] | {"of": "0123456789abcdef"}
    (folder / "report.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (lines[0], changed)))
    assert run("matrix", str(folder)) == 0
    assert "| T0 | `memory://`" not in (folder / "matrix.md").read_text()


def test_other_claims_make_other_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, claims = tmp_path / "report", tmp_path / "claims.toml"
    claims.write_text("")
    arguments = (*MEMORY, "--family", "none", "--claims", str(claims), "--to", str(folder))
    assert run("run", *arguments) == 0
    claims.write_text('[[xfail]]\nclause = "G01"\nreason = "none"\nissue = "none"\n')
    assert run("run", *arguments) == 1
    assert "claims changed since" in capsys.readouterr().err


def test_a_known_failure_that_holds_or_is_about_nothing_is_told_with_its_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = tmp_path / "claims.toml"
    entry = '[[xfail]]\nclause = "G01"\ncell = "{}"\nreason = "none"\nissue = "none"\n'
    claims.write_text(entry.format("T9/*") + entry.format("T0/*"))
    arguments = (*MEMORY, "--family", "none", "--claims", str(claims), "--to", str(tmp_path / "report"))
    assert run("run", *arguments) == 1
    out, err = capsys.readouterr()
    assert f"G01 holds, {claims}, [[xfail]] 2 (cell 'T0/*') says that it fails: remove the entry" in out
    assert err.splitlines() == [
        f"{claims}: [[xfail]] 1 (clause G01, cell 'T9/*') is about nothing in this run; mend or remove it if no run "
        "has it"
    ]


@pytest.mark.parametrize("status", ["FAIL", "LIVENESS", "ERROR"])
def test_what_failed_is_run_again_by_the_same_command(status: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    assert run("run", *QUICK, "--jobs", "1", "--to", str(folder)) == 0
    lines = (folder / "report.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    record |= {"status": status, "clauses": {**record["clauses"], "G01": status}}
    (folder / "report.jsonl").write_text("\n".join([*lines[:-1], json.dumps(record), ""]))
    assert run("run", *QUICK, "--to", str(folder)) == 0
    assert [one["status"] for one in read_records(folder)[1:]] == ["PASS", status, "PASS"]


def test_a_run_whose_reader_leaves_goes_on_and_ends_with_its_verdict(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    null = ("--storage", "null", "--transport", "inproc", "--tier", "T0", "--flush", "none", "--jobs", "1")
    process = start(folder, *null, "--family", "none,kill,stop")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == run("run", *null, "--family", "none,kill,stop", "--to", str(tmp_path / "again"))
    process.stderr.close()
    assert len(names_in(folder)) == 3
    assert (folder / "report.html").exists()


def test_what_is_no_report_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("garbage\n", '{"kind":"cell"}\n', '["run"]\n', "\0\xff\n"):
        (tmp_path / "report.jsonl").write_text(text)
        assert run("run", *QUICK, "--to", str(tmp_path)) == 2
        assert "report.jsonl, line 1: " in capsys.readouterr().err
        assert (tmp_path / "report.jsonl").read_text() == text


def test_a_budget_leaves_out_what_did_not_begin_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert run("run", *LONG, "--family", "none,stop", "--jobs", "1", "--budget", "500ms", "--to", str(folder)) == 4
    captured = capsys.readouterr()
    assert "time was up" in captured.err
    (record,) = [record for record in read_records(folder) if record["kind"] == "cell"]
    assert f"time was up after {len(record['seeds'])} of 400 seeds" in record["cut"]
    assert len(record["seeds"]) < 400


def test_seeds_beyond_a_share_are_run_in_parts_and_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mqcore_conformance.running._request as request

    monkeypatch.setattr(request, "SEEDS_PER_PIECE", 2)
    folder = tmp_path / "report"
    assert run("run", *MEMORY[:-2], "--family", "kill", "--seeds", "5", "--to", str(folder)) == 0
    *parts, whole = read_records(folder)[1:]
    assert [part["kind"] for part in parts] == ["part", "part", "part"]
    assert whole["name"] == "T0/memory/inproc/none/kill"
    assert sorted(whole["seeds"]) == [0, 1, 2, 3, 4]
    assert whole["runs"] == sum(part["runs"] for part in parts)
    assert "part" not in (folder / "matrix.md").read_text()


# ---- interrupts, crashes, full disks ---------------------------------------------------------------------------------


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of which one cell is done and others are under way, in two children."""
    arguments = (*LONG[:-2], "--seeds", "300", "--family", "clock,none,kill,stop", "--jobs", "2")
    process = start(tmp_path / "report", *arguments, "--budget", "1h", "--cell", "T0/", start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children_of(process_id: int) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(word) for word in text.split()]


def wait_for_children(process: subprocess.Popen[str], folder: Path, count: int) -> list[int]:
    """Return the children of a run once it has begun."""
    while True:
        begun = (folder / "report.jsonl").exists() and (folder / "report.jsonl").stat().st_size
        children = children_of(process.pid)
        if begun and len(children) >= count:
            return children
        assert process.poll() is None
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_valid_report_no_child_and_exit_130(
    number: signal.Signals, long_run: subprocess.Popen[str], tmp_path: Path
) -> None:
    children = wait_for_children(long_run, tmp_path / "report", 2)
    long_run.send_signal(number)
    out, err = long_run.communicate(timeout=120)
    assert long_run.returncode == 130, err
    assert "interrupted: 0 of 4 are in the report; the same command goes on" in err
    assert "Traceback" not in out + err
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    folder = tmp_path / "report"
    assert {path.name for path in folder.iterdir()} >= {"report.jsonl", "report.html", "matrix.md", "junit.xml"}
    assert names_in(folder) == []


def test_a_child_that_is_killed_makes_its_cell_an_error_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    process = start(folder, *LONG[:-2], "--seeds", "8", "--family", "none,stop", "--jobs", "1")
    victim = wait_for_children(process, folder, 1)[0]
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    first, second = [record for record in read_records(folder) if record["kind"] == "cell"]
    assert first["status"] == "ERROR"
    assert "SIGKILL" in first["reason"]
    assert second["status"] == "PASS"
    assert "Traceback" not in out + err


def test_two_runs_into_one_folder_and_the_lock_of_a_dead_one(
    long_run: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    children = wait_for_children(long_run, tmp_path / "report", 2)
    assert run("run", *QUICK, "--to", str(folder)) == 2
    assert "another run writes it" in capsys.readouterr().err
    long_run.kill()
    long_run.wait()
    while any(Path(f"/proc/{child}").exists() for child in children):
        time.sleep(0.01)  # they find nobody to tell, and end
    arguments = (*LONG[:-2], "--seeds", "300", "--family", "clock,none,kill,stop", "--cell", "T0/")
    assert run("run", *arguments, "--budget", "1ms", "--to", str(folder)) == 4
    assert "another run" not in capsys.readouterr().err


def test_a_full_disk_ends_the_run_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    memory = ("--storage", "memory", "--transport", "tcp", "--flush", "none", "--tier", "T0", "--seed", "0")
    arguments = (*memory, "--family", "none,kill,stop,network", "--jobs", "1")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    process = start(folder, *arguments, preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert err.count("\n") == 1
    assert "File too large; what was finished is kept: make room" in err
    kept = (folder / "report.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    assert 0 < len(names_in(folder)) < 4
    assert run("run", *arguments, "--to", str(folder)) == 0
    assert (folder / "report.jsonl").read_bytes().startswith(kept)
    assert len(names_in(folder)) == 4


# ---- the other verbs -------------------------------------------------------------------------------------------------


def test_list_shows_exactly_what_runs_and_what_is_not_built_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--storage", "memory", "--transport", "inproc", "--flush", "none", "--clause", "G20", "--seed", "1")
    assert run("list", *arguments, "--family", "none", "--output", "json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert run("run", *arguments, "--family", "none", "--to", str(tmp_path / "report")) in (0, 4)
    ran = [record["name"] for record in read_records(tmp_path / "report") if "name" in record]
    built = [one["name"] for one in listed if one["not_run"] != "not built yet"]
    assert sorted(built) == sorted(ran)
    later = {one["name"]: one["what"] for one in listed if one["not_run"] == "not built yet"}
    assert list(later) == ["T2/*/*/*/*"]


def test_list_gives_reasons_and_an_estimate_by_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--estimate", "--storage", "memory", "--tier", "contract,T0,T1", "--jobs", "2") == 0
    out = capsys.readouterr().out
    assert "it has no disk" in out
    assert "T1/memory/tcp/none/" in out
    assert "contract/memory/" in out
    assert "with 2 processes" in out


def test_explain_tells_of_every_clause_what_it_means_and_who_checks_it(capsys: pytest.CaptureFixture[str]) -> None:
    for clause in CLAUSES:
        assert run("explain", clause) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{clause} {CLAUSES[clause].name}\n")
        assert "looked at" in out
        assert f"check_{clause.lower()}" in out
    assert run("explain", "g01") == 0
    out = capsys.readouterr().out
    assert "empty-flush" in out
    assert "must_survive: what the oracle" in out
    assert run("explain", "G99") == 2
    assert "no clause 'G99'; did you mean" in capsys.readouterr().err


def test_families_that_explanations_name_exist() -> None:
    families = {*FAMILIES, *T1_FAMILIES, "crash-points", "(--nodes", "--tier"}  # and two options
    words = " ".join(one.where for one in EXPLANATIONS.values()).replace(",", " ").replace(";", " ").split()
    assert {word for word in words if "-" in word and not word.startswith("T")} <= families


def test_verbs_for_what_is_not_there_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("matrix", str(tmp_path)) == 2
    assert run("diff", str(tmp_path), str(tmp_path)) == 2
    assert run("replay", str(tmp_path)) == 2
    assert run("replay", str(tmp_path / "nowhere")) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_record_of_another_time_is_shown_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert run("run", *MEMORY, "--family", "none", "--to", str(folder)) == 0
    (folder / "report.html").unlink()
    capsys.readouterr()
    assert run("matrix", str(folder)) == 0
    assert "| T0 | `memory://` | inproc | none | none | pass |" in capsys.readouterr().out
    assert (folder / "report.html").exists()


@pytest.mark.parametrize(("budget", "remedy"), [("5", "write 5s or 5m"), ("0s", "leave it out for no limit")])
def test_a_budget_has_a_unit_and_is_more_than_nothing(
    budget: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", *QUICK, "--budget", budget) == 2
    assert remedy in capsys.readouterr().err


def test_a_disk_without_room_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk_space, "RUN_BYTES_MIN", 2**62)
    arguments = ("--storage", "memory", "--transport", "inproc", "--to", str(tmp_path / "report"))
    assert run("run", *arguments, "--dir", str(tmp_path)) == 2
    assert f"{tmp_path}: " in (err := capsys.readouterr().err)
    assert "MB free" in err
    assert run("list", *arguments[:4], "--tier", "T0") == 0


def test_a_check_that_fails_where_no_room_is_left_accuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "CHECK_BYTES_MIN", 2**62)

    def full(place: Path) -> object:
        raise OSError(errno.ENOSPC, "no space left on device")

    result = run_check(CHECKS["limits_hold_where_they_are_stated"], full, tmp_path)
    assert result.status is Status.ERROR
    assert result.text.startswith("no room to judge it: ")


def test_a_cell_that_was_cut_is_no_plain_pass_on_its_line() -> None:
    record = {"kind": "cell", "name": "c", "status": "PASS", "seconds": 1.0, "failures": [], "reason": "", "how": ""}
    assert line_of(record | {"cut": "time was up after 9 of 200 seeds"}).startswith("INCOMPLETE ")
    assert line_of(record).startswith("PASS ")


# ---- replay ----------------------------------------------------------------------------------------------------------


def repro_of(plan: RunPlan, folder: Path) -> Path:
    folder.mkdir()
    (folder / "plan.json").write_text(plan_to_json(plan))
    facts = {"tier": plan.tier, "cell": "T0/memory/inproc/none/kill", "clauses": []}
    (folder / "repro.json").write_text(json.dumps(facts))
    return folder


PLAN = draw_plan(0, storage="memory://", transport="inproc", flush="none", family="kill")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"family": "power-cat"}, "fault family 'power-cat' is unknown here; did you mean 'power-cut'?"),
        ({"last_ending": "stopp"}, "ending of a life 'stopp' is unknown here; did you mean 'stop'?"),
        ({"before_drain": "power-cat"}, "ending of a life 'power-cat' is unknown"),
        ({"faults": (FaultPlan(kind="power-cat", trigger="acks", when=1),)}, "did you mean 'power-cut'?"),
        ({"faults": (FaultPlan(kind="proxy-cut", trigger="acks", when=1),)}, "fault kind of T0 'proxy-cut' is unknown"),
        ({"faults": (FaultPlan(kind="stop", trigger="ack", when=1),)}, "not a plan"),  # type: ignore[arg-type]
    ],
)
def test_a_plan_of_what_is_unknown_here_is_refused_and_never_mended(
    change: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", str(repro_of(attrs.evolve(PLAN, **change), tmp_path / "repro"))) == 2
    assert told in capsys.readouterr().err


def test_a_repro_without_its_facts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = repro_of(PLAN, tmp_path / "repro")
    assert run("replay", str(folder)) == 0
    (folder / "repro.json").unlink()
    assert run("replay", str(folder)) == 2
    assert "repro.json: cannot be read" in capsys.readouterr().err


MMAP: dict[str, Any] = {"storage": "mmap://{dir}", "transport": "tcp", "flush": "sync"}
ARRAY = {"storage": "raid://{dir}/a,{dir}/b?level=1", "transport": "tcp", "flush": "sync"}
OF_A_SET = {"nodes": 3, "replication": "sync"}


@pytest.mark.parametrize(
    ("draw", "drawn_for", "families"),
    [
        (draw_plan, MMAP, FAMILIES),
        (draw_plan, ARRAY, MEMBER_FAMILIES),
        (draw_processes_plan, MMAP, T1_FAMILIES),
        (draw_simulated_set_plan, MMAP | OF_A_SET, SIMULATED_SET_FAMILIES),
        (draw_set_plan, MMAP | OF_A_SET, SET_FAMILIES),
    ],
    ids=["T0", "T0 of an array", "T1", "T0 of a set", "T1 of a set"],
)
def test_every_plan_that_is_drawn_can_be_replayed(
    draw: Callable[..., RunPlan], drawn_for: dict[str, Any], families: Mapping[str, object]
) -> None:
    for family in families:
        for seed in range(30):
            plan = draw(seed, family=family, **drawn_for)
            check_plan(Repro(plan=plan, tier=plan.tier))


def test_a_check_that_searches_says_that_it_sampled() -> None:
    searched, seen = CHECKS["any_sequence_of_operations_agrees_with_the_model"], CHECKS["its_sockets_are_trios"]
    result = CheckResult(check=searched, status=Status.PASS, seed=7, tried="60 sequences with 9 kills")
    assert result.how == "sampled: 60 sequences with 9 kills, drawn from seed 7"
    assert CheckResult(check=seen, status=Status.PASS).how == "observed"


def test_matrix_and_diff_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert run("run", *QUICK, "--to", str(folder)) == 0
    capsys.readouterr()
    run("matrix", str(folder), "--output", "json")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows
    assert {row["status"] for row in rows} == {"PASS"}
    assert run("diff", str(folder), str(folder), "--output", "json") == 0
    assert capsys.readouterr().out == ""
    other = tmp_path / "other"
    other.mkdir()
    lines = (folder / "report.jsonl").read_text().splitlines(keepends=True)
    (other / "report.jsonl").write_text("".join(line for line in lines if '"kind":"cell"' not in line.replace(" ", "")))
    assert run("diff", str(folder), str(other), "--output", "json") == 1
    changes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert changes
    assert all("vanished" in change["text"] for change in changes)


def test_storages_are_named_by_comma_and_a_comma_within_a_url_stays() -> None:
    from mqcore_conformance.cli._request_options import _split_urls

    assert _split_urls(("mmap,memory://", "null")) == ("mmap", "memory://", "null")
    array = "raid://{dir}/a,{dir}/b?copies=2"
    assert _split_urls((f"{array},mmap://{{dir}}",)) == (array, "mmap://{dir}")
    assert _split_urls(("raid:///a,/b",)) == ("raid:///a,/b",)
