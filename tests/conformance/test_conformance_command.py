"""``mqcore conformance``: what it writes, what it says, how it ends, and that it goes on where it was interrupted."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mqcore.cli import main
from mqcore.errors import ConfigurationError
from mqcore_conformance.cells import Cell, run_cell, shrink
from mqcore_conformance.claims import load_claims
from mqcore_conformance.report import ReportFile, read_records
from mqcore_conformance.saboteurs import SABOTEURS
from mqcore_conformance.selftest import run_selftest
from mqcore_conformance.verdicts import Status

SMALL = ("--storage", "mmap", "--transport", "inproc", "--flush", "sync", "--family", "none,power-cut", "--tier", "T0")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conformance", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_run_writes_every_page_and_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert run("run", *SMALL, "--seeds", "2", "--to", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [
        ["PASS", "T0/mmap/inproc/sync/none"],
        ["PASS", "T0/mmap/inproc/sync/power-cut"],
    ]
    assert lines[-1].startswith("conformant: ")
    names = {path.name for path in folder.iterdir()}
    assert names == {"report.jsonl", "report.html", "matrix.md", "junit.xml", "claims.lock"}
    assert "| T0 | `mmap://{dir}` | inproc | sync | pass | pass |" in (folder / "matrix.md").read_text()
    assert int(ElementTree.parse(folder / "junit.xml").getroot().get("failures", "x")) == 0
    html.parser.HTMLParser().feed((folder / "report.html").read_text())
    assert "http" not in (folder / "report.html").read_text()


def test_a_finished_cell_is_not_run_again_and_a_cut_line_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    assert run("run", *SMALL, "--seeds", "1", "--to", str(folder)) == 0
    whole = (folder / "report.jsonl").read_text()
    (folder / "report.jsonl").write_text(whole[: whole.rindex('{"kind"') + 40])
    capsys.readouterr()
    assert run("run", *SMALL, "--seeds", "1", "--to", str(folder)) == 0
    assert "sync/none " not in capsys.readouterr().out
    assert len(read_records(folder / "report.jsonl")) == 3


def test_other_arguments_and_a_second_run_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    report = ReportFile(folder, {"seeds": 1})
    assert run("run", *SMALL, "--to", str(folder)) == 2
    assert "another run" in capsys.readouterr().err
    report.close()
    assert run("run", *SMALL, "--to", str(folder)) == 2
    assert "other arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--family", "earthquake"), ("--flush", "maybe"), ("--clause", "G99"), ("--tier", "T7")]
)
def test_what_does_not_exist_is_refused_by_name(options, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", *options, "--to", str(tmp_path / "report")) == 2
    assert options[1] in capsys.readouterr().err


def test_list_explain_and_a_wrong_clause(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--estimate", "--storage", "memory") == 0
    out = capsys.readouterr().out
    assert "it has no disk" in out
    assert "needs replicas, not built yet" in out
    assert "about " in out
    assert run("explain", "g11") == 0
    assert "a failed flush is final" in capsys.readouterr().out
    assert run("explain", "G77") == 2


def test_a_violation_becomes_a_repro_that_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mqcore_conformance.report import write_repro

    saboteur = next(one for one in SABOTEURS if one.name == "reply-before-flush")
    result = run_cell(saboteur.cell, range(3), sabotage=saboteur.make, stop_at_first=True, extra_seeds_max=0)
    failure = shrink(result.failures[0], saboteur.make, runs_max=20)
    assert result.status is Status.FAIL
    before = result.failures[0].plan
    assert len(failure.plan.producers) <= len(before.producers)
    assert sum(len(one.sends) for one in failure.plan.producers) <= sum(len(one.sends) for one in before.producers)
    repro = tmp_path / write_repro(tmp_path, failure)
    text = (repro / "failure.txt").read_text()
    assert "G14 unjustified receipt" in text
    assert "replay: mqcore conformance replay" in text
    assert len(text.splitlines()) < 60
    assert run("replay", str(repro)) == 0  # without the saboteur every clause holds
    assert "every clause holds" in capsys.readouterr().out


def test_a_cell_whose_fault_never_bit_is_inconclusive() -> None:
    names = ["cut-that-flushes", "kill-that-kills-nothing", "reply-before-flush", "drop-a-read"]
    kills = list(run_selftest(names))
    assert sorted(kill.name for kill in kills) == sorted(names)
    assert [kill.name for kill in kills if kill.survived] == []
    assert {kill.caught for kill in kills if kill.name in names[:2]} == {("INCONCLUSIVE",)}


STRANGER = """
[tool.mqcore.conformance]
storage = "memory://"
claims = "conformance.toml"
families = ["kill"]
seeds = 1
"""


def strangers_run(folder: Path, module: str, claims: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "pyproject.toml").write_text(STRANGER)
    (folder / "conformance.toml").write_text(claims)
    (folder / "test_conformance.py").write_text(module)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "G13 or left_out or claims", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_two_lines_in_a_strangers_repository_run_the_suite(tmp_path: Path) -> None:
    ended = strangers_run(tmp_path, "from mqcore_conformance.suite import *\n", '[claims]\nappend_level = "memory"\n')
    assert ended.returncode == 0, ended.stdout
    assert "passed" in ended.stdout


def test_a_clause_that_is_overridden_or_a_claim_that_is_not_borne_out_fails(tmp_path: Path) -> None:
    module = "from mqcore_conformance.suite import *\ndef test_simulation():\n    pass\n"
    ended = strangers_run(tmp_path, module, '[claims]\nflush_level = "disk"\n')
    assert ended.returncode == 1
    assert "state what is known to fail as [[xfail]]" in ended.stdout
    assert "claimed flush_level = 'disk', the part declares 'memory'" in ended.stdout


def test_diff_tells_what_changed_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, status in (("old", "PASS"), ("new", "FAIL")):
        (tmp_path / name).mkdir()
        record = {"kind": "check", "name": "contract/x/y", "clause": "G01", "status": status}
        (tmp_path / name / "report.jsonl").write_text(json.dumps(record) + "\n")
    assert run("diff", str(tmp_path / "old"), str(tmp_path / "new")) == 1
    assert capsys.readouterr().out == "contract/x/y G01: PASS -> FAIL\n"
    assert run("diff", str(tmp_path / "old"), str(tmp_path / "old")) == 0


def test_a_claims_file_states_known_failures_with_reason_and_issue(tmp_path: Path) -> None:
    path = tmp_path / "conformance.toml"
    path.write_text(
        '[claims]\nflush_level = "disk"\n[[xfail]]\nclause = "G03"\ncell = "T0/*"\nreason = "slow"\nissue = "#7"\n'
    )
    claims = load_claims(path)
    assert claims.judge("G03", "T0/mmap/tcp/sync/slow", Status.FAIL) is Status.XFAIL
    assert claims.judge("G03", "T0/mmap/tcp/sync/slow", Status.PASS) is Status.XPASS
    assert claims.judge("G01", "T0/mmap/tcp/sync/slow", Status.FAIL) is Status.FAIL


@pytest.mark.parametrize(
    "text",
    [
        '[[xfail]]\nclause = "G03"\n',
        '[[xfail]]\nclause = "G99"\nreason = "r"\nissue = "i"\n',
        '[[xfail]]\nclause = "G03"\nreason = " "\nissue = "i"\n',
        "[claims]\ncolour = 1\n",
        "not toml at all [",
    ],
)
def test_a_broken_claims_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "conformance.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"conformance\.toml"):
        load_claims(path)


def test_a_storage_with_io_of_its_own_is_not_simulated_and_says_why() -> None:
    cell = Cell(tier="T0", storage="mmap://{dir}", transport="tcp", flush="sync", family="kill")
    result = run_cell(cell, [1], not_run="own I/O")
    assert result.status is Status.NOT_RUN
    assert set(result.statuses.values()) == {Status.NOT_RUN}
