"""Records of a run: one JSON object per line, written as they come, read back to resume, to compare, to show.

A report that was interrupted is valid: a last line that was cut is left out.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from mqcore.errors import ConfigurationError
from mqcore_conformance.cells import CellResult
from mqcore_conformance.contract import CheckResult
from mqcore_conformance.plans import CRASH_POINTS
from mqcore_conformance.verdicts import Status

__all__ = [
    "EXIT_CODES",
    "ReportFile",
    "exit_code_of",
    "read_records",
    "record_of_cell",
    "record_of_check",
    "status_of",
]

Record = dict[str, Any]

EXIT_CODES = {"conformant": 0, "violation": 1, "usage": 2, "liveness": 3, "incomplete": 4, "engine": 5}
_ORDER = ("ERROR", "FAIL", "XPASS", "LIVENESS", "INCONCLUSIVE", "XFAIL", "PASS", "NOT CLAIMED", "NOT RUN")


def status_of(statuses: Iterable[str]) -> str:
    """Return the worst of some statuses."""
    found = set(statuses)
    return next((status for status in _ORDER if status in found), Status.NOT_RUN.value)


def record_of_cell(result: CellResult, repros: Sequence[str]) -> Record:
    """Return the record of a cell; ``repros``: the folder of each failure."""
    return {
        "kind": "cell",
        "name": result.cell.name,
        "tier": result.cell.tier,
        "storage": result.cell.storage,
        "transport": result.cell.transport,
        "flush": result.cell.flush,
        "family": result.cell.family,
        "status": result.status.value,
        "clauses": {clause: status.value for clause, status in sorted(result.statuses.items())},
        "how": _how(result),
        "runs": result.runs,
        "reason": result.reason,
        "seeds": result.seeds,
        "digests": {str(seed): digest for seed, digest in result.digests.items()},
        "witnesses": {name: count for name, count in sorted(result.witnesses.items()) if count},
        "failures": [
            {
                "seed": failure.seed,
                "repro": repro,
                "violations": [{"clause": one.clause, "text": str(one)} for one in failure.violations[:20]],
                "error": failure.result.error,
                "exits": failure.result.exits[:5],
            }
            for failure, repro in zip(result.failures, repros, strict=True)
        ],
        "events": result.events,
        "seconds": round(result.real_seconds, 3),
    }


def _how(result: CellResult) -> str:
    if result.cell.family == CRASH_POINTS and result.runs:
        return f"proved for every call of one run of three batches ({result.runs} crashes; what a cut keeps is sampled)"
    return f"sampled, {len(result.seeds)} seeds" if result.seeds else ""


def record_of_check(part: str, url: str, result: CheckResult) -> Record:
    """Return the record of a contract check of the part at ``url``."""
    return {
        "kind": "check",
        "name": f"contract/{part}/{result.check.name}",
        "tier": "contract",
        "part": part,
        "url": url,
        "clause": result.check.clause,
        "summary": result.check.summary,
        "status": result.status.value,
        "text": result.text,
        "printed": result.output,
        "seconds": round(result.seconds, 3),
    }


class ReportFile:
    """``report.jsonl`` of a folder, held by one run at a time. What it holds already is not run again."""

    def __init__(self, folder: Path, arguments: Record) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / "report.jsonl"
        self._file: IO[str] = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigurationError(
                f"{self._path}: another run writes it; wait for it, or write --to elsewhere"
            ) from None
        try:
            self.records = read_records(self._path)
        except ConfigurationError:
            self._file.close()
            raise
        if self.records and self.records[0].get("arguments") != arguments:
            self._file.close()
            raise ConfigurationError(
                f"{self._path}: holds a run of other arguments; write --to a new folder, or remove this one"
            )
        self._rewrite(self.records)
        if not self.records:
            self.write({"kind": "run", "arguments": arguments})

    def _rewrite(self, records: Sequence[Record]) -> None:
        """Leave whole lines only: the last one may have been cut."""
        self._file.seek(0)
        self._file.truncate()
        for record in records:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def write(self, record: Record) -> None:
        """Add a record; it is in the file when this returns."""
        self.records.append(record)
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def has(self, name: str) -> bool:
        """Whether a record called ``name`` is there, and worth keeping."""
        return any(record.get("name") == name and record.get("status") != "ERROR" for record in self.records)

    def close(self) -> None:
        """Give the file up."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def read_records(path: Path) -> list[Record]:
    """Return the whole lines of a report; ``ConfigurationError`` for what is no report."""
    records: list[Record] = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise ConfigurationError(f"{path}, line {number}: not JSON; this is no report") from None
        if not isinstance(record, dict) or "kind" not in record:
            raise ConfigurationError(f"{path}, line {number}: no record of a report")
        records.append(record)
    return records


def exit_code_of(records: Iterable[Record], *, complete: bool = True) -> int:
    """Return the exit status that a report deserves."""
    statuses = {record["status"] for record in records if "status" in record}
    if "ERROR" in statuses:
        return EXIT_CODES["engine"]
    if statuses & {"FAIL", "XPASS"}:
        return EXIT_CODES["violation"]
    if "LIVENESS" in statuses:
        return EXIT_CODES["liveness"]
    if "INCONCLUSIVE" in statuses or not complete:
        return EXIT_CODES["incomplete"]
    return EXIT_CODES["conformant"]
