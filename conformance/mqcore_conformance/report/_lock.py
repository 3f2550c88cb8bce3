"""``claims.lock``: what the verdicts of a report were made with. The machine is not named."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from mqcore_conformance.report._records import Record, latest
from mqcore_conformance.seeds import ranges_of

MOUNTS = Path("/proc/self/mountinfo")


def made_with(folder: Path | None = None) -> Mapping[str, str]:
    """Return date, versions, kernel and file system of this process; ``folder``: where data of a run goes."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "mqcore": importlib.metadata.version("mqcore"),
        "trio": importlib.metadata.version("trio"),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file system": file_system_of(folder or Path(tempfile.gettempdir())),
        "cores": str(len(os.sched_getaffinity(0))),
    }


def file_system_of(folder: Path) -> str:
    """Return the kind of file system that holds ``folder``, or ``unknown``."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    for line in reversed(lines):
        fields, _, kind = line.partition(" - ")
        if fields.split()[2:3] == [number]:
            return kind.split()[0]
    return "unknown"


def claims_lock(records: Iterable[Record]) -> str:
    """Return the lock of a report as TOML: versions, what was asked for, and the seeds of each cell, by name."""
    records = latest(records)
    run = next((record for record in records if record["kind"] == "run"), {})
    lines = ["[made_with]", *_table(run.get("made_with", {})), "", "[asked_for]", *_table(run.get("arguments", {}))]
    if run.get("made_of"):
        lines += ["", "[made_of]", *_table(run["made_of"])]
    lines += ["", "[verdicts]"]
    for record in sorted(records, key=lambda record: str(record.get("name", ""))):
        if record["kind"] in ("cell", "part") and record["seeds"]:
            verdict = f"{record['status']}, seeds {ranges_of(record['seeds'])}"
            lines.append(f"{_quoted(record['name'])} = {_quoted(verdict)}")
        elif record["kind"] == "check":
            lines.append(f"{_quoted(record['name'])} = {_quoted(record['status'])}")
    return "\n".join(lines) + "\n"


def _table(values: object) -> list[str]:
    return [f"{_quoted(key)} = {_quoted(value)}" for key, value in dict(values).items()] if values else []  # type: ignore[call-overload]


def _quoted(value: object) -> str:
    """Return a basic string of TOML."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    text = "".join(letter if letter.isprintable() else f"\\U{ord(letter):08X}" for letter in text)
    return f'"{text}"'
