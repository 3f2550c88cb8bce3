"""``report.html``: one page that needs nothing else. A grid; a click on a cell shows clauses, seeds, failures.

Made from records alone; everything from outside is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from pathlib import Path

from mqcore.guarantees import CLAUSES
from mqcore_conformance.report._records import Record, status_of
from mqcore_conformance.report._texts import NOT_BUILT

__all__ = ["page"]

HISTORY_LINES_MAX = 200
STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;margin:.6rem 0}th,td{border:1px solid #d5d5d5;padding:.25rem .5rem;text-align:left}
th{background:#f3f3f3;font-weight:600}td.s{cursor:pointer;text-align:center;min-width:4.2rem}
.PASS{background:#d9f2dc}.FAIL,.XPASS{background:#f6c9c6;font-weight:600}.LIVENESS{background:#fbd9a8;font-weight:600}
.ERROR{background:#e2c6f0;font-weight:600}.INCONCLUSIVE{background:#fff3b8}.NOT_RUN,.NOT_CLAIMED{background:#f0f0f0;color:#777}
.XFAIL{background:#e5e9f5}section.d{display:none;border:1px solid #bbb;padding:.5rem 1rem;margin:.6rem 0}
section.d:target,section.d.open{display:block}pre{background:#f7f7f7;padding:.6rem;overflow-x:auto;font-size:12px}
code{background:#f3f3f3;padding:0 .2rem}.n{color:#666}a{color:#1a56a8}
"""
SCRIPT = """
document.addEventListener('click',function(e){var t=e.target.closest('td[data-d]');if(!t)return;
document.querySelectorAll('section.d.open').forEach(function(s){s.classList.remove('open')});
var s=document.getElementById(t.dataset.d);if(s){s.classList.add('open');s.scrollIntoView({block:'nearest'});}});
"""
_escape = html.escape


def page(records: Iterable[Record], folder: Path | None = None) -> str:
    """Return the page; ``folder`` is where the repros are, whose plans and histories are shown inside."""
    records = list(records)
    cells = [record for record in records if record["kind"] == "cell"]
    checks = [record for record in records if record["kind"] == "check"]
    statuses = [record["status"] for record in records if "status" in record]
    overall = status_of(statuses)
    counts = ", ".join(f"{statuses.count(one)} {one}" for one in dict.fromkeys(statuses))
    events = sum(cell["events"] for cell in cells)
    seconds = sum(record.get("seconds", 0) for record in records)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>mqcore conformance</title>",
        f"<style>{STYLE}</style><h1>Conformance: <span class={_class(overall)}>&nbsp;{overall}&nbsp;</span></h1>",
        f"<p>{_escape(counts)}. {events:,} simulated events, {seconds:,.0f} s.</p>",
        f"<p class=n>{_escape(NOT_BUILT)} A cell that never met its fault is INCONCLUSIVE, never PASS.</p>",
        *_grid(cells),
        *_clauses(cells),
        *_checks(checks),
    ]
    parts += [_detail(number, cell, folder) for number, cell in enumerate(cells)]
    parts += [f"<script>{SCRIPT}</script></html>\n"]
    return "\n".join(parts)


def _class(status: str) -> str:
    return status.replace(" ", "_")


def _grid(cells: list[Record]) -> list[str]:
    if not cells:
        return []
    families = list(dict.fromkeys(cell["family"] for cell in cells))
    lines = ["<h2>Storage x transport x flush, by fault</h2><table><tr><th>tier<th>storage<th>transport<th>flush"]
    lines += [f"<th>{_escape(family)}" for family in families]
    rows = dict.fromkeys((cell["tier"], cell["storage"], cell["transport"], cell["flush"]) for cell in cells)
    numbers = {cell["name"]: number for number, cell in enumerate(cells)}
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{_escape(text)}" for text in row))
        for family in families:
            found = [
                cell
                for cell in cells
                if (cell["tier"], cell["storage"], cell["transport"], cell["flush"]) == row
                and cell["family"] == family
            ]
            status = found[0]["status"] if found else "NOT RUN"
            target = f" data-d=c{numbers[found[0]['name']]}" if found else ""
            lines.append(f"<td class='s {_class(status)}'{target}>{status.lower()}")
    return [*lines, "</table>"]


def _clauses(cells: list[Record]) -> list[str]:
    if not cells:
        return []
    lines = ["<h2>Clauses</h2><table><tr><th>clause<th>worst<th>cells that pass<th>statement"]
    for clause, facts in CLAUSES.items():
        found = [cell["clauses"].get(clause, "NOT RUN") for cell in cells]
        worst = status_of(found)
        lines.append(
            f"<tr><td>{clause} {_escape(facts.name)}<td class='{_class(worst)}'>{worst.lower()}"
            f"<td>{found.count('PASS')} of {len(found)}<td>{_escape(facts.statement)}"
        )
    return [*lines, "</table>"]


def _checks(checks: list[Record]) -> list[str]:
    if not checks:
        return []
    lines = ["<h2>Contract</h2><table><tr><th>part<th>check<th>clause<th>status<th>observed"]
    for check in checks:
        lines.append(
            f"<tr><td>{_escape(check['part'])}<td>{_escape(check['summary'])}<td>{check['clause']}"
            f"<td class='{_class(check['status'])}'>{check['status'].lower()}<td>{_escape(check['text'])}"
        )
    return [*lines, "</table>"]


def _detail(number: int, cell: Record, folder: Path | None) -> str:
    chips = " ".join(
        f"<span class='{_class(status)}'>&nbsp;{clause} {status.lower()}&nbsp;</span>"
        for clause, status in cell["clauses"].items()
        if status != "NOT RUN"
    )
    witnesses = ", ".join(f"{name} {count}" for name, count in cell["witnesses"].items())
    lines = [
        f"<section class=d id=c{number}><h2>{_escape(cell['name'])}</h2><p>{chips or _escape(cell['reason'])}</p>",
        f"<p>{_escape(cell['how'])}: seeds {_escape(str(cell['seeds'])[:300])}; {cell['events']:,} events.</p>",
        f"<p class=n>Witnesses: {_escape(witnesses or 'none')}</p>",
    ]
    for failure in cell["failures"][:5]:
        lines.append(f"<h3>seed {failure['seed']}</h3><ul>")
        lines += [f"<li>{_escape(one['text'])}" for one in failure["violations"][:8]]
        lines.append(f"</ul><p>{_escape(failure['error'])}</p>")
        if failure["repro"]:
            lines.append(f"<p><code>mqcore conformance replay REPORT/{_escape(failure['repro'])}</code></p>")
            lines += _inside(folder, failure["repro"])
    return "\n".join([*lines, "</section>"])


def _inside(folder: Path | None, repro: str) -> list[str]:
    """Return plan and timeline of a repro, as far as they are there."""
    if folder is None or not (folder / repro / "plan.json").exists():
        return []
    plan = (folder / repro / "plan.json").read_text(encoding="utf-8")
    explanation = (folder / repro / "failure.txt").read_text(encoding="utf-8")
    with (folder / repro / "history.jsonl").open(encoding="utf-8") as file:
        timeline = [line.rstrip() for line, _ in zip(file, range(HISTORY_LINES_MAX), strict=False)]
    shown = "\n".join(f"{index:5d} {line[:240]}" for index, line in enumerate(timeline))
    compact = json.dumps(json.loads(plan), separators=(",", ":"))
    return [
        f"<pre>{_escape(explanation)}</pre>",
        f"<details><summary>plan</summary><pre>{_escape(compact)}</pre></details>",
        f"<details><summary>events (the first {len(timeline)})</summary><pre>{_escape(shown)}</pre></details>",
    ]
