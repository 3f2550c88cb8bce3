"""The report: records as they come, and the pages made of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mqcore_conformance.report._file import ReportFile, write_whole
from mqcore_conformance.report._html import page
from mqcore_conformance.report._junit import junit
from mqcore_conformance.report._lock import claims_lock, made_with
from mqcore_conformance.report._matrix import diff, markdown_table, matrix
from mqcore_conformance.report._not_built import NOT_BUILT, NOT_BUILT_YET
from mqcore_conformance.report._records import (
    EXIT_CODES,
    RED,
    Record,
    exit_code_of,
    latest,
    merged,
    read_records,
    record_of_cell,
    record_of_check,
    status_of,
)
from mqcore_conformance.report._repro import (
    EXPLANATION,
    Repro,
    cell_of_repro,
    explain_failure,
    load_repro,
    write_repro,
)

__all__ = [
    "EXIT_CODES",
    "EXPLANATION",
    "NOT_BUILT",
    "NOT_BUILT_YET",
    "RED",
    "Record",
    "ReportFile",
    "Repro",
    "cell_of_repro",
    "diff",
    "exit_code_of",
    "explain_failure",
    "latest",
    "load_repro",
    "made_with",
    "markdown_table",
    "matrix",
    "merged",
    "read_records",
    "record_of_cell",
    "record_of_check",
    "status_of",
    "write_pages",
    "write_repro",
]


def write_pages(folder: Path, records: Iterable[Record]) -> None:
    """Write every page of a report beside its records, each whole or not at all."""
    records = latest(records)
    write_whole(folder / "matrix.md", matrix(records))
    write_whole(folder / "junit.xml", junit(records))
    write_whole(folder / "claims.lock", claims_lock(records))
    write_whole(folder / "report.html", page(records, folder))
