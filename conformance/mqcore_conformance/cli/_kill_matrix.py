"""The kill matrix as text: rows are saboteurs, columns clauses. Knows ``Kill``, not how it came about."""

from __future__ import annotations

from collections.abc import Sequence

from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.report import markdown_table
from mqcore_conformance.saboteurs.selftest import GROUPS, Kill

LEGEND = "X: its clause, red as it must be   x: red beside it   .: green"


def kill_line(kill: Kill) -> str:
    """One line that tells what became of a saboteur."""
    if kill.not_run:
        return f"{kill.verdict:9} {kill.name:31} {kill.cell:35} {kill.not_run}"
    seed = f" (seed {kill.seed})" if kill.seed is not None else ""
    if kill.hung:
        return f"{kill.verdict:9} {kill.name:31} {kill.cell:35} no clause was judged{seed}: {kill.example}"
    caught = ", ".join(kill.caught) or "nothing"
    stray = f"; red where it must not be: {', '.join(kill.stray)}" if kill.stray else ""
    line = f"{kill.verdict:9} {kill.name:31} {kill.cell:35} {caught}{seed}{stray}  {kill.seconds:.1f} s"
    return f"{line}\n{'':9} {kill.bug}: expected {kill.expected}. {kill.example}".rstrip() if kill.survived else line


def _marks(kill: Kill) -> list[str]:
    return [("X" if clause == kill.expected else "x") if clause in kill.caught else "." for clause in CHECKERS]


def kill_table(kills: Sequence[Kill]) -> tuple[list[list[str]], list[str]]:
    """Rows and headings of the matrix, of those whose clause has to turn red."""
    rows = [
        [kill.name, *_marks(kill), kill.cell, "" if kill.seed is None else str(kill.seed), " ".join(kill.green)]
        for kill in kills
        if kill.expected in CHECKERS and not kill.not_run
    ]
    return rows, ["saboteur", *CHECKERS, "cell", "seed", "green in"]


def others_table(kills: Sequence[Kill]) -> tuple[list[list[str]], list[str]]:
    """Rows and headings of the rest: what they were seen in, and what came of it."""
    rows = [
        [kill.name, kill.cell, ", ".join(kill.caught) or kill.not_run or "nothing"]
        for kill in kills
        if kill.expected not in CHECKERS or kill.not_run
    ]
    return rows, ["saboteur", "seen in", "outcome"]


def summary(kills: Sequence[Kill], seconds: float) -> str:
    """The last line: who survived."""
    survivors = [kill.name for kill in kills if kill.survived and not kill.hung]
    hung = [kill.name for kill in kills if kill.hung]
    numbers = {group: sum(kill.group == group for kill in kills) for group in GROUPS}
    counts = ", ".join(f"{number} {group}" for group, number in numbers.items() if number)
    verdict = f"{len(survivors)} survived: {', '.join(survivors)}" if survivors else "no survivor"
    verdict += f", {len(hung)} hung: {', '.join(hung)}" if hung else ""
    return f"{verdict} ({counts}); {sum(kill.runs for kill in kills)} runs, {seconds:.0f} s"


def kill_page(kills: Sequence[Kill], seconds: float) -> str:
    """The matrix as a page of Markdown."""
    lines = [
        "# Kill matrix",
        "",
        "Every saboteur plants one bug; its clause has to turn red in its cell, and the cells of the last column have",
        f"to stay green. {LEGEND}.",
        "",
        *markdown_table(*kill_table(kills)),
        "",
        *markdown_table(*others_table(kills)),
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
