"""The verb ``conformance selftest``: plants bugs, reports each as it is done, prints the kill matrix."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import click

from mqcore.cli.shell import (
    Verb,
    current,
    end,
    make_folder,
    output_options,
    refuse,
    write_json,
    write_line,
    write_table,
)
from mqcore_conformance.cli._kill_matrix import LEGEND, kill_line, kill_page, kill_table, others_table, summary
from mqcore_conformance.report import EXIT_CODES
from mqcore_conformance.saboteurs import CONTRACT_SABOTEURS, INJECTORS, PART_SABOTEURS, SABOTEURS
from mqcore_conformance.saboteurs.selftest import Kill, run_selftest, saboteur_names

PAGE = "kill-matrix.md"


@click.command(
    "selftest",
    cls=Verb,
    examples=[
        "mqcore conformance selftest --jobs 2",
        "mqcore conformance selftest empty-flush stale-bytes",
        "mqcore conformance selftest --to report",
    ],
)
@click.argument("names", nargs=-1)
@click.option("--jobs", default=1, type=click.IntRange(1, 64), show_default=True, help="Processes.")
@click.option(
    "--to", "folder", type=click.Path(file_okay=False, path_type=Path), help=f"Also write {PAGE} into this folder."
)
@click.option("--list", "only_list", is_flag=True, help="Name the saboteurs and run none.")
@output_options
def selftest(names: tuple[str, ...], jobs: int, folder: Path | None, only_list: bool) -> None:
    """Plant bugs and see that each turns its clause red in its cell; print the kill matrix.

    Status 1 when one survives: then there is a bug that the suite cannot see. A run that hangs is ended after 120 s
    (300 s with real processes), named with its cell and seed, and fails likewise: no clause has judged that bug.
    """
    known = saboteur_names()
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            near = f"did you mean {close[0]!r}? " if close else ""
            refuse(f"no saboteur {name!r}; {near}'mqcore conformance selftest --list' names all")
    if only_list:
        _list(names or known)
        return
    if folder is not None:
        make_folder(folder)  # before the minutes that the run takes
    began = time.perf_counter()
    kills: list[Kill] = []
    try:
        for kill in run_selftest(names, jobs=jobs):
            kills.append(kill)
            _tell(kill)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {len(kills)} of {len(names or known)} were run, none is kept", err=True)
        raise
    kills.sort(key=lambda kill: known.index(kill.name))
    seconds = time.perf_counter() - began
    if folder is not None:
        (folder / PAGE).write_text(kill_page(kills, seconds), encoding="utf-8")
    if not current().json:
        for rows, headings in (kill_table(kills), others_table(kills)):
            if rows:
                write_line()
                write_table(rows, headings)
        write_line()
        write_line(LEGEND)
        write_line(summary(kills, seconds))
    end(EXIT_CODES["violation"] if any(kill.survived for kill in kills) else 0)


def _list(names: Sequence[str]) -> None:
    """Name saboteurs, each with its clause, cell and bug where those are known without running it."""
    rows = {name: (name, "", "", "") for name in names}
    for one in (*SABOTEURS, *INJECTORS):
        if one.name in rows:
            rows[one.name] = (one.name, one.clause, one.cell.name, one.bug)
    for refusal in CONTRACT_SABOTEURS:
        if refusal.name in rows:
            rows[refusal.name] = (refusal.name, refusal.clause, f"contract/mmap/{refusal.check}", refusal.bug)
    for liar in PART_SABOTEURS:
        if liar.name in rows:
            rows[liar.name] = (liar.name, liar.clause, liar.place, liar.bug)
    if current().json:
        for row in rows.values():
            write_json(dict(zip(("name", "clause", "cell", "bug"), row, strict=True)))
        return
    write_table(list(rows.values()), ("saboteur", "clause", "cell", "bug"))


def _tell(kill: Kill) -> None:
    if current().json:
        write_json({**attrs.asdict(kill), "verdict": kill.verdict})
    else:
        write_line(kill_line(kill))
    sys.stdout.flush()
