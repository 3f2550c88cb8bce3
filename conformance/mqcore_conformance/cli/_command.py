"""The verb ``conformance``: its verbs, what they write, how they end. ``run`` and the readers of reports are here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mqcore.cli.shell import (
    Group,
    Verb,
    current,
    end,
    make_folder,
    output_options,
    write_json,
    write_line,
    write_table,
)
from mqcore.guarantees import CLAUSES
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.children import interrupt_watched, surveyed
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.cli._explain import explain
from mqcore_conformance.cli._progress import duration, readers_may_leave, repro_of, watched
from mqcore_conformance.cli._replay import replay
from mqcore_conformance.cli._request_options import request_of, request_options
from mqcore_conformance.cli._selftest import selftest
from mqcore_conformance.report import (
    EXIT_CODES,
    EXPLANATION,
    NOT_BUILT_YET,
    RED,
    Record,
    ReportFile,
    diff,
    exit_code_of,
    latest,
    made_with,
    matrix,
    read_records,
    write_pages,
)
from mqcore_conformance.report import NOT_BUILT as ROWS_NOT_BUILT
from mqcore_conformance.running import (
    CellPiece,
    Ending,
    Piece,
    Request,
    estimate_s,
    machine_factor,
    pieces_of,
    run_request,
    unproved_levels,
)

SCREEN_LINES_MAX = 32


@click.group(
    cls=Group,
    examples=[
        "mqcore conformance list --estimate",
        "mqcore conformance run --storage all --transport all --tier contract,T0 --to report",
        "mqcore conformance selftest",
    ],
)
@output_options
def conformance() -> None:
    """Test storages, transports and builds clause by clause, under faults.

    Exit status: 0 conformant, 1 violation, 2 wrong usage, 3 liveness, 4 incomplete or inconclusive, 5 engine,
    130 interrupted.
    """


@conformance.command(
    "run",
    cls=Verb,
    examples=[
        "mqcore conformance run --storage mmap --transport tcp --seeds 20 --to report",
        "mqcore conformance run --storage 'shelf://{dir}' --transport tcp --to report",
        "mqcore conformance run --clause G01 --family power-cut --budget 60s --to report",
    ],
)
@request_options
@click.option(
    "--to",
    "folder",
    default="report",
    show_default=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report; the same command goes on with a run that was interrupted.",
)
@output_options
def run(folder: Path, **options: Any) -> None:
    """Run checks and cells, one line each; what the report holds already is not run again."""
    with surveyed():
        _run(folder, options)


def _run(folder: Path, options: Mapping[str, Any]) -> None:
    began = time.monotonic()
    request, data = request_of(options)
    pieces = pieces_of(request)
    for entry in request.claims.about_nothing(_judged_in(pieces, request)):
        _say(f"{request.claims_path}: {entry} is about nothing in this run; mend or remove it if no run has it")
    made_of = request.made_of()
    make_folder(folder)
    report = ReportFile(folder, request.arguments(), made_with(data), made_of)
    try:
        held = report.latest()
        if report.changed:
            _say(f"{', '.join(report.changed)} changed since {folder} was written: what was run of it is run again")
        with interrupt_watched() as interrupt:
            with watched(request.jobs) as watcher:
                ending = run_request(request, report, watcher, interrupt=interrupt, folder=data)
            records = report.latest()
            write_pages(folder, records)
    finally:
        report.close()
    if records == held and ending is Ending.COMPLETE:
        last = max((record.get("recorded_at", "") for record in records), default="")
        _say(f"nothing was run: every result is of the report of {last}; remove {folder} to run all again")
    now = request.made_of()
    changed = ", ".join(name for name in now if now[name] != made_of[name])
    if changed:
        _say(f"{changed} changed while it was tested: these results are of neither; the same command runs it again")
    unproved = _unproved(request, pieces, records)
    code = exit_code_of(records, complete=ending is Ending.COMPLETE and not changed and not unproved)
    if ending is Ending.INTERRUPTED:
        code = EXIT_CODES["interrupted"]
    with readers_may_leave():
        _conclude(folder, records, ending, len(pieces), code, time.monotonic() - began)
        if ending is Ending.COMPLETE:
            for line in unproved:
                _say(f"incomplete: {line}")
    end(code)


def _unproved(request: Request, pieces: Sequence[Piece], records: Sequence[Record]) -> list[str]:
    """Return which claimed levels met no fault, by what the report holds."""
    found = {record["name"]: record for record in records if "name" in record}

    def has_judged(piece: Piece) -> bool:
        record = found.get(piece.cell.name if isinstance(piece, CellPiece) else piece.name, {})
        status = record.get("clauses", {}).get("G01", record.get("status"))
        return status in ("PASS", *RED, "XFAIL")

    return unproved_levels(request, pieces, has_judged)


def _judged_in(pieces: Iterable[Piece], request: Request) -> Iterator[tuple[str, str]]:
    """Give each clause that is judged in a run with the name of its cell or check."""
    for piece in pieces:
        if not isinstance(piece, CellPiece):
            yield piece.clause, piece.name
        elif not piece.why and piece.number == 1:
            for clause in request.clauses_of_cells or CHECKERS:
                yield clause, piece.cell.name


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


def _conclude(folder: Path, records: Sequence[Record], ending: Ending, total: int, code: int, seconds: float) -> None:
    """Say what came of a run."""
    done = sum(record["kind"] != "run" for record in records)
    meaning = next(name for name, number in EXIT_CODES.items() if number == code)
    if current().json:
        write_json({"kind": "end", "exit": code, "meaning": meaning, "report": str(folder / "report.html")})
        return
    _explain_worst(folder, [record for record in records if record.get("status") in RED])
    if ending is Ending.INTERRUPTED:
        click.echo(f"interrupted: {done} of {total} are in the report; the same command goes on", err=True)
    elif ending is Ending.OUT_OF_TIME:
        click.echo("time was up before all was run; the same command goes on", err=True)
    counts = _counts(records) or "nothing is finished"
    write_line(f"{meaning}: {counts}{_seeds_each(records)}; {duration(seconds)}; {folder}/report.html")


def _explain_worst(folder: Path, red: Sequence[Record]) -> None:
    """Print the explanation of the first failure, one screen; its last line says how to see it again."""
    repro = next(filter(None, map(repro_of, sorted(red, key=lambda record: RED.index(record["status"])))), "")
    try:
        lines = (folder / repro / EXPLANATION).read_text(encoding="utf-8").splitlines() if repro else []
    except OSError:
        lines = []
    if not lines:
        return
    if len(lines) > SCREEN_LINES_MAX:
        lines = [*lines[: SCREEN_LINES_MAX - 2], "...", lines[-1]]
    write_line()
    for line in lines:
        write_line(printable(line, lines=True))
    if len(red) > 1:
        write_line(f"\n{len(red)} failures in all, each with its folder under {folder}/repro")


def _seeds_each(records: Sequence[Record]) -> str:
    """Say how many seeds the cells had: of how many a verdict is says how much it is worth."""
    numbers = [len(record["seeds"]) for record in records if record["kind"] == "cell" and record["seeds"]]
    if not numbers:
        return ""
    least, most = min(numbers), max(numbers)
    return f"; {least} to {most} seeds each" if most > least else f"; {least} seed{'s' * (least > 1)} each"


def _counts(records: Sequence[Record]) -> str:
    statuses = [record["status"] for record in records if "status" in record]
    return ", ".join(f"{statuses.count(one)} {one}" for one in sorted(set(statuses), key=statuses.count, reverse=True))


@conformance.command(
    "list",
    cls=Verb,
    examples=["mqcore conformance list --estimate", "mqcore conformance list --tier T1 --storage mmap"],
)
@request_options
@click.option("--estimate", is_flag=True, help="Also say how long it takes; runs a short simulation to find out.")
@output_options
def list_cells(estimate: bool, **options: Any) -> None:
    """List clauses, and exactly what a run with the same options does; run nothing."""
    request, _ = request_of(options)
    pieces = pieces_of(request)
    seconds = _estimate(request, pieces) if estimate else None
    if current().json:
        for piece in pieces:
            why = piece.why if isinstance(piece, CellPiece) else ""
            write_json({"name": piece.name, "what": _what(piece), "not_run": why})
        for row in ROWS_NOT_BUILT:
            write_json({"name": row.name, "what": row.what, "not_run": NOT_BUILT_YET})
        if seconds is not None:
            write_json({"seconds": round(seconds)})
        return
    write_table(
        [(clause, facts.name) for clause, facts in CLAUSES.items()],
        ("clause", "name"),
    )
    write_line()
    rows = [(piece.name, _what(piece)) for piece in pieces]
    write_table([*rows, *((row.name, f"{NOT_BUILT_YET}: {row.what}") for row in ROWS_NOT_BUILT)], ("name", "what runs"))
    write_line(f"\n{_summary(pieces)}")
    if seconds is not None:
        jobs = f"{request.jobs} processes" if request.jobs > 1 else "1 process"
        budget = f"; --budget ends it after {request.budget_s:.0f} s" if request.budget_s is not None else ""
        write_line(f"about {duration(seconds)} with {jobs}{budget}")


def _what(piece: Piece) -> str:
    if not isinstance(piece, CellPiece):
        return f"{piece.clause}, contract check"
    if piece.why:
        return f"not run: {piece.why}"
    if piece.cell.family == "crash-points":
        return "every crash point of 1 seed"
    return f"{len(piece.seeds)} seed" + "s" * (len(piece.seeds) > 1)


def _summary(pieces: Sequence[Piece]) -> str:
    cells = [piece for piece in pieces if isinstance(piece, CellPiece)]
    run = [piece for piece in cells if not piece.why]
    runs = sum(len(piece.seeds) for piece in run)
    names = len({piece.cell.name for piece in run})
    left = len({piece.cell.name for piece in cells}) - names
    return f"{len(pieces) - len(cells)} contract checks; {names} cells of {runs} runs; {left} cells not run"


def _estimate(request: Request, pieces: Sequence[Piece]) -> float:
    longest = max(map(estimate_s, pieces))
    return machine_factor() * max(longest, sum(map(estimate_s, pieces)) / request.jobs)


conformance.add_command(explain)
conformance.add_command(replay)
conformance.add_command(selftest)


@conformance.command("matrix", cls=Verb, examples=["mqcore conformance matrix report"])
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@output_options
def show_matrix(folder: Path) -> None:
    """Print the matrix of a report, and write its pages again."""
    records = read_records(folder)
    write_pages(folder, records)
    if current().json:
        for record in latest(records):
            if record["kind"] != "run":
                keys = ("name", "status", "seconds", "clause" if record["kind"] == "check" else "clauses")
                write_json({key: record[key] for key in keys})
        return
    write_line(matrix(records).rstrip())


@conformance.command("diff", cls=Verb, examples=["mqcore conformance diff report-old report-new"])
@click.argument("old", metavar="OLD", type=click.Path(exists=True, path_type=Path))
@click.argument("new", metavar="NEW", type=click.Path(exists=True, path_type=Path))
@output_options
def show_diff(old: Path, new: Path) -> None:
    """Print what changed colour from one report to another, came or went; status 1 when something did."""
    lines = diff(read_records(old), read_records(new))
    for line in lines:
        if current().json:
            write_json({"kind": "change", "text": line})
        else:
            write_line(line)
    if not lines and not current().json:
        write_line("nothing changed colour")
    end(1 if lines else 0)
