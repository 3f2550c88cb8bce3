"""The selftest: what is planted is caught by its own clause, a survivor fails the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqcore.cli import main
from mqcore_conformance.checkers import CHECKERS, check_history
from mqcore_conformance.histories import Completed, Drained
from mqcore_conformance.plans import FAMILIES, FLUSH_POLICIES, SET_REPLICATIONS, SIMULATED_SET_FAMILIES
from mqcore_conformance.play import run_plan
from mqcore_conformance.saboteurs import (
    CONTRACT_SABOTEURS,
    INJECTORS,
    SABOTEURS,
    Saboteur,
    plans_of,
)
from mqcore_conformance.saboteurs import selftest as selftest_module
from mqcore_conformance.saboteurs.selftest import GROUPS, Kill, run_selftest, saboteur_names
from mqcore_conformance.worlds.model import Sabotage

QUICK = [
    "rejected-after-append",
    "epoch-resumed",
    "hoped-level",
    "flush-retried",
    "sessions-kept",
    "promise-unchecked",
    "trim-forgets-producers",
]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conformance", "selftest", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_every_saboteur_names_one_clause_and_cells_that_exist() -> None:
    assert len(set(saboteur_names())) == len(saboteur_names())
    for saboteur in SABOTEURS:
        assert saboteur.clause in CHECKERS, saboteur.name
        assert saboteur.bug
        assert f"{saboteur.flush}/{saboteur.family}" not in saboteur.green
        for cell in (saboteur.cell, *saboteur.green_cells):
            assert cell.flush in FLUSH_POLICIES
            assert cell.family in (FAMILIES if cell.nodes == 1 else SIMULATED_SET_FAMILIES)
            assert cell.replication in ("none", *SET_REPLICATIONS)
    asked_for = {"power-cut", "kill", "network", "flush-error", "io-error", "slow", "rot", "full", "clock"}
    assert {injector.family for injector in INJECTORS} == asked_for


def test_every_clause_that_a_run_can_break_has_a_saboteur() -> None:
    seen_beside_others = {"G02"}
    planted = {saboteur.clause for saboteur in (*SABOTEURS, *CONTRACT_SABOTEURS)}
    assert planted >= set(CHECKERS) - seen_beside_others


@pytest.mark.parametrize("saboteur", [one for one in SABOTEURS if one.nodes > 1], ids=lambda one: one.name)
def test_the_plan_that_shows_a_bug_of_a_set_is_green_without_it(saboteur: Saboteur) -> None:
    _, plan = next(plans_of(saboteur))
    result = run_plan(plan)
    assert result.error == ""
    assert [str(violation) for violation in check_history(result.history)] == []


def test_r15_the_plan_that_shows_what_a_trim_forgets_is_green_without_that_and_has_trims() -> None:
    (saboteur,) = (one for one in SABOTEURS if one.name == "trim-forgets-producers")
    _, plan = next(plans_of(saboteur))
    result = run_plan(plan)
    assert (result.error, [str(violation) for violation in check_history(result.history)]) == ("", [])
    (drained,) = (each for each in result.history if isinstance(each, Drained))
    answers = [each for each in result.history if isinstance(each, Completed) and each.outcome == "acknowledged"]
    assert drained.start_offset > 0
    assert any(each.duplicate for each in answers)


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_turns_its_clause_red_and_leaves_other_cells_green(name: str) -> None:
    (kill,) = run_selftest([name])
    assert (kill.verdict, kill.stray) == ("killed", ()), kill
    assert kill.expected in kill.caught
    assert kill.example.startswith(kill.expected)


@pytest.mark.parametrize("injector", INJECTORS, ids=lambda one: one.name)
def test_a_fault_that_does_not_strike_is_inconclusive_and_never_a_pass(injector: Saboteur) -> None:
    (kill,) = run_selftest([injector.name])
    assert kill.caught == ("INCONCLUSIVE",), kill


def test_a_part_without_a_bug_survives_and_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    harmless = Saboteur(
        name="harmless", bug="none at all", make=Sabotage, clause="G01", flush="none", family="none", seeds_max=2
    )
    monkeypatch.setattr(selftest_module, "SABOTEURS", (harmless,))
    assert run("harmless", "--to", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("SURVIVED  harmless")
    assert "none at all: expected G01" in out
    assert "1 survived: harmless" in out
    assert "(SURVIVED): none at all" in (tmp_path / "kill-matrix.md").read_text()


def test_a_saboteur_that_does_not_fit_the_core_any_more_is_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    class Misfit(Sabotage):
        @contextlib.contextmanager
        def installed(self) -> Iterator[None]:
            with monkeypatch.context() as patch:
                patch.setattr("mqcore.log._store.LogStore._open", lambda store: store.no_such_name)
                yield

    misfit = Saboteur(name="misfit", bug="gone", make=Misfit, clause="G13", flush="none", family="none", seeds_max=2)
    monkeypatch.setattr(selftest_module, "SABOTEURS", (misfit,))
    (kill,) = run_selftest(["misfit"])
    assert kill.survived
    assert kill.example.startswith("the saboteur does not fit the core any more: ")


class Hanging(Sabotage):
    """One whose bug is found by nobody, for it leaves nothing running that could find it."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        def hang(_: object) -> None:
            while True:
                pass

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mqcore.log._store.LogStore._open", hang)
            yield


def hanging(name: str, **keys: Any) -> Saboteur:
    return Saboteur(name=name, bug="gone", make=Hanging, flush="none", family="none", seeds_max=2, **keys)


def test_a_run_that_hangs_is_ended_and_named_with_its_cell_and_seed_and_is_no_kill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (quick,) = (one for one in SABOTEURS if one.name == "hoped-level")
    monkeypatch.setattr(selftest_module, "SABOTEURS", (hanging("hangs", clause="G13"), quick))
    monkeypatch.setattr(selftest_module, "INJECTORS", (hanging("strikes-never", clause=""),))
    monkeypatch.setattr(selftest_module, "RUN_S_MAX", {"T0": 5.0, "T1": 5.0})
    assert run("hangs", "hoped-level", "strikes-never", "--jobs", "2") == 1
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[1]: line for line in lines if line.startswith(("HUNG", "killed", "SURVIVED"))}
    assert {name: line.split()[0] for name, line in told.items()} == {
        "hangs": "HUNG",
        "hoped-level": "killed",
        "strikes-never": "HUNG",
    }
    for name in ("hangs", "strikes-never"):
        assert "T0/mmap/inproc/none/none" in told[name]
        assert "(seed 0): it hangs" in told[name]
    assert "no survivor, 2 hung: hangs, strikes-never" in lines[-1]


def test_red_where_it_must_be_green_is_no_kill() -> None:
    kill = Kill(name="n", group="core", bug="b", cell="c", expected="G01", caught=("G01",), stray=("sync/kill G04",))
    assert kill.survived


def test_the_matrix_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "kills"
    names = ["rejected-after-append", "kill-that-kills-nothing", "drop-a-read"]
    assert run(*names, "--jobs", "2", "--to", str(folder)) == 0
    out = capsys.readouterr().out
    table = out[out.index("\nsaboteur ") :].splitlines()
    assert table[1].split()[: 1 + len(CHECKERS)] == ["saboteur", *CHECKERS]
    row = table[2].split()
    assert row[0] == names[0]
    assert row[1 : 1 + len(CHECKERS)] == ["X" if clause == "G07" else "." for clause in CHECKERS]
    assert "no survivor (1 core, 1 injector, 1 recorder)" in out
    page = (folder / "kill-matrix.md").read_text()
    assert all(f"**{name}** (killed)" in page for name in names)


def test_each_line_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hoped-level", "--output", "json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["name"], told["verdict"], told["expected"]) == ("hoped-level", "killed", "G14")
    assert told["group"] in GROUPS


def test_names_are_listed_with_clause_cell_and_bug_and_a_wrong_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == saboteur_names()
    assert any(line.split()[:3] == ["empty-flush", "G01", "T0/mmap/inproc/sync/power-cut"] for line in listed)
    assert run("emty-flush") == 2
    assert "no saboteur 'emty-flush'; did you mean 'empty-flush'?" in capsys.readouterr().err


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hoped-level", "--list", "--output", "json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["clause"] == "G14"


def is_gone(group: int) -> bool:
    """Whether every process of the group has ended, within a few seconds: what watches the others ends after them."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_key_press_ends_it_and_what_it_started() -> None:
    names = ["hoped-level", "epoch-resumed", "empty-flush", "flush-retried", "window-ignored", "stale-bytes"]
    command = [sys.executable, "-m", "mqcore", "conformance", "selftest", *names, "--jobs", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("killed")
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted: " in errors
    assert is_gone(process.pid)


@pytest.mark.parametrize("saboteur", [*SABOTEURS, *INJECTORS], ids=lambda one: one.name)
def test_what_a_saboteur_takes_the_place_of_is_there(saboteur: Saboteur) -> None:
    with saboteur.make().installed():
        pass  # a LookupError says which name is gone
