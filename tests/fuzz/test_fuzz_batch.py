"""The fuzz target of the batch finds nothing in a short run, and takes the committed vectors."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).with_name("fuzz_batch.py")
VECTORS = sorted((Path(__file__).parents[1] / "batch" / "vectors").glob("*.bin"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.stem)
def test_target_takes_each_vector_and_each_of_its_cuts(vector: Path):
    one_input = runpy.run_path(str(TARGET))["one_input"]
    batch = vector.read_bytes()
    for size in range(0, len(batch), 3):
        one_input(batch[:size])
    one_input(batch)


@pytest.mark.needs("atheris")
def test_a_short_run_finds_nothing(tmp_path: Path):
    run = subprocess.run(
        [sys.executable, str(TARGET), "-runs=20000", "-max_len=2000", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-4000:]
