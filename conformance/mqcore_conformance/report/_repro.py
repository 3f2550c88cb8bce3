"""Repros: what failed as a folder that replays with one command, whatever tier it was seen in.

A folder holds ``plan.json`` (T0, T1) or ``check.json`` (contract); ``repro.json`` says which cell, and what was seen.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore_conformance.cells import Cell, Failure, label_of
from mqcore_conformance.contract import CHECK_FILE
from mqcore_conformance.histories import Appended, Completed, Event, FaultInjected, Flushed, write_history
from mqcore_conformance.plans import FLUSH_POLICIES, RunPlan, plan_from_json, plan_to_json
from mqcore_conformance.report._bytes import bytes_of_bad_record
from mqcore_conformance.report._timeline import timeline, without_repeats
from mqcore_conformance.verdicts import Violation

PLAN, FACTS, HISTORY, EXPLANATION, BYTES = "plan.json", "repro.json", "history.jsonl", "failure.txt", "bytes.txt"
SHOWN_MAX = 5
EVENTS_MAX = 40
NEAR = 6
LIVENESS = "G13"
COLUMNS_MAX = 118
LINE_CHARS_MAX = 160
FILE_BYTES_MAX = 16 * 1024 * 1024


@attrs.frozen(kw_only=True)
class Repro:
    """A plan to run again: in which tier and cell it failed, and the clauses that it broke then."""

    plan: RunPlan
    tier: str = "T0"
    cell: str = ""
    clauses: tuple[str, ...] = ()


def write_repro(folder: Path, failure: Failure, cell: Cell | None = None) -> str:
    """Write plan, history and explanation of a failure under ``folder/repro``; return the path inside ``folder``."""
    cell = cell or cell_of(failure.plan)
    text = plan_to_json(failure.plan)
    name = hashlib.blake2b(f"{cell.tier}{text}".encode(), digest_size=4).hexdigest()
    place = folder / "repro" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / PLAN).write_text(text, encoding="utf-8")
    facts = {
        "tier": cell.tier,
        "cell": cell.name,
        "seed": failure.seed,
        "clauses": sorted({one.clause for one in failure.violations}),
        "digest": failure.result.digest,
    }
    (place / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_history(place / HISTORY, failure.result.history)
    found = bytes_of_bad_record(failure) if cell.tier == "T0" else ""
    if found:
        (place / BYTES).write_text(found, encoding="utf-8")
    lines = [*explain_failure(failure, cell), "", f"replay: mqcore conformance replay {shlex.quote(str(place))}"]
    (place / EXPLANATION).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"repro/{name}"


def load_repro(path: Path) -> Repro:
    """Return what a repro folder (or a plan file) holds; ``ConfigurationError`` names the file and what is wrong."""
    file = path / PLAN if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise ConfigurationError(
            f"{path}: holds neither {PLAN} nor {CHECK_FILE}; name a folder of report/repro as a run wrote it"
        )
    plan = plan_from_json(_read(file), str(file))
    facts = _facts(file.with_name(FACTS)) if path.is_dir() else {}
    return Repro(
        plan=plan,
        tier=facts.get("tier", plan.tier),
        cell=facts.get("cell", cell_of(plan).name),
        clauses=tuple(facts.get("clauses", ())),
    )


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigurationError(f"{file}: more than {FILE_BYTES_MAX} bytes; this is no repro")
        return data.decode()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}; name a folder of report/repro") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: not text; name a folder of report/repro as a run wrote it") from None


def _facts(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(_read(file))
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not _is_sane(facts):
        raise ConfigurationError(f"{file}: tier, cell or clauses cannot be; run the suite again")
    return facts


def _is_sane(facts: dict[str, Any]) -> bool:
    clauses = facts.get("clauses")
    return (
        facts.get("tier") in ("T0", "T1")
        and isinstance(facts.get("cell"), str)
        and isinstance(clauses, list)
        and all(clause in CLAUSES for clause in map(str, clauses))
    )


def cell_of(plan: RunPlan, tier: str = "T0") -> Cell:
    """Return the cell to which a plan belongs."""
    flush = next((name for name, text in FLUSH_POLICIES.items() if text == plan.flush), plan.flush or "default")
    url, _, options = plan.storage.partition("?")
    drawn = options.startswith("segment_bytes=")  # the sizes are the plan's, not the cell's
    storage = url if drawn else plan.storage
    return Cell(tier=tier, storage=storage, transport=plan.transport, flush=flush, family=plan.family)


def cell_of_repro(repro: Repro) -> Cell:
    """Return the cell in which a repro was seen."""
    return cell_of(repro.plan, repro.tier)


# ---- explanation -----------------------------------------------------------------------------------------------------


def headline(violation: Violation, cell: Cell, history: Sequence[Event]) -> str:
    """Return the failure in one sentence: where, what was promised, what was seen."""
    where = f"{label_of(cell.storage)} x {cell.transport} x {cell.flush} x none, {cell.family}"
    text = without_repeats(violation.text)
    return f"{violation.clause} {where}: {violation.anomaly.value}: {text}{_between(violation, history)}"


def _between(violation: Violation, history: Sequence[Event]) -> str:
    """Return whether a flush lay between what the violation is about and the crash after it."""
    if not violation.events or not 0 <= violation.events[0] < len(history):
        return ""
    first = violation.events[0]
    receipt = history[first]
    if not isinstance(receipt, Completed) or receipt.offset < 0:
        return ""
    crash = next(
        (
            index
            for index in range(first, len(history))
            if isinstance(event := history[index], FaultInjected) and event.kind in ("process-kill", "power-cut")
        ),
        None,
    )
    if crash is None:
        return ""
    flushed = _flush_of(violation.partition, receipt.offset, history[:crash])
    between = "no flush before it" if flushed is None else f"event {flushed} claims that it was flushed before"
    return f"; the crash is event {crash}, {between}"


def _flush_of(partition: str, offset: int, history: Sequence[Event]) -> int | None:
    """Return which event says that a flush covered the batch of an offset."""
    end_position: int | None = None
    for index, event in enumerate(history):
        if isinstance(event, Appended):
            if event.partition == partition and event.base_offset <= offset < event.next_offset:
                end_position = event.end_position
        elif isinstance(event, Flushed) and not event.failed and end_position is not None:
            ends = dict(event.ends)
            if ends.get(partition, -1) >= end_position:
                return index
    return None


def safety_first(violations: Sequence[Violation]) -> list[Violation]:
    """Return violations with those of liveness last: what was lost says more than what it took."""
    return sorted(violations, key=lambda one: one.clause == LIVENESS)


def explain_failure(failure: Failure, cell: Cell | None = None) -> list[str]:
    """Return a screen of explanation: promise against observation, and the events around it."""
    cell = cell or cell_of(failure.plan)
    history = failure.result.history
    lines = []
    violations = safety_first(failure.violations)
    for violation in violations[:SHOWN_MAX]:
        lines += _wrapped(headline(violation, cell, history))
    if len(failure.violations) > SHOWN_MAX:
        lines.append(f"... and {len(failure.violations) - SHOWN_MAX} more violations")
    if failure.result.error:
        lines += _wrapped(f"the engine could not finish: {failure.result.error}")
    for clause in dict.fromkeys(violation.clause for violation in violations[:SHOWN_MAX]):
        lines += _wrapped(f"promised: {clause} {CLAUSES[clause].name}: {CLAUSES[clause].statement}", lines_max=3)
    faults = [f"{fault.kind} at {fault.trigger} {fault.when}" for fault in failure.plan.faults]
    planned = without_repeats(", ".join(faults)) or "none"
    lines += _wrapped(f"plan: {cell.name}, seed {failure.seed}; faults planned: {planned}")
    marked = [index for violation in violations[:3] for index in violation.events[:4]]
    for line in timeline(history, marked, near=NEAR, lines_max=EVENTS_MAX):
        mark = ">" if line.marked else " "
        lines.append(f"{mark} {line.number:>6} {line.time:>12}  {line.what:18} {line.detail}"[:LINE_CHARS_MAX].rstrip())
    if failure.result.exits:
        lines += _wrapped(f"the broker ended by itself: {failure.result.exits[-1]}")
    return lines


def _wrapped(text: str, *, lines_max: int = 6) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS_MAX,
        subsequent_indent="    ",
        break_on_hyphens=False,
        max_lines=lines_max,
        placeholder=" ...",
    )
