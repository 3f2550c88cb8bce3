"""A test that the machine cannot run is left out with its reason, and fails where it is required."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.needs("root")
def test_as_root(): pass

@pytest.mark.needs("not-root")
def test_as_anybody(): pass

def test_from_within(needs):
    needs("{missing}")

@pytest.mark.needs("nosuch")
def test_of_a_need_that_nobody_knows(): pass
"""
MISSING = "not-root" if os.geteuid() == 0 else "root"


@pytest.fixture
def run(tmp_path):
    """Runs the tests above beside a copy of the conftest, with needs required or not."""
    shutil.copy(Path(__file__).parent.parent / "conftest.py", tmp_path)
    (tmp_path / "test_sample.py").write_text(TESTS.replace("{missing}", MISSING))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs\n")

    def run(required):
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_sample.py"]
        environment = os.environ | {"MQCORE_TEST_REQUIRE": required}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_what_is_left_out_is_listed_once_with_its_count_and_reason(run):
    done = run("")
    listing = done.stdout.split("left out on this machine")[1]
    assert f"{MISSING}: 2 tests: " in listing
    assert "1 passed, 2 skipped, 1 error" in done.stdout  # the error: a need that nobody knows


def test_what_is_required_fails_instead(run):
    done = run(MISSING)
    assert f"{MISSING} is required by MQCORE_TEST_REQUIRE and missing" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_a_required_name_that_no_test_could_need_is_refused(run):
    done = run("rooot")
    assert done.returncode == 4
    assert "unknown rooot" in done.stderr
