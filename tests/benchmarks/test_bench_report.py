"""What the benchmarks do with their numbers: medians, the limit, ratios, targets. No time is asserted."""

from __future__ import annotations

import json

import pytest

from mqcore.cli._run import run
from mqcore_bench._report import HEADINGS, line_of, table
from mqcore_bench._rows import ROWS, Memory, Publish, Row, select

pytestmark = pytest.mark.quick

RATE = Row(name="rate", summary="", work=Publish(flush="sync", delay_ms=0, batch=1, window=1), ratio=0.6)
TIME = Row(name="time", summary="", work=RATE.work, unit="us", more_is_better=False, ratio=1.5)
COST = Row(name="cost", summary="", work=Memory(of="idle"), unit="MB", more_is_better=False, at_most=60)


def test_the_median_counts_and_the_limit_is_the_smaller_of_toy_and_probe():
    line = line_of(RATE, {"mqcore": [10, 70, 60], "toy": [100, 1, 100], "probe": [90, 300, 200]})
    assert line.medians == {"mqcore": 60, "toy": 100, "probe": 200}
    assert (line.limit, line.ratio, line.met) == ("toy", 0.6, True)


def test_where_less_is_better_the_limit_is_the_slower_of_the_two():
    line = line_of(TIME, {"mqcore": [31], "toy": [20], "probe": [5]})
    assert (line.limit, line.ratio, line.met) == ("toy", 1.55, False)


def test_an_absolute_target_needs_no_limit():
    assert line_of(COST, {"mqcore": [60]}).met is True
    assert line_of(COST, {"mqcore": [61]}).met is False


def test_a_rate_of_its_own_has_to_reach_its_target():
    rate = Row(name="events", summary="", work=Memory(of="idle"), unit="event/s", at_least=20_000)
    assert line_of(rate, {"mqcore": [20_000]}).met is True
    assert line_of(rate, {"mqcore": [19_999]}).met is False
    assert line_of(rate, {}).target == ">= 20000 event/s"


def test_a_row_without_a_measurement_of_mqcore_is_neither_met_nor_missed():
    line = line_of(RATE, {"mqcore": [], "toy": [1]})
    assert (line.ratio, line.met) == (None, None)


def test_every_row_has_a_name_of_its_own_and_a_target_or_none_stated():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.summary for row in ROWS)
    assert all(len(cells) == len(HEADINGS) for cells in table([line_of(row, {}) for row in ROWS]))


def test_rows_are_chosen_by_wildcard_in_the_order_of_the_report():
    names = [row.name for row in select(("one-*", "publish-256-sync-*"))]
    assert names[0].startswith("publish-256-sync")
    assert names[-1] == "one-sync-5ms"
    with pytest.raises(KeyError, match="nosuch"):
        select(("one-*", "nosuch"))


def test_bench_list_is_a_stream_of_objects(capsys):
    assert run(["bench", "list", "--output", "json"]) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == [row.name for row in ROWS]


def test_an_unknown_row_is_wrong_usage(capsys):
    assert run(["bench", "run", "nosuch"]) == 2
    assert "mqcore bench list" in capsys.readouterr().err
