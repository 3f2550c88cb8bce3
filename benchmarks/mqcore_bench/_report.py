"""Medians, ratios and the table: from single measurements to a line of the report. Knows no process and no socket."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import attrs

from mqcore_bench._rows import Row

__all__ = ["Line", "line_of", "table"]

HEADINGS = ("row", "unit", "mqcore", "toy", "probe", "ratio", "target", "")


@attrs.frozen(kw_only=True)
class Line:
    """One row with what was measured: every value by subject, medians, the limit, the ratio and whether it is met."""

    name: str
    summary: str
    unit: str
    values: Mapping[str, Sequence[float]]
    medians: Mapping[str, float]
    limit: str | None
    ratio: float | None
    target: str
    met: bool | None


def line_of(row: Row, values: Mapping[str, Sequence[float]]) -> Line:
    """Return the line of ``row``; ``values`` holds the measurements of each subject, empty ones are left out."""
    medians = {subject: statistics.median(measured) for subject, measured in values.items() if measured}
    others = {subject: value for subject, value in medians.items() if subject != "mqcore"}
    limit = None
    if others:
        limit = (min if row.more_is_better else max)(others, key=lambda subject: others[subject])
    own = medians.get("mqcore")
    ratio = own / others[limit] if own is not None and limit is not None else None
    return Line(
        name=row.name,
        summary=row.summary,
        unit=row.unit,
        values=dict(values),
        medians=medians,
        limit=limit,
        ratio=ratio,
        target=_target(row),
        met=_met(row, own, ratio),
    )


def _target(row: Row) -> str:
    sign = ">=" if row.more_is_better else "<="
    if row.at_most is not None:
        return f"<= {row.at_most:g} {row.unit}"
    if row.at_least is not None:
        return f">= {row.at_least:g} {row.unit}"
    return f"{sign} {row.ratio:g}" if row.ratio is not None else ""


def _met(row: Row, own: float | None, ratio: float | None) -> bool | None:
    if own is not None and row.at_most is not None:
        return own <= row.at_most
    if own is not None and row.at_least is not None:
        return own >= row.at_least
    if ratio is None or row.ratio is None:
        return None
    return ratio >= row.ratio if row.more_is_better else ratio <= row.ratio


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100_000:
        return f"{value / 1000:,.0f} k".replace(",", " ")
    return f"{value:,.0f}".replace(",", " ") if value >= 100 else f"{value:.3g}"


def table(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Return the cells of the report, one tuple per line, as ``HEADINGS`` names them."""
    return [
        (
            line.name,
            line.unit,
            *(_number(line.medians.get(subject)) for subject in ("mqcore", "toy", "probe")),
            f"{line.ratio:.2f} of {line.limit}" if line.ratio is not None else "",
            line.target,
            {True: "met", False: "missed", None: ""}[line.met],
        )
        for line in lines
    ]
