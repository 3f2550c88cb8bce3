"""``report.html``: one page that needs nothing else. A grid; each cell is a link that opens its details.

Made from records and repros alone; everything from outside is escaped, and the page forbids itself to load or run
anything but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mqcore.guarantees import CLAUSES
from mqcore.units import grouped
from mqcore_conformance.report._details import Pages, cell_detail, check_detail, class_of, prose
from mqcore_conformance.report._not_built import AXES
from mqcore_conformance.report._records import RED, Record, families_of, latest, status_of
from mqcore_conformance.report._style import SCRIPT, STYLE
from mqcore_conformance.report._unseen import NAMES_MAX, judged_of, unseen

FAILURE_CHARS_MAX = 300
TIERS = {"T0": ": simulated, on a model disk and a model network", "T1": ": real broker processes"}
_escape = html.escape


def page(records: Iterable[Record], folder: Path | None = None) -> str:
    """Return the page; ``folder`` is where the repros are, whose plans and histories are shown inside."""
    records = latest(records)
    cells = [record for record in records if record["kind"] in ("cell", "part")]
    checks = [record for record in records if record["kind"] == "check"]
    names = _anchors([*cells, *checks])
    pages = Pages(folder)
    parts = [*_head(records, cells, checks), *_unseen(records, names), *_failures([*cells, *checks], names)]
    parts += [*_grid(cells, names), *_checks(checks, names), *_clauses(cells, checks)]
    parts += [cell_detail(cell, names[cell["name"]], pages) for cell in cells]
    parts += [check_detail(check, names[check["name"]], pages) for check in checks]
    return "\n".join([*parts, f"<script>{SCRIPT}</script></body></html>", ""])


def _anchors(records: Sequence[Record]) -> Mapping[str, str]:
    """Return an anchor for each name: readable, the same in every report, and unique."""
    anchors: dict[str, str] = {}
    taken: set[str] = set()
    for record in records:
        kind = "check" if record["kind"] == "check" else "cell"
        slug = re.sub(r"[^A-Za-z0-9._]+", "-", record["name"].removeprefix("contract/"))[:120].strip("-")
        anchor, number = f"{kind}-{slug}", 1
        while anchor in taken:
            number += 1
            anchor = f"{kind}-{slug}-{number}"
        taken.add(anchor)
        anchors[record["name"]] = anchor
    return anchors


def _head(records: Sequence[Record], cells: Sequence[Record], checks: Sequence[Record]) -> list[str]:
    statuses = [record["status"] for record in (*cells, *checks)]
    overall = status_of(statuses)
    counts = " ".join(
        f"<span class='chip {class_of(one)}'>{statuses.count(one)} {_escape(one)}</span>"
        for one in sorted(set(statuses), key=statuses.count, reverse=True)
    )
    run = next((record for record in records if record["kind"] == "run"), {})
    made_with = ", ".join(f"{name} {value}" for name, value in run.get("made_with", {}).items())
    asked = ", ".join(f"{name} {value}" for name, value in run.get("arguments", {}).items())
    runs, events = (grouped(sum(cell[key] for cell in cells)) for key in ("runs", "events"))
    seconds = sum(record["seconds"] for record in (*cells, *checks))
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    return [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        "<meta name=viewport content='width=device-width'><title>mqcore conformance</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<h1>Conformance <span class='chip {class_of(overall)}'>{_escape(overall)}</span></h1>",
        f"<p>{counts}</p>",
        f"<p>{runs} runs, {events} events, {seconds:.0f} s of work. {_escape(made_with)}</p>",
        f"<p class=dim>{_escape(asked)}</p>",
        "<p class=dim>Every square opens: clauses, counts, seeds, failures. <i>pass 11/16</i>: eleven clauses held in "
        "every run, the other five had nothing to judge there. A cell whose fault found nothing to take is "
        "inconclusive, never pass. Arrow keys move in the grid, Enter opens, Escape closes.</p>",
    ]


def _failures(records: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    """List what a reader has to look at first, each with a link to its details."""
    red = sorted((one for one in records if one["status"] in RED), key=lambda one: RED.index(one["status"]))
    if not red:
        return []
    lines = [f"<h2>Failures: {len(red)}</h2><ul>"]
    for one in red:
        texts = [violation["text"] for failure in one.get("failures", ()) for violation in failure["violations"]]
        told = next(iter(texts), "") or one.get("text") or one.get("reason", "")
        link = f"<a href='#{_escape(names[one['name']])}'>{_escape(one['name'])}</a>"
        lines.append(f"<li><span class='chip {class_of(one['status'])}'>{_escape(one['status'])}</span> {link}: ")
        lines.append(prose(str(told)[:FAILURE_CHARS_MAX]))
    return [*lines, "</ul>"]


def _square(status: str, anchor: str = "", text: str = "") -> str:
    text = _escape(text or status.lower())
    inside = f"<a href='#{_escape(anchor)}'>{text}</a>" if anchor else f"<span>{text}</span>"
    return f"<td class='s {class_of(status)}'>{inside}"


def _unseen(records: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    """Say first what nothing below could have shown."""
    lines = ["<h2>What this report could not have caught</h2><ul>"]
    for one in unseen(records):
        links = [f"<a href='#{_escape(names[name])}'>{_escape(name)}</a>" for name in one.names if name in names]
        shown, more = links[:NAMES_MAX], len(links) - NAMES_MAX
        rest = f" and <details><summary>{more} more</summary>{', '.join(links[NAMES_MAX:])}</details>" * (more > 0)
        lines.append(f"<li>{prose(one.text)} {', '.join(shown)}{rest}")
    return [*lines, "</ul>"]


def _grid(cells: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    """Return a table for each tier, so that it has the columns of its own faults only."""
    lines = ["<h2 id=grid>By fault: storage, transport and flush policy</h2>"]
    for tier in dict.fromkeys(cell["tier"] for cell in cells):
        lines += _tier([cell for cell in cells if cell["tier"] == tier], tier, names)
    return lines


def _tier(cells: Sequence[Record], tier: str, names: Mapping[str, str]) -> list[str]:
    families = families_of(cells)
    rows: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for cell in cells:
        key = (cell["storage"], cell["transport"], cell["flush"], cell.get("replication", "none"))
        rows.setdefault(key, {}).setdefault(cell["family"], []).append(cell)
    heads = "".join(f"<th scope=col>{_escape(head)}" for head in (*AXES[1:], *families))
    title = f"{_escape(tier)}{TIERS.get(tier, '')}"
    lines = [f"<h3>{title}</h3><div class='wide grid'><table><thead><tr>{heads}</thead><tbody>"]
    for row, found in rows.items():
        line = "<tr>" + "".join(f"<td>{_escape(text)}" for text in row)
        for family in families:
            line += _cell_square(found.get(family, []), names)
        lines.append(line)
    return [*lines, "</tbody></table></div>"]


def _cell_square(here: Sequence[Record], names: Mapping[str, str]) -> str:
    """Return the square of a cell: plain green only where every clause was judged."""
    worst = status_of(cell["status"] for cell in here)
    first = next((cell for cell in here if cell["status"] == worst), None)
    if first is None:
        return _square("NOT RUN", "", "-")
    text, style = worst.lower(), worst
    if worst == "PASS":
        judged, of = judged_of(first)
        text = f"{text} {judged}/{of}"
        style = worst if judged == of else "PASS PART"
    cut = " (cut short)" if first.get("cut") or first["kind"] == "part" else ""
    return _square(style, names[first["name"]], text + cut)


def _checks(checks: Sequence[Record], names: Mapping[str, str]) -> list[str]:
    if not checks:
        return []
    parts = list(dict.fromkeys(check["part"] for check in checks))
    rows: dict[tuple[str, str], dict[str, Record]] = {}
    for check in checks:
        rows.setdefault((check["clause"], check["summary"]), {})[check["part"]] = check
    heads = "".join(f"<th scope=col>{_escape(head)}" for head in ("clause", "contract check", *parts))
    lines = [f"<h2>Contract: each part alone</h2><div class=wide><table><thead><tr>{heads}</thead><tbody>"]
    for (clause, summary), found in rows.items():
        line = f"<tr><td>{_escape(clause)}<td>{prose(summary)}"
        for part in parts:
            here = found.get(part)
            line += _square(here["status"], names[here["name"]]) if here else _square("NOT RUN", "", "-")
        lines.append(line)
    return [*lines, "</tbody></table></div>"]


def _clauses(cells: Sequence[Record], checks: Sequence[Record]) -> list[str]:
    heads = "".join(f"<th scope=col>{head}" for head in ("clause", "worst", "pass in", "statement"))
    lines = [f"<h2>Clauses</h2><div class=wide><table><thead><tr>{heads}</thead><tbody>"]
    for clause, facts in CLAUSES.items():
        found = [cell["clauses"].get(clause, "NOT RUN") for cell in cells]
        checked = [check["status"] for check in checks if check["clause"] == clause]
        worst = status_of([*found, *checked])
        held = f"{found.count('PASS')} cells, {checked.count('PASS')} checks"
        name, statement = _escape(facts.name), prose(facts.statement)
        lines.append(f"<tr id={clause}><td>{clause} {name}{_square(worst)}<td>{held}<td>{statement}")
    return [*lines, "</tbody></table></div>"]
