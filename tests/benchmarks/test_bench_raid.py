"""``mqcore bench raid``: each build is run as it would be, and every byte is where the build says that it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_every_build_is_measured_and_copies_cost_the_disk_what_they_are(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "mqcore",
        "bench",
        "raid",
        "--seconds",
        "0.2",
        "--rounds",
        "1",
        "--data",
        str(tmp_path),
    ]
    done = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    costs = {line["build"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(costs) == ["one directory", "array only", "replicas only", "array plus one replica"]
    assert all(cost["messages_per_second"] > 0 and cost["latency_us"] > 0 for cost in costs.values())
    assert [cost["copies"] for cost in costs.values()] == [1, 2, 2, 4]
    assert not list(tmp_path.iterdir())
