"""``matrix.md``: a report as Markdown, and what changed from one report to another. Made from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mqcore.guarantees import CLAUSES
from mqcore_conformance.report._not_built import AXES, NOT_BUILT, NOT_BUILT_YET
from mqcore_conformance.report._records import Record, families_of, latest, status_of

SIGNS = {
    "PASS": "pass",
    "FAIL": "**FAIL**",
    "LIVENESS": "**LIVENESS**",
    "ERROR": "**ERROR**",
    "INCONCLUSIVE": "inconclusive",
    "NOT RUN": "-",
    "NOT CLAIMED": "not claimed",
    "XFAIL": "xfail",
    "XPASS": "**XPASS**",
}
LEGEND = (
    "*pass*: every clause held in every run; *-*: makes no sense there, or was not asked for; *inconclusive*: the "
    "fault found nothing that it could take."
)


def matrix(records: Iterable[Record]) -> str:
    """Return the grid of a report as Markdown: cells by fault family, then clauses, then contract checks."""
    records = latest(records)
    cells = sorted((record for record in records if record["kind"] in ("cell", "part")), key=_place_of_cell)
    checks = sorted((record for record in records if record["kind"] == "check"), key=_place_of_check)
    lines = ["# Conformance", "", *_made_with(records)]
    tables = [_grid(cells), _not_built(), _clauses(cells, checks), _checks(checks)]
    for table in tables:
        lines += [*table, ""] if table else []
    return "\n".join([*lines, LEGEND, ""])


def _place_of_cell(cell: Record) -> tuple[str, ...]:
    """Return where a cell stands, whenever it ended."""
    return cell["tier"], cell["storage"], cell["transport"], cell["flush"], cell["name"]


def _place_of_check(check: Record) -> tuple[str, ...]:
    return check["clause"], check["name"].rpartition("/")[2], check["part"]


def _made_with(records: Sequence[Record]) -> list[str]:
    run = next((record for record in records if record["kind"] == "run"), {})
    lines = []
    for before, values in (("Made with", run.get("made_with")), ("Asked for", run.get("arguments"))):
        if isinstance(values, dict) and values:
            told = ", ".join(f"{_cell(name)} {_cell(value)}" for name, value in values.items())
            lines += [f"{before} {told}.", ""]
    return lines


def _cell(text: object) -> str:
    """Return text that a Markdown table takes as text."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    plain = "".join(f"\\{letter}" if letter in "|[]`*_\\" else letter for letter in plain)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> list[str]:
    """Return the lines of a table; none without rows."""
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)] if rows else []


def _grid(cells: Sequence[Record]) -> list[str]:
    families = families_of(cells)
    by_row: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for cell in cells:
        where = _cell(cell["transport"]), _cell(cell["flush"]), _cell(cell.get("replication", "none"))
        row = (_cell(cell["tier"]), f"`{_plain_code(cell['storage'])}`", *where)
        by_row.setdefault(row, {}).setdefault(cell["family"], []).append(cell["status"])
    rows = [
        [*row, *(SIGNS[status_of(found[family])] if family in found else "-" for family in families)]
        for row, found in by_row.items()
    ]
    return markdown_table(rows, [*AXES, *map(_cell, families)])


def _plain_code(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable() and letter not in "`|<>")


def _not_built() -> list[str]:
    rows = [
        [one.tier, one.storage, one.transport, one.flush, one.replication, f"*{NOT_BUILT_YET}*", one.what]
        for one in NOT_BUILT
    ]
    rows = [[text.replace("*", "\\*") if text == "*" else text for text in row] for row in rows]
    return markdown_table(rows, [*AXES, "", "what"])


def _clauses(cells: Sequence[Record], checks: Sequence[Record]) -> list[str]:
    rows = []
    for clause, facts in CLAUSES.items():
        found = [cell["clauses"].get(clause, "NOT RUN") for cell in cells]
        checked = [check["status"] for check in checks if check["clause"] == clause]
        held = f"{found.count('PASS')} cells, {checked.count('PASS')} checks"
        rows.append([f"{clause} {_cell(facts.name)}", SIGNS[status_of([*found, *checked])], held])
    return markdown_table(rows, ["clause", "worst", "pass in"])


def _checks(checks: Sequence[Record]) -> list[str]:
    parts = sorted({check["part"] for check in checks})
    by_name: dict[tuple[str, str], dict[str, str]] = {}
    for check in checks:
        key = (check["name"].rpartition("/")[2], check["clause"])
        by_name.setdefault(key, {})[check["part"]] = check["status"]
    rows = [
        [_cell(name.replace("_", " ")), clause, *(SIGNS[found.get(part, "NOT RUN")] for part in parts)]
        for (name, clause), found in by_name.items()
    ]
    return markdown_table(rows, ["contract check", "clause", *map(_cell, parts)])


def diff(old: Iterable[Record], new: Iterable[Record]) -> list[str]:
    """Return what changed colour from one report to another, one line each; whole cells that came or went, too."""
    before, after = _statuses(old), _statuses(new)
    lines = []
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            lines.append(f"{name}: vanished (was {status_of(before[name].values())})")
        elif name not in before:
            lines.append(f"{name}: new, {status_of(after[name].values())}")
        else:
            for clause in sorted(before[name].keys() | after[name].keys()):
                was, now = (side[name].get(clause, "absent") for side in (before, after))
                if was != now:
                    lines.append(f"{name} {clause}: {was} -> {now}")
    return lines


def _statuses(records: Iterable[Record]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for record in latest(records):
        if record["kind"] == "check":
            found[record["name"]] = {record["clause"]: record["status"]}
        elif record["kind"] in ("cell", "part"):
            found[record["name"]] = dict(record["clauses"])
    return found
