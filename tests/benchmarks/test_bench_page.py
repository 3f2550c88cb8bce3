"""docs/benchmarks.md lists the rows that there are, each with its target."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mqcore_bench._report import line_of
from mqcore_bench._rows import ROWS


@pytest.mark.needs("source-tree")
def test_the_page_lists_every_row_with_its_target():
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    cells = [(f"`{line.name}`", line.unit, line.summary, line.target) for line in (line_of(row, {}) for row in ROWS)]
    rows = [("row", "unit", "what is measured", "target"), ("---",) * 4, *cells]
    expected = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    before, mark, rest = page.read_text().partition("<!-- generated: rows -->\n")
    if os.environ.get("MQCORE_TEST_UPDATE"):
        page.write_text(before + mark + "\n" + expected + "\n<!-- end -->\n")
        rest = page.read_text().partition(mark)[2]
    assert rest == f"\n{expected}\n<!-- end -->\n", "MQCORE_TEST_UPDATE=1 pytest tests/benchmarks writes it anew"
