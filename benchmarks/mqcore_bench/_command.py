"""The verb ``bench``: which rows, how long, in which form. Interleaves the subjects and takes medians.

It never fails because something was slow: what a rate should be is printed, not asserted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

import attrs
import click

from mqcore.cli.shell import (
    Group,
    Size,
    Verb,
    current,
    end,
    make_folder,
    output_options,
    write_json,
    write_line,
    write_table,
)
from mqcore_bench._children import ChildFailed, machine
from mqcore_bench._mqcore import mqcore_for
from mqcore_bench._report import HEADINGS, Line, line_of, table
from mqcore_bench._rows import ROWS, Row, select
from mqcore_bench._subjects import OWN_LISTEN, OWN_STORAGE, BenchSettings, Subject, probe_for, toy_for

__all__ = ["bench"]

SUBJECTS = ("probe", "toy", "mqcore")


@click.group(cls=Group, examples=["mqcore bench list", "mqcore bench run 'publish-256-*' --seconds 10 --to results"])
@output_options
def bench() -> None:
    """Measure rates and costs beside their limits: a toy broker, and a probe of the disk alone."""


@bench.command("list", cls=Verb, examples=["mqcore bench list --output json"])
@output_options
def list_rows() -> None:
    """List what can be measured."""
    if current().json:
        for row in ROWS:
            write_json({"name": row.name, "unit": row.unit, "summary": row.summary})
        return
    write_table([(row.name, row.unit, row.summary) for row in ROWS], ("row", "unit", "what is measured"))


@bench.command(
    "run",
    cls=Verb,
    examples=[
        "mqcore bench run publish-256-async-0ms --seconds 10",
        "mqcore bench run 'one-*' 'singles-*' --rounds 5 --output json",
        "mqcore bench run '*' --size '10 GB' --data /var/tmp --to results",
        "mqcore bench run 'publish-256-*' --storage 'mybackend://{dir}/s' --transport 'unix://{dir}/socket'",
    ],
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Length of a measurement.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements; the median counts.")
@click.option("--size", type=Size, default="1 GB", show_default=True, help="Bytes of the log to open or consume.")
@click.option("--data", type=click.Path(file_okay=False), help="Where logs are written; the disk there is measured.")
@click.option("--to", type=click.Path(file_okay=False), help="Also write bench.json and bench.txt into this folder.")
@click.option(
    "--storage", default=OWN_STORAGE, show_default=True, help="The storage part to measure; {dir} is a fresh folder."
)
@click.option(
    "--transport", default=OWN_LISTEN, show_default=True, help="Where the broker listens; {dir} as for --storage."
)
@click.option("--subject", "subjects", type=click.Choice(SUBJECTS), multiple=True, help="Measure these only.")
@output_options
def run(
    names: tuple[str, ...],
    seconds: float,
    rounds: int,
    size: int,
    data: str | None,
    to: str | None,
    storage: str,
    transport: str,
    subjects: tuple[str, ...],
) -> None:
    """Measure NAME... (wildcards allowed; 'mqcore bench list' shows them), subjects in turn, and print the medians."""
    try:
        rows = select(names)
    except KeyError as error:
        raise click.UsageError(f"no row {error.args[0]!r}; 'mqcore bench list' shows them") from None
    if to is not None:
        make_folder(to)
    settings = BenchSettings(seconds=seconds, size_bytes=size, data=data, storage=storage, listen=transport)
    failed: list[str] = []
    lines = []
    for row in rows:
        line = line_of(row, _measure(row, subjects or SUBJECTS, rounds, settings, failed))
        lines.append(line)
        if current().json:
            write_json(attrs.asdict(line))
    facts = machine(data)
    if not current().json:
        _print(lines, facts)
    if to is not None:
        _write(to, lines, facts)
    if failed:
        for text in failed:
            print(f"mqcore: {text}", file=sys.stderr)
        end(1)


def _measure(
    row: Row, subjects: Sequence[str], rounds: int, settings: BenchSettings, failed: list[str]
) -> Mapping[str, list[float]]:
    """Measure ``row`` ``rounds`` times, the subjects taking turns, so that a noisy minute hits them alike."""
    work = {"probe": probe_for(row.work), "toy": toy_for(row.work), "mqcore": mqcore_for(row.work)}
    values: dict[str, list[float]] = {name: [] for name in SUBJECTS if name in subjects and work[name] is not None}
    for number in range(rounds):
        for name in values:
            if sys.stderr.isatty():
                print(f"\r\033[K{row.name}: {name}, {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
            subject: Subject | None = work[name]
            assert subject is not None
            try:
                values[name].append(subject(settings))
            except ChildFailed as error:
                failed.append(f"{row.name}: {error}")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return values


def _print(lines: Sequence[Line], facts: Mapping[str, object]) -> None:
    write_table(table(lines), HEADINGS)
    write_line()
    write_line(f"on {', '.join(f'{name} {value}' for name, value in facts.items())}")
    write_line("messages of 1 KiB, medians; the limit is the smaller of toy and probe")


def _write(folder: str, lines: Sequence[Line], facts: Mapping[str, object]) -> None:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "bench.json"), "w", encoding="utf-8") as file:
        json.dump({"machine": facts, "rows": [attrs.asdict(line) for line in lines]}, file, indent=1)
        file.write("\n")
    with open(os.path.join(folder, "bench.txt"), "w", encoding="utf-8") as file:
        for cells in [HEADINGS, *table(lines)]:
            file.write("\t".join(cells) + "\n")
