"""``mqcore bench clients``: each client is measured in each way, on a broker of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_every_client_has_a_rate_for_every_measure() -> None:
    command = [sys.executable, "-m", "mqcore", "bench", "clients", "--seconds", "0.1", "--rounds", "1"]
    done = subprocess.run([*command, "--output", "json"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["measure"] for line in lines] == ["post-many", "post", "one", "read-batches", "read-messages"]
    for line in lines:
        assert set(line["rates"]) == {"trio", "aio", "sync"}
        assert all(rate > 0 for rate in line["rates"].values())
