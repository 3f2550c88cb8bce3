"""The verb ``bench``: which rows, how long, in which form. Interleaves the subjects and takes medians.

It never fails because something was slow: what a rate should be is printed, not asserted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import click

from mqcore.cli.shell import (
    Group,
    Size,
    Verb,
    connection_options,
    current,
    end,
    make_folder,
    output_options,
    run_async,
    write_json,
    write_line,
    write_table,
)
from mqcore_bench._children import ChildFailed, machine
from mqcore_bench._clients import MEASURES, SHELLS, compare
from mqcore_bench._mqcore import mqcore_for
from mqcore_bench._report import HEADINGS, Line, line_of, table
from mqcore_bench._rows import ROWS, Row, select
from mqcore_bench._running import publish
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


@bench.command(
    "publish",
    cls=Verb,
    examples=[
        "mqcore bench publish --seconds 5",
        "mqcore bench publish --server quic://127.0.0.1:7443 --ca certs/ca.pem --output json",
    ],
)
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Length of it.")
@click.option("--batch", type=click.IntRange(1, 16_384), default=256, show_default=True, help="Messages of a batch.")
@click.option("--size", type=Size, default="1 KB", show_default=True, help="Bytes of a message.")
@click.option("--in-flight", type=click.IntRange(1, 64), default=8, show_default=True, help="Batches under way.")
@connection_options
@output_options
def publish_to(seconds: float, batch: int, size: int, in_flight: int) -> None:
    """Publish to a running broker as fast as it takes it, and print the rate.

    The messages go into a topic that is made for it and deleted afterwards.
    """
    settings = current()
    done = run_async(
        partial(publish, seconds=seconds, batch=batch, message_bytes=size, in_flight=in_flight),
        settings.server_urls,
        {"name": "mqcore bench", "connect_timeout_ms": settings.timeout_ms, **settings.tls, **settings.login},
    )
    if settings.json:
        write_json(done)
        return
    write_line(
        f"{done.messages_per_second:,.0f} messages a second, {done.megabytes_per_second:,.1f} MB/s, "
        f"acknowledged at level {done.level}; "
        f"a batch took {done.median_us:,.0f} us (median), {done.p99_us:,.0f} us (99 of 100)"
    )


@bench.command("clients", cls=Verb, examples=["mqcore bench clients --seconds 5", "mqcore bench clients --output json"])
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Length of a measurement.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements; the median counts.")
@output_options
def clients(seconds: float, rounds: int) -> None:
    """Compare the clients for Trio, for asyncio and for programs that block, on a broker in memory."""
    try:
        rates = compare(rounds, seconds, _progress)
    except ChildFailed as error:
        print(f"mqcore: {error}", file=sys.stderr)
        end(1)
    finally:
        _progress("")
    if current().json:
        for name, of in rates.items():
            write_json({"measure": name, "summary": MEASURES[name], "rates": of})
        return
    rows = []
    for name, of in rates.items():
        ratios = (f"{of[shell] / of['trio']:.2f}" for shell in SHELLS[1:])
        rows.append((name, *(f"{of[shell]:,.0f}" for shell in SHELLS), *ratios, MEASURES[name]))
    write_table(rows, ("measure", *SHELLS, "aio/trio", "sync/trio", "what is measured"))


@bench.command("raid", cls=Verb, examples=["mqcore bench raid --data /var/tmp", "mqcore bench raid --output json"])
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, show_default=True, help="Length of a measurement.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements; the median counts.")
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="Where logs are written; that disk counts.")
@output_options
def raid(seconds: float, rounds: int, data: str | None) -> None:
    """Compare an array, replicas, and an array plus one replica: what an acknowledged message costs in each, here.

    All of it is on one disk and one machine: see what is written how often, and add your network's round trip.
    """
    import tempfile

    from mqcore_bench.arrays import compare_builds

    try:
        with tempfile.TemporaryDirectory(dir=data, prefix="mqcore-bench-") as folder:
            costs = compare_builds(folder, seconds, rounds, _progress)
    except ChildFailed as error:
        print(f"mqcore: {error}", file=sys.stderr)
        end(1)
    finally:
        _progress("")
    if current().json:
        for cost in costs:
            write_json(attrs.asdict(cost))
        return
    first = costs[0]
    rows = [
        (
            cost.build,
            f"{cost.messages_per_second:,.0f}",
            f"{cost.messages_per_second / first.messages_per_second:.2f}",
            f"{cost.latency_us:,.0f}",
            f"{cost.latency_us / first.latency_us:.2f}",
            cost.copies,
            cost.summary,
        )
        for cost in costs
    ]
    headings = ("build", "messages/s", "of one", "one message, us", "of one", "copies", "what it is")
    write_table(rows, headings)


@bench.command(
    "quic",
    cls=Verb,
    examples=["mqcore bench quic", "mqcore bench quic batches round-trip --rounds 5 --output json"],
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Length of a measurement.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements; the median counts.")
@output_options
def quic(names: tuple[str, ...], seconds: float, rounds: int) -> None:
    """Compare QUIC with the bare engine, and TLS with Trio's own: rates, round trips, floods, memory.

    NAME is one of bulk, batches, round-trip, beside-bulk, unread, garbage, initials, tls, tls-round-trip, idle.
    """
    import tempfile

    from mqcore_bench.quic import MEASURES, measure_quic

    unknown = next((name for name in names if name not in MEASURES), None)
    if unknown is not None:
        raise click.UsageError(f"no measurement {unknown!r}; there are {', '.join(MEASURES)}")
    try:
        with tempfile.TemporaryDirectory(prefix="mqcore-bench-") as folder:
            rows = []
            for row in measure_quic(names, Path(folder), seconds, rounds, _progress):
                rows.append(row)
                if current().json:
                    write_json(attrs.asdict(row))
    except ChildFailed as error:
        print(f"mqcore: {error}", file=sys.stderr)
        end(1)
    finally:
        _progress("")
    if current().json:
        return
    words = {True: "yes", False: "NO", None: ""}
    cells = [
        (
            row.name,
            f"{row.value:,.2f}",
            row.unit,
            "" if row.beside is None else f"{row.beside:,.2f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.target,
            words[row.is_met] if row.target else "",
        )
        for row in rows
    ]
    write_table(cells, ("measured", "value", "unit", "limit", "ratio", "target", "met"))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _measure(
    row: Row, subjects: Sequence[str], rounds: int, settings: BenchSettings, failed: list[str]
) -> Mapping[str, list[float]]:
    """Measure ``row`` ``rounds`` times, the subjects taking turns, so that a noisy minute hits them alike."""
    work = {"probe": probe_for(row.work), "toy": toy_for(row.work), "mqcore": mqcore_for(row.work)}
    values: dict[str, list[float]] = {name: [] for name in SUBJECTS if name in subjects and work[name] is not None}
    for number in range(rounds):
        for name in values:
            _progress(f"{row.name}: {name}, {number + 1} of {rounds}")
            subject: Subject | None = work[name]
            assert subject is not None
            try:
                values[name].append(subject(settings))
            except ChildFailed as error:
                failed.append(f"{row.name}: {error}")
    _progress("")
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
