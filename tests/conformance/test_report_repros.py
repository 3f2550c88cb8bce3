"""Repros: a failure explains itself on one screen, shows its bytes, replays, and says when it is mended."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import attrs
import pytest

from mqcore.abc import StorageContext
from mqcore.cli import main
from mqcore.registry import register, unregister
from mqcore.url import Url
from mqcore_conformance.cells import Failure, run_cell, shrink
from mqcore_conformance.histories import read_history
from mqcore_conformance.report import explain_failure, load_repro, record_of_cell, write_repro
from mqcore_conformance.report._html import page
from mqcore_conformance.report._timeline import tell_event, timeline, without_repeats
from mqcore_conformance.saboteurs import SABOTEURS
from mqcore_conformance.saboteurs._disks import EmptyFlush
from mqcore_mmap import MmapStorage

HASTY = ("--storage", "hasty", "--transport", "inproc", "--flush", "sync", "--family", "power-cut", "--tier", "T0")


class HastyStorage(MmapStorage):
    """Acknowledges before it flushes: every flush of a file does nothing."""

    def __init__(self, url: Url, options: object, context: StorageContext) -> None:
        ports = attrs.evolve(context.ports, files=EmptyFlush(context.ports.files))
        super().__init__(url, options, attrs.evolve(context, ports=ports))  # type: ignore[arg-type]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conformance", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(scope="module")
def hasty_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a storage that lies, and is then mended."""
    folder = tmp_path_factory.mktemp("hasty") / "report"
    register("storage", "hasty", HastyStorage)
    try:
        assert run("run", *HASTY, "--seed", "2", "--to", str(folder)) == 1
    finally:
        unregister("storage", "hasty")
    return folder


def the_repro(folder: Path) -> Path:
    return next(iter(sorted((folder / "repro").iterdir())))


def test_a_lying_storage_is_told_on_one_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hasty_report: Path
) -> None:
    text = (the_repro(hasty_report) / "failure.txt").read_text()
    assert text.startswith("G01 hasty x inproc x sync x none, power-cut: lost write: offset ")
    words = " ".join(text.split())
    assert "acknowledged at level disk at event" in words
    assert "claims that it was flushed before" in words
    assert "promised: G01 no lost acknowledgement: every batch of" in words
    assert f"replay: mqcore conformance replay {the_repro(hasty_report)}" in text
    lines = text.splitlines()
    assert len(lines) < 70
    assert max(map(len, lines)) <= 160


def test_the_bytes_of_the_record_that_is_gone_are_shown(hasty_report: Path) -> None:
    text = (the_repro(hasty_report) / "bytes.txt").read_text()
    assert "batch of offsets" in text
    assert "4d 51 31 00" in text
    assert "at the end of the run" in text


def test_the_page_shows_failure_bytes_events_plan_and_replay(hasty_report: Path) -> None:
    text = (hasty_report / "report.html").read_text()
    for told in ("lost write", "Bytes of the first bad record", "Minimal plan", "class=marked", "class=fault"):
        assert told in text
    assert html.escape(f"mqcore conformance replay {the_repro(hasty_report)}") in text


def test_a_repro_replays_while_the_bug_is_there_and_says_when_it_is_mended(
    hasty_report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repro = str(the_repro(hasty_report))
    register("storage", "hasty", HastyStorage)
    try:
        capsys.readouterr()
        assert run("replay", repro) == 1
        out = capsys.readouterr().out
        assert out.startswith("G01 hasty x inproc x sync x none, power-cut: lost write")
        assert out.endswith("it fails as before\n")
        assert run("replay", "--output", "json", repro) == 1
        assert "G01" in json.loads(capsys.readouterr().out)["violations"][0]
    finally:
        unregister("storage", "hasty")
    register("storage", "hasty", MmapStorage)
    try:
        assert run("replay", repro) == 0
        assert "mended: every clause holds (G01" in capsys.readouterr().out
    finally:
        unregister("storage", "hasty")
    assert run("replay", repro) == 2
    assert "no storage backend is called 'hasty'" in capsys.readouterr().err


def test_a_check_that_failed_replays_and_says_when_it_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class NosyStorage(MmapStorage):
        """Makes its folder when it is composed."""

        def __init__(self, url: Url, options: object, context: StorageContext) -> None:
            super().__init__(url, options, context)  # type: ignore[arg-type]
            Path(url.path).mkdir(parents=True, exist_ok=True)

    arguments = ("--storage", "nosy://{dir}", "--transport", "inproc", "--tier", "contract", "--cell", "composing_does")
    folder = tmp_path / "report"
    register("storage", "nosy", NosyStorage)
    try:
        assert run("run", *arguments, "--to", str(folder)) == 1
        repro = str(the_repro(folder))
        out = capsys.readouterr().out
        line = next(line for line in out.splitlines() if line.strip().startswith("replay    mqcore conformance replay"))
        assert Path(line.split()[-1]).resolve() == Path(repro).resolve()
        assert run("replay", repro) == 1
        assert capsys.readouterr().out.endswith("it fails as before\n")
    finally:
        unregister("storage", "nosy")
    register("storage", "nosy", MmapStorage)
    try:
        assert run("replay", repro) == 0
        assert capsys.readouterr().out.endswith("mended: the check passes now\n")
    finally:
        unregister("storage", "nosy")


# ---- broken repros ---------------------------------------------------------------------------------------------------


def change(name: str, text: str) -> Callable[[Path], None]:
    return lambda repro: (repro / name).write_text(text) and None  # type: ignore[func-returns-value]


def change_plan(**values: object) -> Callable[[Path], None]:
    def apply(repro: Path) -> None:
        plan = json.loads((repro / "plan.json").read_text())
        (repro / "plan.json").write_text(json.dumps(plan | values))

    return apply


@pytest.mark.parametrize(
    "break_it",
    [
        change("plan.json", "{"),
        change("plan.json", "{}"),
        change("plan.json", "[1]"),
        change("repro.json", "{"),
        change("repro.json", '{"tier": "T9", "cell": "x", "clauses": []}'),
        change("repro.json", '{"tier": "T0", "cell": "x", "clauses": ["G99"]}'),
        change("check.json", '{"check": "no_such_check"}'),
        change_plan(transport="pigeon"),
        change_plan(storage="bogus://"),
        change_plan(flush="sometimes"),
        lambda repro: (repro / "plan.json").unlink(),
        lambda repro: (repro / "plan.json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_broken_repro_is_one_line_and_exit_2(
    break_it: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repro = tmp_path / write_repro(tmp_path, a_failure())
    break_it(repro)
    assert run("replay", str(repro)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err


# ---- parts of an explanation -----------------------------------------------------------------------------------------


@cache
def a_failure() -> Failure:
    saboteur = next(one for one in SABOTEURS if one.name == "reply-before-flush")
    result = run_cell(saboteur.cell, range(3), sabotage=saboteur.make, stop_at_first=True, extra_seeds_max=0)
    return result.failures[0]


def test_a_failure_is_shrunk_explained_and_loaded_again(tmp_path: Path) -> None:
    saboteur = next(one for one in SABOTEURS if one.name == "reply-before-flush")
    failure = shrink(a_failure(), saboteur.make, runs_max=20)
    before = a_failure().plan
    assert sum(len(one.sends) for one in failure.plan.producers) <= sum(len(one.sends) for one in before.producers)
    repro = load_repro(tmp_path / write_repro(tmp_path, failure, saboteur.cell))
    assert (repro.plan, repro.tier, repro.cell) == (failure.plan, "T0", saboteur.cell.name)
    assert "G14" in repro.clauses
    assert any("G14" in line and "unjustified receipt" in line for line in explain_failure(failure, saboteur.cell))


def test_the_search_for_a_simpler_plan_ends_when_time_is_up() -> None:
    saboteur = next(one for one in SABOTEURS if one.name == "reply-before-flush")
    assert shrink(a_failure(), saboteur.make, seconds_max=-1) is a_failure()


def test_the_record_of_a_failure_names_events_that_the_history_has(tmp_path: Path) -> None:
    saboteur = next(one for one in SABOTEURS if one.name == "reply-before-flush")
    result = run_cell(saboteur.cell, range(3), sabotage=saboteur.make, stop_at_first=True, extra_seeds_max=0)
    place = write_repro(tmp_path, result.failures[0], saboteur.cell)
    record = record_of_cell(result, [place])
    history = read_history(tmp_path / place / "history.jsonl")
    violation = record["failures"][0]["violations"][0]
    assert violation["anomaly"] == "unjustified receipt"
    assert tell_event(history[violation["events"][0]])[0] == "acknowledged"
    assert "class=marked" in page([record], tmp_path)


def test_a_timeline_keeps_what_is_marked_and_counts_what_it_leaves_out() -> None:
    history = a_failure().result.history
    rows = timeline(history, [len(history) - 1, 5], near=2, lines_max=12)
    assert [row.number for row in rows if row.marked] == ["5", str(len(history) - 1)]
    left_out = sum(int(row.detail.split()[0]) for row in rows if not row.number)
    assert left_out + sum(1 for row in rows if row.number) == len(history)


def test_every_event_of_a_run_is_told_in_words() -> None:
    for event in a_failure().result.history:
        what, detail = tell_event(event)
        assert what
        assert not detail.startswith("{")


def test_repeats_are_counted() -> None:
    text = "after node-power-cut, process-kill, process-kill, process-kill it is absent, absent"
    assert without_repeats(text) == "after node-power-cut, 3 x process-kill it is 2 x absent"
