"""The report: records as they come, and the pages made of them."""

from __future__ import annotations

from pathlib import Path

from mqcore_conformance.report._html import page
from mqcore_conformance.report._records import (
    EXIT_CODES,
    Record,
    ReportFile,
    exit_code_of,
    read_records,
    record_of_cell,
    record_of_check,
    status_of,
)
from mqcore_conformance.report._repro import explain_failure, load_repro, write_repro
from mqcore_conformance.report._texts import claims_lock, diff, junit, matrix

__all__ = [
    "EXIT_CODES",
    "Record",
    "ReportFile",
    "diff",
    "exit_code_of",
    "explain_failure",
    "load_repro",
    "matrix",
    "page",
    "read_records",
    "record_of_cell",
    "record_of_check",
    "status_of",
    "write_pages",
    "write_repro",
]


def write_pages(folder: Path, records: list[Record]) -> None:
    """Write every page of a report beside its records."""
    (folder / "matrix.md").write_text(matrix(records), encoding="utf-8")
    (folder / "report.html").write_text(page(records, folder), encoding="utf-8")
    (folder / "junit.xml").write_text(junit(records), encoding="utf-8")
    (folder / "claims.lock").write_text(claims_lock(records), encoding="utf-8")
