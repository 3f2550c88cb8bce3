"""Repros: a failure as a folder that replays with one command."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mqcore.errors import ConfigurationError
from mqcore_conformance.cells import Failure
from mqcore_conformance.histories import to_json, write_history
from mqcore_conformance.plans import Plan, plan_from_json, plan_to_json

__all__ = ["explain_failure", "load_repro", "write_repro"]

NEAR = 6


def write_repro(folder: Path, failure: Failure) -> str:
    """Write plan, history and explanation of a failure under ``folder/repro``; return the path inside ``folder``."""
    text = plan_to_json(failure.plan)
    name = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    place = folder / "repro" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "plan.json").write_text(text, encoding="utf-8")
    write_history(place / "history.jsonl", failure.result.history)
    lines = [*explain_failure(failure), f"replay: mqcore conformance replay {folder}/repro/{name}", ""]
    (place / "failure.txt").write_text("\n".join(lines), encoding="utf-8")
    return f"repro/{name}"


def load_repro(path: Path) -> Plan:
    """Return the plan of a repro folder (or of a plan file)."""
    file = path / "plan.json" if path.is_dir() else path
    try:
        return plan_from_json(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise ConfigurationError(
            f"{file}: cannot be read: {error.strerror}; name a folder of report/repro"
        ) from None


def explain_failure(failure: Failure) -> list[str]:
    """Return a screen of explanation: promise against observation, and the events around it."""
    lines = [f"plan {failure.plan.name}: seed {failure.seed}, faults:"]
    lines += [f"  {fault.kind} at {fault.trigger} {fault.when}" for fault in failure.plan.faults] or ["  none"]
    if failure.result.error:
        lines.append(f"the engine could not finish: {failure.result.error}")
    lines += [str(violation) for violation in failure.violations[:5]]
    history = failure.result.history
    marked = sorted({index for violation in failure.violations[:3] for index in violation.events})
    shown = sorted(
        {near for index in marked[:4] for near in range(max(0, index - NEAR), min(len(history), index + NEAR))}
    )
    for index in shown[:40]:
        lines.append(f"{'>' if index in marked else ' '} {index:5d} {to_json(history[index])[:160]}")
    if failure.result.exits:
        lines.append(f"the broker ended by itself: {failure.result.exits[-1]}")
    return lines
