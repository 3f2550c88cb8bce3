"""The conformance suite on arrays, as anybody runs it: contract checks, and a broker on an array under faults (T0)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.plans import MEMBER_FAMILIES
from mqcore_conformance.running import Request, plan_cells
from mqcore_conformance.saboteurs._arrays import one_member_flushed
from mqcore_conformance.verdicts import Status

SMALL = "first_extent_bytes=4096&extent_bytes_max=4096&segment_bytes=16384&journal_bytes=65536"
MIRROR = f"raid:///{{dir}}/a,/{{dir}}/b?level=1&{SMALL}"
BOTH = f"raid:///{{dir}}/a,/{{dir}}/b,/{{dir}}/c,/{{dir}}/d?level=10&stripe_bytes=4096&{SMALL}"

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mqcore", "conformance", "run", "--jobs", "1", "--transport", "inproc"]
    done = subprocess.run(
        [*command, "--dir", str(folder), "--to", str(folder / "report"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.parametrize("word", ["member", "halves", "copy"])
@pytest.mark.parametrize("storage", [MIRROR, BOTH], ids=["level=1", "level=10"])
def test_the_checks_of_arrays_pass(storage, word, tmp_path):
    assert "PASS" in run(tmp_path, "--storage", storage, "--tier", "contract", "--cell", word)


@pytest.mark.parametrize("storage", [MIRROR, BOTH], ids=["level=1", "level=10"])
def test_a_broker_on_an_array_keeps_its_promises_under_faults(storage, tmp_path):
    families = "io-error,full,rot,power-cut,slow"
    printed = run(
        tmp_path, "--storage", storage, "--tier", "T0", "--flush", "sync", "--family", families, "--seeds", "1"
    )
    assert printed.count("PASS") >= len(families.split(","))


@pytest.mark.parametrize("storage", [MIRROR, BOTH], ids=["level=1", "level=10"])
def test_what_befalls_one_member_takes_nothing_that_was_acknowledged(storage, tmp_path):
    families = ",".join(MEMBER_FAMILIES)
    printed = run(
        tmp_path, "--storage", storage, "--tier", "T0", "--flush", "sync", "--family", families, "--seeds", "1"
    )
    assert printed.count("PASS") >= len(MEMBER_FAMILIES)


def test_an_array_that_flushes_one_member_is_seen_when_the_other_is_lost():
    cell = Cell(tier="T0", storage=MIRROR, transport="inproc", flush="sync", family="member-lost")
    with one_member_flushed().installed():
        result = run_cell(cell, range(12), stop_at_first=True)
    assert result.status is Status.FAIL
    assert result.statuses["G01"] is Status.FAIL


def test_a_single_storage_has_no_such_cells_and_is_told_so_where_they_are_asked_for(tmp_path):
    def cells(storage: str, *families: str) -> dict[str, str]:
        request = Request(storages=(storage,), transports=("inproc",), flushes=("sync",), tiers=("T0",),
                          **({"families": families} if families else {}))  # fmt: skip
        return {cell.family: why for cell, why in plan_cells(request)}

    assert set(MEMBER_FAMILIES) <= set(cells(MIRROR))
    assert not set(MEMBER_FAMILIES) & set(cells("mmap:///{dir}"))
    assert "no loss of a member" in cells("mmap:///{dir}", "member-lost")["member-lost"]
