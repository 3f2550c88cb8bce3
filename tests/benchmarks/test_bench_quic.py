"""``mqcore bench quic``: what it measures is there, and what depends on no machine's speed holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mqcore_bench import quic

pytestmark = pytest.mark.slow


def bench(*arguments: str) -> tuple[int, list[Any], str]:
    command = [sys.executable, "-m", "mqcore", "bench", "quic", *arguments, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_each_measurement_gives_a_row() -> None:
    names = [name for name in quic.MEASURES if name != "idle"]
    status, rows, text = bench(*names, "--seconds", "0.2", "--rounds", "1")
    assert (status, text) == (0, "")
    assert len(rows) == len(names)
    for row in rows:
        assert row["value"] > 0
        assert (row["beside"] is None) is (row["ratio"] is None)
    assert all("were)" not in row["target"] for row in rows), "a flood cost a client its connection"


def test_g20_no_more_than_the_window_goes_into_a_stream_that_is_not_read() -> None:
    _, (row,), _ = bench("unread", "--rounds", "1")
    assert 0.9 < row["value"] <= 1.1
    assert row["is_met"] is True


def test_idle_links_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quic, "IDLE_LINKS", 20)
    (row,) = quic.measure_quic(["idle"], tmp_path, 0.1, 1, lambda _: None)
    assert row.value > 0


def test_a_measurement_that_does_not_exist_is_named() -> None:
    status, rows, text = bench("warp")
    assert (status, rows) == (2, [])
    assert "no measurement 'warp'; there are bulk" in text
