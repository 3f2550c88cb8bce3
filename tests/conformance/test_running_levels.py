"""A level that is claimed and met no fault is not proved: the run is incomplete, and what did not run says truly why.

The part is a third party's: installed beside mqcore with entry points of its own (``bad_plugins``).
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from mqcore.cli import main
from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.claims import SuiteSettings
from mqcore_conformance.plans import T1_FAMILIES
from mqcore_conformance.running import Request, plan_cells, tiers_of
from mqcore_conformance.suite import Adoption
from mqcore_conformance.verdicts import Status

PLUGINS = Path(__file__).parent / "bad_plugins"
OWN_IO = "bad://{dir}?own_io=true"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["conformance", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("storage", "tier", "code"), [(OWN_IO, "T0", 4), ("bad://{dir}", "contract", 0)])
def test_a_claimed_level_that_met_no_fault_makes_a_run_incomplete(storage, tier, code, tmp_path, capsys) -> None:
    arguments = ("--storage", storage, "--transport", "inproc", "--tier", tier, "--clause", "G01")
    assert run("run", *arguments, "--to", str(tmp_path / "report")) == code
    captured = capsys.readouterr()
    line = f"incomplete: {storage} claims level disk, and no power cut has put it to the test"
    assert (line in captured.err) == (code == 4)
    assert captured.out.splitlines()[-1].startswith("incomplete" if code else "conformant")


def test_a_run_that_names_its_faults_is_judged_by_those(tmp_path) -> None:
    arguments = ("--storage", OWN_IO, "--transport", "inproc", "--tier", "contract", "--clause", "G18")
    assert run("run", *arguments, "--to", str(tmp_path / "report")) == 0


def test_a_storage_with_io_of_its_own_gets_t1_over_tcp_unless_tiers_are_named() -> None:
    assert tiers_of((), [OWN_IO, "mmap://{dir}"]) == (("contract", "T0", "T1"), True)
    of_mqcore = ["mmap://{dir}", "memory://", "null://"], ["tcp", "unix", "inproc"]
    assert tiers_of((), *of_mqcore) == (("contract", "T0"), False)
    assert tiers_of(("T0",), [OWN_IO]) == (("T0",), False)
    request = Request(
        storages=(OWN_IO, "mmap://{dir}"), transports=("inproc",), partners=("inproc",), tiers=("T1",),
        families=(*T1_FAMILIES, "kill", "power-cut"), t1_by_default=True,
    )  # fmt: skip
    names = [cell.name for cell, _ in plan_cells(request)]
    assert names == [
        f"T1/bad?own_io=true/tcp/{flush}/{family}"
        for flush in ("sync", "async")
        for family in T1_FAMILIES
        if family in ("kill", "kill-at-call", "power-cut", "full", "flush-error")
    ]


def test_an_authors_storage_that_can_be_simulated_meets_real_processes_too() -> None:
    assert tiers_of((), ["bad://{dir}"]) == (("contract", "T0", "T1"), True)
    request = Request(
        storages=("bad://{dir}", "mmap://{dir}"), transports=("unix", "tcp"), tiers=("T1",), t1_by_default=True
    )  # fmt: skip
    names = [cell.name for cell, _ in plan_cells(request)]
    assert names == ["T1/bad/tcp/sync/kill", "T1/bad/tcp/sync/power-cut"]


def test_a_transport_with_sockets_of_its_own_meets_real_processes_by_default() -> None:
    transport = "bad://{dir}/s"
    assert tiers_of((), (), [transport]) == (("contract", "T0", "T1"), True)
    request = Request(
        storages=("mmap://{dir}",), transports=(transport,), partners=("mmap://{dir}",), tiers=("T1",),
        t1_by_default=True,
    )  # fmt: skip
    names = [cell.name for cell, _ in plan_cells(request)]
    assert names == [f"T1/mmap/bad/sync/{family}" for family in ("none", "kill", "proxy-cut", "proxy-stall")]


def test_what_cannot_be_simulated_says_which_tier_has_its_fault_if_one_does() -> None:
    request = Request(storages=(OWN_IO,), transports=("inproc",), tiers=("T0",), flushes=("sync",))
    reasons = {cell.family: why for cell, why in plan_cells(request)}
    for family in ("kill", "full", "flush-error", "stop"):
        assert reasons[family].endswith("T1 has this fault for it, and was not asked for (--tier T1)")
    asked = attrs.evolve(request, tiers=("T0", "T1"), t1_by_default=True)
    reasons = {cell.family: why for cell, why in plan_cells(asked) if cell.tier == "T0"}
    assert reasons["kill"].endswith("; T1 has this fault for it")
    assert reasons["stop"].endswith("was not asked for (--tier T1)")
    assert reasons["rot"].endswith("no tier that is built has this fault for it")


def test_the_two_lines_fail_for_a_level_without_a_fault_and_list_what_does_not_run() -> None:
    settings = SuiteSettings(storage=(OWN_IO,), tiers=("T0",))
    adopted = Adoption(root=Path(), settings=settings)
    kill, cut = adopted.unproved()
    assert "no kill has put it to the test" in kill
    assert "no power cut has put it to the test" in cut
    assert sum(adopted.not_run().values()) == len(list(plan_cells(adopted.request)))
    assert {tier for tier, _ in adopted.not_run()} == {"T0"}
    by_default = Adoption(root=Path(), settings=SuiteSettings(storage=(OWN_IO,)))
    assert {cell.name.split("/")[2] for cell in by_default.cells()} == {"tcp"}


@pytest.mark.slow
@pytest.mark.needs("dirty-pages")
def test_a_storage_that_never_flushes_is_red_in_the_cells_that_it_gets_by_default() -> None:
    liar = f"{OWN_IO}&does=acknowledges-before-flushing"
    cell = Cell(tier="T1", storage=liar, transport="tcp", flush="sync", family="power-cut")
    assert run_cell(cell, range(4), stop_at_first=True).statuses["G01"] is Status.FAIL
