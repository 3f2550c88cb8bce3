"""The report as text and XML: ``matrix.md``, ``junit.xml``, ``claims.lock``. Made from records alone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from mqcore.guarantees import CLAUSES
from mqcore_conformance.report._records import Record, status_of

__all__ = ["claims_lock", "diff", "junit", "matrix"]

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
NOT_BUILT = "Replication async and sync, raid, QUIC and the machine tier (T2): not built yet."


def _rows(cells: Sequence[Record]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((cell["tier"], cell["storage"], cell["transport"]) for cell in cells))


def matrix(records: Iterable[Record]) -> str:
    """Return the grid of a report as Markdown: storage x transport x flush against fault families, then clauses."""
    records = list(records)
    cells = [record for record in records if record["kind"] == "cell"]
    checks = [record for record in records if record["kind"] == "check"]
    families = list(dict.fromkeys(cell["family"] for cell in cells))
    lines = ["# Conformance", ""]
    if cells:
        lines += ["| tier | storage | transport | flush | " + " | ".join(families) + " |"]
        lines += ["|" + "---|" * (4 + len(families))]
        for tier, storage, transport in _rows(cells):
            mine = [
                cell
                for cell in cells
                if (cell["tier"], cell["storage"], cell["transport"]) == (tier, storage, transport)
            ]
            for flush in dict.fromkeys(cell["flush"] for cell in mine):
                by_family = {cell["family"]: cell["status"] for cell in mine if cell["flush"] == flush}
                signs = [SIGNS[by_family.get(family, "NOT RUN")] for family in families]
                lines.append(f"| {tier} | `{storage}` | {transport} | {flush} | " + " | ".join(signs) + " |")
        lines += ["", "| clause | " + "worst | pass in |", "|---|---|---|"]
        for clause, facts in CLAUSES.items():
            found = [cell["clauses"].get(clause, "NOT RUN") for cell in cells]
            lines.append(f"| {clause} {facts.name} | {SIGNS[status_of(found)]} | {found.count('PASS')} cells |")
    if checks:
        lines += [
            "",
            "| contract check | clause | " + " | ".join(dict.fromkeys(check["part"] for check in checks)) + " |",
        ]
        parts = list(dict.fromkeys(check["part"] for check in checks))
        lines += ["|" + "---|" * (2 + len(parts))]
        for name in dict.fromkeys(check["name"].rpartition("/")[2] for check in checks):
            of_name = {check["part"]: check for check in checks if check["name"].endswith("/" + name)}
            clause = next(iter(of_name.values()))["clause"]
            signs = [SIGNS[of_name[part]["status"]] if part in of_name else "-" for part in parts]
            lines.append(f"| {name.replace('_', ' ')} | {clause} | " + " | ".join(signs) + " |")
    return "\n".join([*lines, "", NOT_BUILT, ""])


def junit(records: Iterable[Record]) -> str:
    """Return the report as JUnit XML: one case per cell and clause, one per contract check."""
    suite = ElementTree.Element("testsuite", name="mqcore conformance")
    total = failures = skipped = 0
    for record in records:
        if record["kind"] == "check":
            cases = [(record["clause"], record["status"], record["text"])]
        elif record["kind"] == "cell":
            texts = {one["clause"]: one["text"] for failure in record["failures"] for one in failure["violations"]}
            cases = [
                (clause, status, texts.get(clause, record["reason"]))
                for clause, status in record["clauses"].items()
            ]
        else:
            continue
        for clause, status, text in cases:
            total += 1
            case = ElementTree.SubElement(
                suite, "testcase", classname=record["name"], name=clause, time=str(record["seconds"])
            )
            if status in ("FAIL", "LIVENESS", "ERROR", "XPASS"):
                failures += 1
                ElementTree.SubElement(case, "failure", message=_printable(text or status)[:500])
            elif status != "PASS":
                skipped += 1
                ElementTree.SubElement(case, "skipped", message=f"{status} {_printable(text)}"[:500])
    suite.set("tests", str(total))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    return ElementTree.tostring(suite, encoding="unicode") + "\n"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def claims_lock(records: Iterable[Record]) -> str:
    """Return what the verdicts were made with: versions, kernel, seeds."""
    seeds = sorted({seed for record in records for seed in record.get("seeds", ())})
    lines = [
        f'mqcore = "{importlib.metadata.version("mqcore")}"',
        f'trio = "{importlib.metadata.version("trio")}"',
        f'python = "{platform.python_version()}"',
        f'kernel = "{platform.system()} {platform.release()}"',
        f"cpus = {os.cpu_count()}",
        f"seeds = {seeds}",
    ]
    return "\n".join(lines) + "\n"


def diff(old: Iterable[Record], new: Iterable[Record]) -> list[str]:
    """Return what changed colour from one report to another, one line each."""
    before, after = _statuses(old), _statuses(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, "absent"), after.get(key, "absent")
        if was != now:
            lines.append(f"{key[0]} {key[1]}: {was} -> {now}")
    return lines


def _statuses(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for record in records:
        if record["kind"] == "check":
            found[record["name"], record["clause"]] = record["status"]
        elif record["kind"] == "cell":
            for clause, status in record["clauses"].items():
                found[record["name"], clause] = status
    return found
