"""The benchmarks measure what they say: each subject runs once, briefly, and a slowed disk waits in every flush."""

from __future__ import annotations

import json
import os

import pytest

from mqcore.cli._run import run
from mqcore.ports import system_ports
from mqcore_bench import _slow_disk
from mqcore_bench._segments import SEGMENT_BYTES, Segments
from mqcore_bench._slow_disk import SlowDisk


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were slept, instead of sleeping."""
    seconds = []
    monkeypatch.setattr(_slow_disk.time, "sleep", seconds.append)
    return seconds


def test_every_flush_of_a_slowed_disk_waits_once_and_nothing_else_does(slept, tmp_path):
    disk = SlowDisk(system_ports().files, 0.005)
    files = [disk.open(f"{tmp_path}/{name}", create=True) for name in "abc"]
    for file in files:
        assert file.pwritev([b"x"], 0) == 1
        assert file.pread(1, 0) == b"x"
    assert slept == []
    files[0].flush()
    disk.flush_many(files)
    assert slept == [0.005, 0.005]
    for file in files:
        file.close()


def test_segments_are_whole_zero_filled_and_not_more_than_asked_for(tmp_path):
    segments = Segments(str(tmp_path), ahead=1, total=1)
    segments.wait_ready()
    (path,) = segments.paths
    with open(path, "rb") as file:
        assert file.read() == bytes(SEGMENT_BYTES)
    os.close(segments.take())
    assert segments.take_now() is None


@pytest.mark.slow
@pytest.mark.parametrize("row", ["one-async-0ms", "consume-batches"])
def test_a_row_is_measured_for_every_subject(capsys, tmp_path, row):
    folders = ["--data", str(tmp_path), "--to", str(tmp_path / "to")]
    brief = ["--seconds", "0.2", "--rounds", "1", "--size", "8 MB"]
    assert run(["--output", "json", "bench", "run", row, *brief, *folders]) == 0
    line = json.loads(capsys.readouterr().out)
    assert {"mqcore", "toy"} <= line["medians"].keys()
    assert all(value > 0 for value in line["medians"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["to"], "its data is removed"
    report = json.loads((tmp_path / "to" / "bench.json").read_text())
    assert report["rows"][0]["name"] == row
    assert {"cpus", "kernel", "python", "file_system"} <= report["machine"].keys()


@pytest.mark.slow
def test_any_storage_and_transport_is_measured_and_one_that_does_not_fit_is_named_with_the_reason(capsys):
    brief = ["--seconds", "0.2", "--rounds", "1", "--subject", "mqcore"]
    parts = ["--storage", "null://", "--transport", "unix://{dir}/socket"]
    assert run(["--output", "json", "bench", "run", "one-async-0ms", *brief, *parts]) == 1
    assert "a flush of null:// reaches none, not disk" in capsys.readouterr().err
    parts[1] = "mmap://{dir}/elsewhere?segment_bytes=32MiB"
    assert run(["--output", "json", "bench", "run", "one-async-0ms", *brief, *parts]) == 0
    assert json.loads(capsys.readouterr().out)["medians"]["mqcore"] > 0


@pytest.mark.slow
def test_the_simulation_is_measured_without_anything_to_compare(capsys):
    assert run(["--output", "json", "bench", "run", "simulation-events", "--seconds", "0.1", "--rounds", "1"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["medians"].keys() == {"mqcore"}
    assert line["medians"]["mqcore"] > 1_000
