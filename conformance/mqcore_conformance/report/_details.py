"""The details of ``report.html``: what opens for one cell or one contract check.

Reads repros, which may be gone, cut or changed: whatever cannot be read is left out, and its folder is named.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore.units import grouped
from mqcore_conformance.histories import Event, read_history
from mqcore_conformance.report._records import Record
from mqcore_conformance.report._timeline import timeline
from mqcore_conformance.seeds import ranges_of

FAILURES_SHOWN_MAX = 5
INSIDE_PER_CELL_MAX = 2
INSIDE_MAX = 200
"""Failures of a page of which plan and events are inside; the others name their folder."""
FILE_BYTES_MAX = 4 * 1024 * 1024
PLAN_CHARS_MAX = 60_000
TEXT_CHARS_MAX = 2_000
_REPRO = re.compile(r"repro/[0-9a-f]{8}\Z")
_escape = html.escape


@attrs.define
class Pages:
    """Where the repros are, and how many of them are in the page."""

    folder: Path | None
    inside: int = 0

    def repro(self, name: str) -> Path | None:
        """Return the folder of a repro, when it is one and there is still place in the page."""
        if self.folder is None or not _REPRO.match(name) or self.inside >= INSIDE_MAX:
            return None
        place = self.folder / name
        if not place.is_dir():
            return None
        self.inside += 1
        return place

    def replay(self, name: str) -> str:
        """Return the command that replays a repro."""
        return f"mqcore conformance replay {self.folder or 'REPORT'}/{name}"


def class_of(status: str) -> str:
    """Return the style of a status."""
    return status.replace(" ", "_")


def _open(anchor: str, title: str, status: str) -> list[str]:
    return [
        f"<section class=detail id='{_escape(anchor)}' tabindex=-1 aria-label='{_escape(title)}'>",
        "<a class=close href='#grid'>close</a>",
        f"<h2>{_escape(title)} <span class='chip {class_of(status)}'>{_escape(status)}</span></h2>",
    ]


def cell_detail(cell: Record, anchor: str, pages: Pages) -> str:
    """Return the section of a cell."""
    lines = _open(anchor, cell["name"], cell["status"])
    if cell["reason"]:
        lines.append(f"<p>{_text(cell['reason'])}</p>")
    if cell.get("cut"):
        lines.append(f"<p>Cut short: {_text(cell['cut'])}; the same command runs it again.</p>")
    chips = [
        f"<a class='chip {class_of(status)}' href='#{_escape(clause)}' title='{_escape(_statement(clause))}'>"
        f"{_escape(clause)} {_escape(status.lower())}{_looked_at(cell, clause)}</a>"
        for clause, status in cell["clauses"].items()
        if status != "NOT RUN"
    ]
    if chips:
        lines.append(f"<h3>Clauses, and how much each was given to look at</h3><p>{''.join(chips)}</p>")
    for number, failure in enumerate(cell["failures"][:FAILURES_SHOWN_MAX]):
        lines += _failure(failure, pages, inside=number < INSIDE_PER_CELL_MAX)
    more = len(cell["failures"]) - FAILURES_SHOWN_MAX
    if more > 0:
        lines.append(f"<p>... and {more} more seeds failed; report.jsonl names them.</p>")
    if cell["seeds"]:
        how = cell["how"][:1].upper() + cell["how"][1:]
        lines.append(
            f"<h3>How</h3><p>{_text(how)}. Seeds {_text(ranges_of(cell['seeds']))}; {cell['runs']} runs, "
            f"{grouped(cell['events'])} events, {cell['seconds']:.1f} s. "
            f"Storage <code>{_text(cell['storage'])}</code></p>"
        )
    lines += _witnesses(cell["witnesses"])
    lines += _printed(cell.get("printed", ""))
    return "\n".join([*lines, "</section>"])


def _looked_at(cell: Record, clause: str) -> str:
    count = cell.get("looked_at", {}).get(clause, 0)
    return f" ({grouped(count)})" if count else ""


def check_detail(check: Record, anchor: str, pages: Pages) -> str:
    """Return the section of a contract check."""
    lines = _open(anchor, check["name"], check["status"])
    clause = check["clause"]
    lines.append(f"<p><b>Promised</b> ({_escape(clause)} {_escape(_name(clause))}): {prose(check['summary'])}</p>")
    if check["text"]:
        lines.append(f"<p class=seen>{_text(check['text'])}</p>")
    lines.append(f"<p class=dim>{_text(check.get('how', 'observed'))}, {check['seconds']:.1f} s</p>")
    repro = str(check.get("repro", ""))
    if repro:
        lines.append(f"<p>Replay: <code>{_escape(pages.replay(repro))}</code></p>")
        place = pages.repro(repro)
        if place is not None:
            lines += _explanation(place, shown=True)
    lines += _printed(check.get("printed", ""))
    return "\n".join([*lines, "</section>"])


def _failure(failure: Mapping[str, object], pages: Pages, *, inside: bool) -> list[str]:
    violations, repro = failure["violations"], str(failure["repro"])
    assert isinstance(violations, list)
    lines = [f"<h3>Seed {_text(failure['seed'])}</h3>"]
    lines += [f"<p class=seen>{_text(one['text'])}</p>" for one in violations[:8]]
    if len(violations) > 8:
        lines.append(f"<p>... and {len(violations) - 8} more violations</p>")
    if failure["error"]:
        lines.append(f"<p class=seen>The engine could not finish: {_text(failure['error'])}</p>")
    if repro:
        lines.append(f"<p>Replay: <code>{_escape(pages.replay(repro))}</code></p>")
    place = pages.repro(repro) if inside else None
    if place is not None:
        marked = [int(index) for one in violations[:3] for index in one.get("events", ())[:4]]
        lines += [*_explanation(place), *_bytes(place), *_timeline(place, marked), *_plan(place)]
    return lines


def _explanation(place: Path, *, shown: bool = False) -> list[str]:
    text = _read(place / "failure.txt")
    if not text:
        return []
    return [f"<details{' open' * shown}><summary>Explanation</summary><pre>{_escape(text)}</pre></details>"]


def _bytes(place: Path) -> list[str]:
    text = _read(place / "bytes.txt")
    return [f"<h3>Bytes of the first bad record</h3><pre>{_escape(text)}</pre>"] if text else []


def _timeline(place: Path, marked: Iterable[int]) -> list[str]:
    file = place / "history.jsonl"
    events: list[Event] = []
    try:
        if file.stat().st_size <= FILE_BYTES_MAX:
            events = read_history(file)
    except (OSError, ConfigurationError):
        events = []
    if not events:
        return [f"<p class=dim>Events: {_escape(str(file))}</p>"]
    lines = [f"<h3>Events</h3><p class=dim>{len(events)} in all; those of the violation are marked.</p>"]
    lines.append("<div class=wide><table class=timeline><tr><th>event<th>time<th>what<th>detail")
    for row in timeline(events, marked):
        if not row.number:
            lines.append(f"<tr class=gap><td colspan=4>{_escape(row.detail)}")
            continue
        style = " class=marked" if row.marked else " class=fault" if row.fault else ""
        cells = "".join(f"<td>{_escape(text)}" for text in (row.number, row.time, row.what, row.detail))
        lines.append(f"<tr{style}>{cells}")
    return [*lines, "</table></div>"]


def _plan(place: Path) -> list[str]:
    text = _read(place / "plan.json")
    try:
        text = json.dumps(json.loads(text), indent=1) if text else ""
    except ValueError:
        return []
    short = text[:PLAN_CHARS_MAX]
    return [f"<details><summary>Minimal plan</summary><pre>{_escape(short)}</pre></details>"] if short else []


def _witnesses(witnesses: Mapping[str, int]) -> list[str]:
    if not witnesses:
        return []
    items = "".join(f"<li>{_text(name)} <b>{_text(count)}</b>" for name, count in witnesses.items())
    return [f"<h3>Witnesses: what happened, and which faults took effect</h3><ul class=witnesses>{items}</ul>"]


def _printed(text: object) -> list[str]:
    return [f"<details><summary>Printed meanwhile</summary><pre>{_text(text)}</pre></details>"] if text else []


def prose(text: str) -> str:
    """Return text as HTML, with what stands between backticks as code."""
    return re.sub(r"(`+)([^`]+)\1", r"<code>\2</code>", _text(text))


def _text(value: object) -> str:
    return _escape(str(value)[:TEXT_CHARS_MAX])


def _statement(clause: str) -> str:
    return CLAUSES[clause].statement if clause in CLAUSES else ""


def _name(clause: str) -> str:
    return CLAUSES[clause].name if clause in CLAUSES else ""


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(FILE_BYTES_MAX).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
