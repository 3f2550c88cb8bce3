"""Reports on a run while it runs: a line for each piece that ends, and on a terminal a line for what is under way.

With ``--output json`` it writes records and nothing else. Decides nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mqcore.cli.shell import ReaderGone, current, write_json, write_line
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.report import Record
from mqcore_conformance.running import CellPiece, Pace, Piece, RunWatcher, estimate_s

if TYPE_CHECKING:
    from rich.live import Live

DETAIL_CHARS_MAX = 240
COLOURS = {
    "PASS": "green",
    "FAIL": "bold red",
    "XPASS": "bold red",
    "ERROR": "bold magenta",
    "LIVENESS": "bold yellow",
    "INCONCLUSIVE": "yellow",
}


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """Go on without output once no process reads it (``| head``): a run that ended there would have no verdict."""
    try:
        yield
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextmanager
def watched(jobs: int) -> Iterator[RunWatcher]:
    """Watch a run for a block, in the way that suits standard output."""
    if current().json:
        yield _Json()
    elif sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(highlight=False), auto_refresh=False, transient=True) as live:
            yield _Terminal(jobs, live)
    else:
        yield _Lines()


def line_of(record: Record, width: int = 0) -> str:
    """Return a record as a line: status, name (in ``width`` columns), seconds, and what is to be said about it."""
    detail = printable(_detail(record))
    if len(detail) > DETAIL_CHARS_MAX:
        detail = f"{detail[:DETAIL_CHARS_MAX]} ..."
    repro = repro_of(record)
    if repro:
        detail += f"; {repro}"
    name = printable(record["name"])
    status = "INCOMPLETE" if record.get("cut") and record["status"] == "PASS" else record["status"]
    return f"{status:12} {name:{width}} {record['seconds']:6.1f} s  {detail}".rstrip()


def repro_of(record: Record) -> str:
    """Return the folder, in the report, of the first repro of a record."""
    if record["kind"] == "check":
        return str(record.get("repro", ""))
    return next((str(failure["repro"]) for failure in record["failures"] if failure["repro"]), "")


def _detail(record: Record) -> str:
    if record["kind"] == "check":
        return str(record["text"] or (record.get("how", "") if record["status"] == "PASS" else ""))
    if record["failures"] and record["status"] != "XPASS":
        return _worst(record)
    return str(record["reason"] or record.get("cut") or record["how"])


def _worst(record: Record) -> str:
    """Return what there is to say of the clause that gave a cell its status; what is known to fail comes last."""
    told = [
        (record["clauses"].get(one["clause"], "NOT RUN"), failure, one["text"])
        for failure in record["failures"]
        for one in failure["violations"]
    ]
    told += [("ERROR", failure, failure["error"]) for failure in record["failures"] if failure["error"]]
    if not told:
        return str(record["reason"])
    _, failure, text = min(told, key=lambda one: one[0] != record["status"])
    last = f" (it ended by itself: {failure['exits'][-1]})" if failure.get("exits") else ""
    return f"seed {failure['seed']}: {text}{last}"


class _Json(RunWatcher):
    def recorded(self, record: Record, piece: Piece) -> None:
        """Write the record."""
        with readers_may_leave():
            write_json(record)


class _Lines(RunWatcher):
    width = 0

    def begins(self, todo: Sequence[Piece], done: int) -> None:
        """Say what is there already."""
        self.width = max((len(piece.name) for piece in todo), default=0)
        if done:
            with readers_may_leave():
                write_line(f"{done} of {done + len(todo)} are in the report already")

    def recorded(self, record: Record, piece: Piece) -> None:
        """Write a line, at once."""
        with readers_may_leave():
            write_line(line_of(record, self.width))


class _Terminal(_Lines):
    def __init__(self, jobs: int, live: Live) -> None:
        self._live = live
        self._jobs = jobs
        self._done = self._total = 0
        self._under_way = ""
        self._todo: dict[str, float] = {}
        self._pace = Pace()
        self._shown_at = 0.0

    def begins(self, todo: Sequence[Piece], done: int) -> None:
        """Remember how much there is."""
        super().begins(todo, done)
        self._done, self._total = done, done + len(todo)
        self._todo = {piece.name: estimate_s(piece) for piece in todo}

    def ran(self, piece: Piece, runs: int) -> None:
        """Remember how far a piece is."""
        of = f" of {len(piece.seeds)}" if isinstance(piece, CellPiece) and runs <= len(piece.seeds) else ""
        self._under_way = f"{piece.name}: {runs}{of} runs"
        self.ticks()

    def recorded(self, record: Record, piece: Piece) -> None:
        """Write the line above the one that moves."""
        from rich.text import Text

        self._done += 1
        self._pace.add(self._todo.pop(piece.name, 0.0), record["seconds"])
        text = Text(line_of(record, self.width))
        text.stylize(COLOURS.get(record["status"], "dim"), 0, 12)
        self._live.console.print(text, soft_wrap=True)
        self._show()

    def ticks(self) -> None:
        """Draw the moving line again, a few times a second."""
        if time.monotonic() - self._shown_at > 0.2:
            self._show()

    def _show(self) -> None:
        from rich.text import Text

        self._shown_at = time.monotonic()
        left_s = self._pace.left_s(sum(self._todo.values()), self._jobs)
        left = f"about {duration(left_s)} left"
        text = Text(f"{self._done} of {self._total}, {left}  {printable(self._under_way)}", style="dim")
        text.no_wrap, text.overflow = True, "ellipsis"
        self._live.update(text, refresh=True)


def duration(seconds: float) -> str:
    """Return a time in words that are worth reading."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
