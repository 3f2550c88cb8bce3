"""The verb ``conformance selftest``: plants bugs, tells of each as it is done, prints the kill matrix."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import attrs
import click

from mqcore.cli.shell import Verb, current, end, output_options, refuse, write_json, write_line, write_table
from mqcore_conformance._kill_matrix import LEGEND, kill_line, kill_page, kill_table, others_table, summary
from mqcore_conformance.report import EXIT_CODES
from mqcore_conformance.selftest import Kill, run_selftest, saboteur_names

__all__ = ["selftest"]

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

    Status 1 when one survives: then there is a bug that the suite cannot see.
    """
    known = saboteur_names()
    for name in names:
        if name not in known:
            refuse(f"no saboteur {name!r}; one of {', '.join(known)}")
    if only_list:
        for name in names or known:
            write_line(name)
        return
    began = time.perf_counter()
    kills: list[Kill] = []
    for kill in run_selftest(names, jobs=jobs):
        kills.append(kill)
        _tell(kill)
    kills.sort(key=lambda kill: known.index(kill.name))
    seconds = time.perf_counter() - began
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
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


def _tell(kill: Kill) -> None:
    if current().json:
        write_json({**attrs.asdict(kill), "verdict": kill.verdict})
    else:
        write_line(kill_line(kill))
    sys.stdout.flush()
