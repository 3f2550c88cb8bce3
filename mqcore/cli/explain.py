"""``mqcore explain``: what an acknowledgement means in a build, before there is a broker."""

from __future__ import annotations

import shutil
from typing import Any

import attrs
import click

from mqcore.cli._build_options import build_options, compose, explanation_of
from mqcore.cli._inspection import inspect
from mqcore.cli._listeners_told import listeners_as_json, listeners_in_words
from mqcore.cli._nodes_told import nodes_as_json, nodes_in_words
from mqcore.cli.shell import Verb, current, end, output_options, write_json, write_line

__all__ = ["command"]

_WIDTH_MAX = 120


@click.command(
    "explain",
    cls=Verb,
    examples=[
        "mqcore explain broker.toml",
        "mqcore explain --storage mmap:///tmp/a --flush sync",
        "mqcore explain --storage mmap:///tmp/a --flush async --survive power-cut",
    ],
)
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@build_options
@output_options
def command(file: str | None, **flags: Any) -> None:
    """Print which faults an acknowledged message survives in a build: a configuration FILE, flags, or both.

    Then of each listener, whether it is encrypted, knows its peers, and carries many streams on one connection; and of
    each node of a set, who may follow the primary as that node.

    A build that cannot keep what it promises is refused with the reason, and status 3. Files that are named are read:
    status 2 where one is missing or of no use, such as a certificate that is expired.
    """
    config = compose(file, flags)
    found = inspect(config)
    explanation = explanation_of(config)
    explanation = attrs.evolve(explanation, warnings=(*explanation.warnings, *found.notices))
    if current().json:
        listeners = listeners_as_json(config)
        told = {"listeners": listeners, "nodes": nodes_as_json(config), "problems": list(found.problems)}
        write_json({**explanation.as_json(), **told})
    else:
        for line in explanation.lines(min(shutil.get_terminal_size((100, 24)).columns, _WIDTH_MAX)):
            write_line(line)
        for line in ["", *listeners_in_words(config), *nodes_in_words(config)]:
            write_line(line)
        for problem in found.problems:
            write_line(f"wrong: {problem}")
    if not explanation.starts:
        end(3)
    if found.problems:
        end(2)
