"""Repros: what failed as a folder that replays with one command, whatever tier it was seen in.

A folder holds ``plan.json`` (T0, T1) or ``check.json`` (contract); ``repro.json`` says which cell, and what was seen.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore_conformance.cells import Cell, Failure, label_of
from mqcore_conformance.contract import CHECK_FILE
from mqcore_conformance.histories import Event, FaultInjected, Flushed, write_history
from mqcore_conformance.plans import FLUSH_POLICIES, Plan, plan_from_json, plan_to_json
from mqcore_conformance.report._timeline import timeline
from mqcore_conformance.verdicts import Violation

__all__ = ["Repro", "cell_of_repro", "explain_failure", "headline", "load_repro", "write_repro"]

PLAN, FACTS, HISTORY, EXPLANATION = "plan.json", "repro.json", "history.jsonl", "failure.txt"
SHOWN_MAX = 5
EVENTS_MAX = 40
NEAR = 6
FILE_BYTES_MAX = 16 * 1024 * 1024


@attrs.frozen(kw_only=True)
class Repro:
    """A plan to run again: in which tier and cell it failed, and the clauses that it broke then."""

    plan: Plan
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
    facts = _facts(file.with_name(FACTS)) if path.is_dir() and (path / FACTS).exists() else {}
    return Repro(
        plan=plan,
        tier=facts.get("tier", "T0"),
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
    sane = isinstance(facts, dict) and facts.get("tier") in ("T0", "T1") and isinstance(facts.get("cell"), str)
    if not sane or not isinstance(facts.get("clauses"), list) or not all(one in CLAUSES for one in facts["clauses"]):
        raise ConfigurationError(f"{file}: tier, cell or clauses cannot be; run the suite again")
    return facts  # type: ignore[no-any-return]


def cell_of(plan: Plan, tier: str = "T0") -> Cell:
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
    return f"{violation.clause} {where}: {violation.text}{_between(violation, history)}"


def _between(violation: Violation, history: Sequence[Event]) -> str:
    """Return whether a flush lay between what the violation is about and the crash after it."""
    if not violation.events or not 0 <= violation.events[0] < len(history):
        return ""
    first = violation.events[0]
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
    flushed = [
        index
        for index in range(first, crash)
        if isinstance(event := history[index], Flushed)
        and not event.failed
        and any(name == violation.partition for name, _ in event.ends)
    ]
    between = f"flushed at event {flushed[0]}" if flushed else "no flush between"
    return f"; the crash is event {crash} ({between})"


def explain_failure(failure: Failure, cell: Cell | None = None) -> list[str]:
    """Return a screen of explanation: promise against observation, and the events around it."""
    cell = cell or cell_of(failure.plan)
    history = failure.result.history
    lines = []
    for violation in failure.violations[:SHOWN_MAX]:
        lines.append(headline(violation, cell, history))
    if len(failure.violations) > SHOWN_MAX:
        lines.append(f"... and {len(failure.violations) - SHOWN_MAX} more violations")
    if failure.result.error:
        lines.append(f"the engine could not finish: {failure.result.error}")
    for clause in dict.fromkeys(violation.clause for violation in failure.violations[:SHOWN_MAX]):
        lines.append(f"promised: {clause} {CLAUSES[clause].name}: {CLAUSES[clause].statement}")
    faults = [f"{fault.kind} at {fault.trigger} {fault.when}" for fault in failure.plan.faults]
    lines.append(f"plan: {cell.name}, seed {failure.seed}; faults planned: {', '.join(faults) or 'none'}")
    marked = [index for violation in failure.violations[:3] for index in violation.events[:4]]
    for line in timeline(history, marked, near=NEAR, lines_max=EVENTS_MAX):
        mark = ">" if line.marked else " "
        lines.append(f"{mark} {line.number:>6} {line.time:>12}  {line.what:18} {line.detail}"[:180].rstrip())
    if failure.result.exits:
        lines.append(f"the broker ended by itself: {failure.result.exits[-1]}")
    return lines
