"""What a run does: every piece of a request that the report does not hold yet, each in a child, recorded as it ends.

Knows nothing of terminals. What a request is made of stands in ``request``.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs

from mqcore.guarantees import CLAUSES
from mqcore_conformance.cells import EXTRA_SEEDS_MAX, CellResult, Failure, LastRun, run_cell, shrink
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.children import Interrupt, PieceEnded, Ran, alive, run_apart, run_in_children
from mqcore_conformance.contract import CHECKS, CheckResult, check_part, write_check_repro
from mqcore_conformance.plans import CRASH_POINTS
from mqcore_conformance.report import (
    Record,
    ReportFile,
    merged,
    record_of_cell,
    record_of_check,
    status_of,
    write_repro,
)
from mqcore_conformance.running._repeating import why_not_repeatable, without_proof
from mqcore_conformance.running._request import (
    CellPiece,
    CheckPiece,
    Piece,
    Request,
    pieces_of,
)
from mqcore_conformance.verdicts import Status

REPROS_MAX = 5
"""Failures of one piece that get a repro."""
SHRINK_RUNS_MAX = 150
RUN_S_MAX = {"T0": 120.0, "T1": 300.0}
"""By tier: a run of a cell that takes longer hangs."""
SHRINK_S_MAX = {"T0": 80.0, "T1": 200.0}
"""By tier: what the search for a simpler plan may take, less than a run. It begins no run in the second half."""
SHRINK_RUNS_HURRIED = 30


class Ending(enum.Enum):
    """How a run ended: everything is done, time was up, or it was interrupted."""

    COMPLETE = "complete"
    OUT_OF_TIME = "out of time"
    INTERRUPTED = "interrupted"


class RunWatcher:
    """What a run reports to while it goes on; this one ignores everything."""

    def begins(self, todo: Sequence[Piece], done: int) -> None:
        """``todo`` is left to do; ``done`` pieces are in the report already."""

    def ran(self, piece: Piece, runs: int) -> None:
        """``runs`` runs of a piece are over."""

    def recorded(self, record: Record, piece: Piece) -> None:
        """A piece is done, and its record is in the report."""

    def ticks(self) -> None:
        """Time goes by."""


def run_request(
    request: Request,
    report: ReportFile,
    watcher: RunWatcher,
    *,
    interrupt: Interrupt,
    folder: Path | None = None,
) -> Ending:
    """Run what the report does not hold yet. ``folder``: where data goes (the system's temporary folder).

    Raises ``ReportNotWritten`` when the disk of the report is full; what was finished is in it then.
    """
    deadline = time.perf_counter() + request.budget_s if request.budget_s is not None else None
    pieces = pieces_of(request)
    todo = [piece for piece in pieces if not report.has(piece.name) and not _cell_is_done(report, piece)]
    watcher.begins(todo, len(pieces) - len(todo))
    left, cut = len(todo), False

    events = run_in_children(
        todo,
        partial(_work, request, report.folder, deadline),
        jobs=request.jobs,
        interrupt=interrupt,
        folder=folder,
        deadline=deadline,
        kept_from_children=[report.descriptor],
    )
    with contextlib.closing(events):  # no child outlives whatever ends this loop
        for event in events:
            if isinstance(event, Ran):
                watcher.ran(event.piece, event.runs)
            elif isinstance(event, PieceEnded):
                record = _judged(_record_of(event), request)
                report.write(record)
                left, cut = left - 1, cut or bool(record.get("cut"))
                watcher.recorded(record, event.piece)
                if record["kind"] == "part":
                    _merge(report, event.piece)
            else:
                watcher.ticks()
    if interrupt.happened:
        return Ending.INTERRUPTED
    return Ending.OUT_OF_TIME if left or cut else Ending.COMPLETE


def _cell_is_done(report: ReportFile, piece: Piece) -> bool:
    return isinstance(piece, CellPiece) and report.has(piece.cell.name)


def _merge(report: ReportFile, piece: Piece) -> None:
    """Write the record of a cell of which every part is there."""
    assert isinstance(piece, CellPiece)
    parts = [attrs.evolve(piece, number=number) for number in range(1, piece.count + 1)]
    if all(report.holds(part.name) for part in parts):
        report.write(merged([report.record(part.name) for part in parts]))


def _record_of(ended: PieceEnded[Piece, Record]) -> Record:
    outcome = ended.outcome
    if outcome.value is None:
        return _record_of_lost(ended.piece, outcome.problem) | {"printed": outcome.output}
    return outcome.value | {"printed": outcome.value.get("printed") or outcome.output}


def _judged(record: Record, request: Request) -> Record:
    """Count what the claims file knows to fail as known; a failure is told all the same."""
    claims, path = request.claims, request.claims_path
    if record["kind"] == "check":
        status = claims.judge(record["clause"], record["name"], Status(record["status"]))
        text = claims.out_of_date(record["clause"], record["name"], path) if status is Status.XPASS else record["text"]
        return record | {"status": status.value, "text": text}
    name: str = record.get("cell") or record["name"]
    clauses = {clause: claims.judge(clause, name, Status(one)).value for clause, one in record["clauses"].items()}
    if clauses == record["clauses"]:
        return record
    told = [claims.out_of_date(one, name, path) for one, status in clauses.items() if status == Status.XPASS.value]
    reason = "; ".join([*told, record["reason"]] if record["reason"] else told)
    return record | {"clauses": clauses, "status": status_of(clauses.values()), "reason": reason}


def _record_of_lost(piece: Piece, problem: str) -> Record:
    """Return the record of a piece whose process died or hung: a part that does that in a check fails it."""
    if isinstance(piece, CheckPiece):
        return record_of_check(piece.url, CheckResult(check=CHECKS[piece.check], status=Status.FAIL, text=problem))
    statuses = {clause: Status.ERROR if clause in CHECKERS else Status.NOT_RUN for clause in CLAUSES}
    result = CellResult(cell=piece.cell, statuses=statuses, reason=problem)
    return _of_part(piece, record_of_cell(result, []))


def _of_part(piece: CellPiece, record: Record) -> Record:
    if piece.count > 1:
        record.update(kind="part", name=piece.name, cell=piece.cell.name, number=piece.number, count=piece.count)
    return record


# ---- inside a child ------------------------------------------------------------------------------------------------


def _work(request: Request, folder: Path, deadline: float | None, piece: Piece) -> Record:
    if isinstance(piece, CheckPiece):
        return _check(piece, folder, request)
    if piece.why:
        return _cell(request, folder, deadline, piece)[0]
    seconds_max = RUN_S_MAX[piece.cell.tier]
    run = partial(_cell, request, folder, deadline, piece)
    outcome = run_apart(run, seconds_max=seconds_max, returns=tuple[Record, LastRun | None])
    if outcome.value is None:
        problem = _name_of_run(piece, outcome.doing) + outcome.problem
        return _record_of_lost(piece, problem) | {"printed": outcome.output}
    record, last = outcome.value
    problem = "" if record.get("cut") else why_not_repeatable(last, seconds_max=seconds_max)
    if problem:
        clauses = {clause: without_proof(Status(one)).value for clause, one in record["clauses"].items()}
        record |= {"clauses": clauses, "status": status_of(clauses.values()), "reason": problem}
    return record | {"printed": outcome.output}


def _name_of_run(piece: CellPiece, runs: int | None) -> str:
    """Say which seed's run it was that came after ``runs`` others, where each run is a seed's."""
    if runs is None or piece.cell.family == CRASH_POINTS or runs >= len(piece.seeds):
        return ""
    return f"seed {piece.seeds[runs]}: "


def _cell(request: Request, folder: Path, deadline: float | None, piece: CellPiece) -> tuple[Record, LastRun | None]:
    """Return the record of a piece, and what it takes to see whether its runs repeat."""
    alive(0)
    result = run_cell(
        piece.cell,
        piece.seeds,
        clauses=request.clauses_of_cells,
        not_run=piece.why,
        deadline=deadline,
        ran=alive,
        extra_seeds_max=EXTRA_SEEDS_MAX if request.extra_seeds and piece.count == 1 else 0,
    )
    late = deadline is not None and time.perf_counter() > deadline
    repros = []
    for number, failure in enumerate(result.failures[:REPROS_MAX]):
        alive()
        if number == 0 and failure.violations:
            runs_max = SHRINK_RUNS_HURRIED if deadline is not None else SHRINK_RUNS_MAX
            failure = result.failures[0] = _simplest(failure, runs_max)
            alive()
        repros.append(_repro(folder, piece, failure))
    record = record_of_cell(result, [*repros, *[""] * len(result.failures)])
    if not piece.why and late and (len(result.seeds) < len(piece.seeds) or piece.cell.family == CRASH_POINTS):
        record["cut"] = f"time was up after {len(result.seeds)} of {len(piece.seeds)} seeds"
    return _of_part(piece, record), result.last


def _simplest(failure: Failure, runs_max: int) -> Failure:
    """Return a simpler plan that fails likewise, or the one that is known where the search dies or hangs."""
    seconds_max = SHRINK_S_MAX[failure.plan.tier]
    search = partial(shrink, failure, runs_max=runs_max, seconds_max=seconds_max / 2)
    return run_apart(search, seconds_max=seconds_max, returns=Failure).value or failure


def _repro(folder: Path, piece: CellPiece, failure: Failure) -> str:
    try:
        return write_repro(folder, failure, piece.cell)
    except OSError:  # the disk is full: the record says what failed all the same, or ends the run
        return ""


def _check(piece: CheckPiece, folder: Path, request: Request) -> Record:
    claims, seconds_max = request.claims, request.check_seconds_max
    result = check_part(CHECKS[piece.check], piece.url, seconds_max=seconds_max, claims=claims)
    repro = ""
    if result.status is Status.FAIL:
        with contextlib.suppress(OSError):  # as above
            repro = write_check_repro(folder, piece.url, result, seconds_max, claims)
    return record_of_check(piece.url, result, repro)
