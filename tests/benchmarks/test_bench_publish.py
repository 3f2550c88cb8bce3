"""``mqcore bench publish``: a running broker is measured, and left as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import trio

import mqcore

pytestmark = pytest.mark.slow


def test_a_running_broker_is_measured_and_left_as_it_was() -> None:
    async def main() -> subprocess.CompletedProcess[bytes]:
        async with mqcore.open_broker(storage="memory://", flush="none", listen="tcp://127.0.0.1:0") as broker:
            url = str(broker.urls[0])
            command = [sys.executable, "-m", "mqcore", "bench", "publish", "--server", url, "--seconds", "0.2"]
            done = await trio.run_process([*command, "--output", "json"], capture_stdout=True, check=False)
            async with mqcore.connect(url) as client:
                assert await client.admin.list_topics() == []
            return done

    done = trio.run(main)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result["level"] == "memory"
    assert result["messages"] >= 256
    assert 0 < result["median_us"] <= result["p99_us"]
    assert result["messages_per_second"] > 0


def test_a_broker_that_is_not_there_is_told() -> None:
    command = [sys.executable, "-m", "mqcore", "bench", "publish", "--server", "tcp://127.0.0.1:1"]
    done = subprocess.run([*command, "--timeout", "300ms"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert "nothing listens there" in done.stderr
