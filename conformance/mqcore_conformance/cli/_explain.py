"""The verb ``conformance explain``: a clause in words, how it is checked, and what proves that the check can fail."""

from __future__ import annotations

import shutil
import textwrap

import click

from mqcore.cli.shell import Verb, current, output_options, refuse, write_json, write_line
from mqcore.guarantees import CLAUSES
from mqcore_conformance.cli._explanations import explain_clause
from mqcore_conformance.running import suggest

LABEL_WIDTH = 17
COLUMNS_MAX = 110


@click.command(
    "explain", cls=Verb, examples=["mqcore conformance explain G11", "mqcore conformance explain --output json G11"]
)
@click.argument("clause")
@output_options
def explain(clause: str) -> None:
    """Tell what a clause means, how and where it is checked, and which bugs prove that the check can fail."""
    wanted = clause.upper()
    facts = CLAUSES.get(wanted) or next((one for one in CLAUSES.values() if one.name == clause.lower()), None)
    if facts is None:
        refuse(f"no clause {clause!r}{suggest(wanted, CLAUSES)}")
    sections = explain_clause(facts.id)
    if current().json:
        write_json({"clause": facts.id, "name": facts.name} | {name.replace(" ", "_"): text for name, text in sections})
        return
    columns = min(COLUMNS_MAX, shutil.get_terminal_size((COLUMNS_MAX, 40)).columns)
    write_line(f"{facts.id} {facts.name}\n")
    for name, paragraphs in sections:
        for number, paragraph in enumerate(paragraphs):
            label = name if number == 0 else ""
            first, others = f"{label:{LABEL_WIDTH}}", " " * LABEL_WIDTH
            write_line(
                textwrap.fill(
                    paragraph, columns, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
                )
            )
