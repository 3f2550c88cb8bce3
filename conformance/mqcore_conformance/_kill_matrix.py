"""The kill matrix as text: rows are saboteurs, columns clauses. Knows ``Kill``, not how it came about."""

from __future__ import annotations

from collections.abc import Sequence

from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.selftest import GROUPS, Kill

__all__ = ["kill_line", "kill_page", "kill_table", "summary"]

LEGEND = "X: its clause, red as it must be   x: red beside it   .: green   -: not judged"


def kill_line(kill: Kill) -> str:
    """One line that tells what became of a saboteur."""
    caught = ", ".join(kill.caught) or "nothing"
    seed = f" (seed {kill.seed})" if kill.seed is not None else ""
    stray = f"; red where it must not be: {', '.join(kill.stray)}" if kill.stray else ""
    line = f"{kill.verdict:9} {kill.name:31} {kill.cell:35} {caught}{seed}{stray}  {kill.seconds:.1f} s"
    return f"{line}\n{'':9} {kill.bug}: expected {kill.expected}. {kill.example}".rstrip() if kill.survived else line


def _marks(kill: Kill) -> list[str]:
    if kill.group in ("injector", "checker"):
        return ["-"] * len(CHECKERS)
    return [
        ("X" if clause == kill.expected else "x") if clause in kill.caught else "." for clause in CHECKERS
    ]


def kill_table(kills: Sequence[Kill]) -> tuple[list[list[str]], list[str]]:
    """Rows and headings of the matrix, for a terminal."""
    headings = ["saboteur", *CHECKERS, "cell", "seed", "green in"]
    rows = []
    for group in GROUPS:
        for kill in kills:
            if kill.group == group:
                seed = "" if kill.seed is None else str(kill.seed)
                cell = kill.cell if group != "injector" else f"{kill.cell}: {', '.join(kill.caught)}"
                rows.append([kill.name, *_marks(kill), cell, seed, " ".join(kill.green)])
    return rows, headings


def summary(kills: Sequence[Kill], seconds: float) -> str:
    """The last line: who survived."""
    survivors = [kill.name for kill in kills if kill.survived]
    numbers = {group: sum(kill.group == group for kill in kills) for group in GROUPS}
    counts = ", ".join(f"{number} {group}" for group, number in numbers.items() if number)
    verdict = f"{len(survivors)} survived: {', '.join(survivors)}" if survivors else "no survivor"
    return f"{verdict} ({counts}); {sum(kill.runs for kill in kills)} runs, {seconds:.0f} s"


def kill_page(kills: Sequence[Kill], seconds: float) -> str:
    """The matrix as a page of Markdown."""
    rows, headings = kill_table(kills)
    lines = [
        "# Kill matrix",
        "",
        "Every saboteur plants one bug; its clause has to turn red in its cell, and the cells of the last column have",
        f"to stay green. {LEGEND}.",
        "",
        "| " + " | ".join(headings) + " |",
        "|" + " --- |" * len(headings),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        summary(kills, seconds),
        "",
        "## What was planted, and how it showed",
        "",
    ]
    for group, meaning in GROUPS.items():
        of_group = [kill for kill in kills if kill.group == group]
        if of_group:
            lines += [f"### {group}: {meaning}", ""]
            lines += [f"- **{kill.name}** ({kill.verdict}): {kill.bug}. {kill.example}".rstrip() for kill in of_group]
            lines.append("")
    return "\n".join(lines)
