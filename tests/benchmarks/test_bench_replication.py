"""The measurement of replica sets runs, on two nodes, and prints a row for each figure."""

from __future__ import annotations

import json

import pytest

from mqcore_bench import replication
from mqcore_bench.replication import SetRow


@pytest.mark.slow
def test_a_set_of_two_is_measured_and_told_in_rows(capsys: pytest.CaptureFixture[str]) -> None:
    names = "throughput,latency,lag,switchover,failover"
    extent = ("--seconds", "0.1", "--rounds", "1", "--singles", "5", "--switchovers", "1", "--kills", "1")
    replication.main(["2", "--only", names, *extent, "--output", "json"])
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {"batches-sync-of-async", "single-added-of-alone", "lag-p99", "switchover-median"} < set(rows)
    assert not any(name.startswith("failover") for name in rows), "a set that has lost one of two nodes waits for it"
    assert all(row["nodes"] == 2 for row in rows.values())
    assert rows["batches-async"]["value"] > 0
    assert rows["batches-async"]["met"] is None


def test_a_row_says_whether_its_target_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ((0.9, ">= 0.9", True), (0.8, ">= 0.9", False), (21, "<= 20", False), (20, "<= 20", True))
    for value, target, met in rows:
        row = SetRow(name="lag-p99", nodes=3, value=value, unit="ms", target=target)
        assert row.is_met is met
        replication._say(row)
        assert ("| met |" if met else "| missed |") in capsys.readouterr().out


def test_a_measurement_that_there_is_not_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        replication.main(["--only", "latncy"])
    assert ended.value.code == 2
    assert "no measurement 'latncy'; one of throughput, latency, lag" in capsys.readouterr().err
