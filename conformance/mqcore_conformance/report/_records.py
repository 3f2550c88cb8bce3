"""Records of a run, one JSON object each: what a cell or a contract check was worth, and what a report makes of many.

Knows results and records; knows no file but the one it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mqcore.errors import ConfigurationError
from mqcore_conformance.cells import CellResult, label_of
from mqcore_conformance.contract import CheckResult
from mqcore_conformance.plans import EVERY_FAMILY
from mqcore_conformance.report._repro import safety_first
from mqcore_conformance.report._timeline import without_repeats
from mqcore_conformance.verdicts import Status

Record = dict[str, Any]

EXIT_CODES = {
    "conformant": 0,
    "violation": 1,
    "usage": 2,
    "liveness": 3,
    "incomplete": 4,
    "engine": 5,
    "interrupted": 130,
}
RED = ("FAIL", "XPASS", "ERROR", "LIVENESS")
"""Statuses that somebody has to look at."""
_ORDER = ("FAIL", "XPASS", "ERROR", "LIVENESS", "INCONCLUSIVE", "XFAIL", "PASS", "NOT CLAIMED", "NOT RUN")
_PART_ORDER = ("FAIL", "XPASS", "ERROR", "LIVENESS", "XFAIL", "PASS", "INCONCLUSIVE", "NOT CLAIMED", "NOT RUN")
"""Of parts of one cell: where the fault bit once, the others need not have met it."""
VIOLATIONS_MAX = 20
FAILURES_MAX = 50
DIGESTS_MAX = 1_000
LINE_BYTES_MAX = 64 * 1024 * 1024
_KINDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "run": {"arguments": dict},
    "cell": {
        "name": str, "tier": str, "storage": str, "transport": str, "flush": str, "family": str, "status": str,
        "clauses": dict, "how": str, "reason": str, "seeds": list, "witnesses": dict, "failures": list,
        "events": int, "runs": int, "seconds": (int, float),
    },
    "check": {
        "name": str, "part": str, "clause": str, "summary": str, "status": str, "text": str, "seconds": (int, float),
    },
}  # fmt: skip
_KINDS["part"] = {**_KINDS["cell"], "cell": str, "number": int, "count": int}


def status_of(statuses: Iterable[str], order: Sequence[str] = _ORDER) -> str:
    """Return the worst of some statuses."""
    found = set(statuses)
    return next((status for status in order if status in found), Status.NOT_RUN.value)


def record_of_cell(result: CellResult, repros: Sequence[str]) -> Record:
    """Return the record of a cell; ``repros``: the folder of each failure, at most ``FAILURES_MAX``."""
    return {
        "kind": "cell",
        "name": result.cell.name,
        "tier": result.cell.tier,
        "storage": result.cell.storage,
        "transport": result.cell.transport,
        "flush": result.cell.flush,
        "family": result.cell.family,
        "replication": result.cell.replicated,
        "status": result.status.value,
        "clauses": {clause: status.value for clause, status in sorted(result.statuses.items())},
        "how": result.how,
        "runs": result.runs,
        "reason": result.reason,
        "seeds": result.seeds,
        "digests": {str(seed): digest for seed, digest in list(result.digests.items())[:DIGESTS_MAX]},
        "witnesses": {name: count for name, count in sorted(result.witnesses.items()) if count},
        "looked_at": {clause: count for clause, count in sorted(result.looked_at.items()) if count},
        "failures": [
            {
                "seed": failure.seed,
                "repro": repro,
                "violations": [
                    {
                        "clause": one.clause,
                        "anomaly": one.anomaly.value,
                        "partition": one.partition,
                        "events": list(one.events[:VIOLATIONS_MAX]),
                        "text": without_repeats(str(one)),
                    }
                    for one in safety_first(failure.violations)[:VIOLATIONS_MAX]
                ],
                "error": failure.result.error,
                "exits": failure.result.exits[:5],
            }
            for failure, repro in zip(result.failures, repros, strict=False)
        ],
        "events": result.events,
        "seconds": round(result.real_seconds, 3),
    }


_PREFIXES = {"coordinator": "coordinator ", "offset_store": "offset store ", "authenticator": "authenticator "}


def record_of_check(url: str, result: CheckResult, repro: str = "") -> Record:
    """Return the record of a contract check of the part at ``url``; ``repro``: the folder of its failure."""
    return {
        "kind": "check",
        "name": f"contract/{label_of(url)}/{result.check.name}",
        "tier": "contract",
        # a storage, a coordinator and an offset store may have one scheme
        "part": f"{_PREFIXES.get(result.check.kind, '')}{label_of(url)}",
        "url": url,
        "clause": result.check.clause,
        "summary": result.check.summary,
        "status": result.status.value,
        "how": str(getattr(result, "how", "")) or "observed",
        "text": result.text,
        "printed": result.output,
        "repro": repro,
        "seconds": round(result.seconds, 3),
    }


def families_of(cells: Iterable[Record]) -> list[str]:
    """Return the families of some cells in the order of the catalogue, whatever order they ended in; strangers last."""
    known = list(EVERY_FAMILY)
    found = dict.fromkeys(cell["family"] for cell in cells)
    return sorted(found, key=lambda family: known.index(family) if family in known else len(known))


def merged(parts: Sequence[Record]) -> Record:
    """Return the record of the cell of which ``parts`` are the parts, in order."""
    first = parts[0]
    clauses = {
        clause: status_of((part["clauses"].get(clause, "NOT RUN") for part in parts), _PART_ORDER)
        for clause in first["clauses"]
    }
    sums: dict[str, Counter[str]] = {"witnesses": Counter(), "looked_at": Counter()}
    for part in parts:
        for key, counts in sums.items():
            counts.update(part.get(key, {}))
    seeds = [seed for part in parts for seed in part["seeds"]]
    record = {key: value for key, value in first.items() if key not in ("cell", "number", "count")}
    record.update(
        kind="cell",
        name=first["cell"],
        clauses=clauses,
        status=status_of(clauses.values()),
        how=f"sampled: {len(seeds)} seeds",
        seeds=seeds,
        **{key: dict(sorted(counts.items())) for key, counts in sums.items()},
        failures=sorted((failure for part in parts for failure in part["failures"]), key=_mildness)[:FAILURES_MAX],
        reason=next((part["reason"] for part in parts if part["reason"]), ""),
    )
    for key in ("runs", "events", "seconds"):
        record[key] = round(sum(part[key] for part in parts), 3)
    return record


def _mildness(failure: Record) -> int:
    """Order of the failures of several parts, as ``run_cell`` has it for one."""
    clauses = {one["clause"] for one in failure["violations"]}
    return 0 if clauses - {"G13"} else 1 if failure["error"] else 2


def latest(records: Iterable[Record]) -> list[Record]:
    """Return the records that count: the last of each name; parts of a cell that is there are left out.

    What was recorded of other contents than the last run is of (``made_of``) counts no more.
    """
    by_name = {record.get("name", record["kind"]): record for record in records}
    made_of = by_name.get("run", {}).get("made_of", {})
    by_name = {name: one for name, one in by_name.items() if one.get("of", "") == contents_of(one, made_of)}
    return [
        record
        for record in by_name.values()
        if record["kind"] != "part" or by_name.get(record["cell"], {}).get("kind") != "cell"
    ]


def contents_of(record: Record, made_of: Mapping[str, str]) -> str:
    """Return a few letters for what the verdict of a record is of; nothing where that is not known."""
    if not made_of or record["kind"] == "run":
        return ""
    keys = ("url",) if record["kind"] == "check" else ("storage", "transport")
    schemes = [str(record.get(key, "")).partition(":")[0] for key in keys]
    names = ["mqcore", "claims", *schemes]
    text = "\n".join(f"{name} {made_of.get(name, '')}" for name in names)
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def read_records(path: Path) -> list[Record]:
    """Return the whole lines of a report (or of a report's folder); ``ConfigurationError`` for what is no report.

    A last line that was cut is left out.
    """
    if path.is_dir():
        path = path / "report.jsonl"
    records: list[Record] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
                if not line.endswith(b"\n"):
                    break
                records.append(_checked(line, f"{path}, line {number}"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}; name the folder of a report") from None
    return records


def _checked(line: bytes, where: str) -> Record:
    try:
        record: Record = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{where}: not JSON; this is no report of mqcore conformance") from None
    fields = _KINDS.get(str(record.get("kind"))) if isinstance(record, dict) else None
    if fields is None:
        raise ConfigurationError(f"{where}: no record of a report of mqcore conformance")
    for name, kind in fields.items():
        if not isinstance(record.get(name), kind):
            raise ConfigurationError(f"{where}: {name!r} is missing or of another type; the report was changed")
    if not all(map(_is_failure, record.get("failures", ()))) or not all(map(_is_seed, record.get("seeds", ()))):
        raise ConfigurationError(f"{where}: failures or seeds are of another form; the report was changed")
    made_of = record.get("made_of", {})
    if not isinstance(made_of, dict) or not all(isinstance(value, str) for value in made_of.values()):
        raise ConfigurationError(f"{where}: 'made_of' is of another type; the report was changed")
    if not isinstance(record.get("url", ""), str):
        raise ConfigurationError(f"{where}: 'url' is of another type; the report was changed")
    statuses = [record.get("status", "PASS"), *record.get("clauses", {}).values()]
    unknown = [status for status in statuses if status not in _ORDER]
    if unknown:
        raise ConfigurationError(f"{where}: no status {unknown[0]!r}; the report was changed")
    return record


def _is_failure(value: object) -> bool:
    if not isinstance(value, dict) or not {"seed", "repro", "error", "violations"} <= value.keys():
        return False
    violations = value["violations"]
    return isinstance(violations, list) and all(
        isinstance(one, dict) and isinstance(one.get("text"), str) and isinstance(one.get("clause"), str)
        for one in violations
    )


def _is_seed(value: object) -> bool:
    return isinstance(value, int)


def exit_code_of(records: Iterable[Record], *, complete: bool = True) -> int:
    """Return the exit status that a report deserves."""
    statuses = {record["status"] for record in records if "status" in record}
    if statuses & {"FAIL", "XPASS"}:
        return EXIT_CODES["violation"]
    if "ERROR" in statuses:
        return EXIT_CODES["engine"]
    if "LIVENESS" in statuses:
        return EXIT_CODES["liveness"]
    if "INCONCLUSIVE" in statuses or not complete or not statuses & {"PASS", "XFAIL"}:
        return EXIT_CODES["incomplete"]
    return EXIT_CODES["conformant"]
