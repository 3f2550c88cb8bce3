"""The measurement of coordinators runs, on the one that needs no server, and prints a row."""

from __future__ import annotations

import pytest

from mqcore_bench import coordinators


def test_a_row_has_a_number_in_each_column_that_is_not_of_an_ensemble(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("WRITES", 5), ("HINTS", 2), ("TAKEOVERS", 1), ("LEASE_MS", 300)):
        monkeypatch.setattr(coordinators, name, value)
    coordinators.main(["file"])
    heading, _, row = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == heading.count("|") - 1
    assert cells[0] == "file"
    assert all(float(cell) >= 0 for cell in cells[1:6])
    assert cells[6].endswith(f" to {cells[6].split()[0]}")
    assert cells[7:] == ["", ""]


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match="nosuch to measure; one of file, etcd"):
        coordinators.main(["nosuch"])
