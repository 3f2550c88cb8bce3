"""The verb ``conformance``: run, list, explain, replay, selftest, matrix, diff."""

from __future__ import annotations

from pathlib import Path

import click

from mqcore.cli.shell import (
    Duration,
    Group,
    Verb,
    current,
    end,
    output_options,
    refuse,
    write_json,
    write_line,
    write_table,
)
from mqcore.guarantees import CLAUSES
from mqcore_conformance._selftest_command import selftest
from mqcore_conformance.checkers import CHECKERS, NOT_BUILT, check_history
from mqcore_conformance.plans import FAMILIES, FLUSH_POLICIES
from mqcore_conformance.report import (
    EXIT_CODES,
    Record,
    ReportFile,
    diff,
    exit_code_of,
    explain_failure,
    load_repro,
    matrix,
    read_records,
    write_pages,
)
from mqcore_conformance.runner import STORAGES, TIERS, TRANSPORTS, Request, plan_cells, run_request

__all__ = ["conformance"]

RUNS_PER_SECOND = 8
CONTRACT_SECONDS = {"storage": 2, "transport": 2}


def _split(value: str, everything: tuple[str, ...]) -> tuple[str, ...]:
    return everything if value == "all" else tuple(part.strip() for part in value.split(",") if part.strip())


def _storages(values: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for value in values or ("all",):
        if value == "all":
            found += STORAGES
        else:
            known = {url.partition(":")[0]: url for url in STORAGES}
            found.append(known.get(value, value))
    return tuple(dict.fromkeys(found))


def _request_options(function: click.Command) -> click.Command:
    for option in (
        click.option(
            "--storage", multiple=True, metavar="URL", help="A storage URL with {dir}, its name, or all (default)."
        ),
        click.option(
            "--transport", default="all", metavar="NAMES", help="tcp, unix, inproc; by comma, or all (default)."
        ),
        click.option(
            "--flush", default="all", metavar="NAMES", help="sync, async, none; by comma, or all (default)."
        ),
        click.option(
            "--family", default="all", metavar="NAMES", help="Families of faults; all leaves out crash-points."
        ),
        click.option(
            "--tier", default="contract,T0", metavar="NAMES", help="contract, T0, T1; by comma. [contract,T0]"
        ),
        click.option("--clause", default="", metavar="IDS", help="Judge these clauses only, such as G01,G11."),
        click.option("--cell", default="", metavar="TEXT", help="Only cells whose name contains this."),
        click.option("--seeds", default=2, type=click.IntRange(1), show_default=True, help="Seeds per cell."),
        click.option(
            "--first-seed", default=0, type=click.IntRange(0), show_default=True, help="The first of them."
        ),
        click.option(
            "--budget", type=Duration, metavar="DURATION", help="Stop after this time; the rest is left out."
        ),
        click.option("--jobs", default=1, type=click.IntRange(1, 64), show_default=True, help="Processes."),
    ):
        function = option(function)
    return function


def _request(options: dict[str, object]) -> Request:
    seeds, first, budget_ms = int(str(options["seeds"])), int(str(options["first_seed"])), options["budget"]
    storage = options["storage"]
    assert isinstance(storage, tuple)
    return Request(
        storages=_storages(storage),
        transports=_split(str(options["transport"]), TRANSPORTS),
        flushes=_split(str(options["flush"]), tuple(FLUSH_POLICIES)),
        families=_split(str(options["family"]), tuple(FAMILIES)),
        tiers=_split(str(options["tier"]), TIERS),
        clauses=_split(str(options["clause"]), ()),
        cells=str(options["cell"]),
        seeds=tuple(range(first, first + seeds)),
        budget_s=int(str(budget_ms)) / 1000 if budget_ms is not None else None,
        jobs=int(str(options["jobs"])),
    )


@click.group(
    cls=Group,
    examples=[
        "mqcore conformance list --estimate",
        "mqcore conformance run --storage all --transport all --tier contract,T0 --to report",
        "mqcore conformance selftest",
    ],
)
@output_options
def conformance() -> None:
    """Test storages, transports and builds clause by clause, under faults.

    Exit status: 0 conformant, 1 violation, 2 wrong usage, 3 liveness, 4 incomplete or inconclusive, 5 engine.
    """


@conformance.command(
    "run",
    cls=Verb,
    examples=[
        "mqcore conformance run --storage mmap --transport tcp --seeds 20 --to report",
        "mqcore conformance run --storage 'shelf://{dir}' --transport tcp --to report",
        "mqcore conformance run --clause G01 --family power-cut --budget 60s --to report",
    ],
)
@_request_options  # type: ignore[arg-type]
@click.option(
    "--to",
    "folder",
    default="report",
    show_default=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report; the same folder goes on with a run that was interrupted.",
)
@output_options
def run(folder: Path, **options: object) -> None:
    """Run checks and cells, one line each; a run that was interrupted goes on where it ended."""
    request = _request(options)
    arguments = {
        name: list(value) if isinstance(value, tuple) else value for name, value in sorted(options.items())
    }
    arguments.pop("jobs")
    arguments.pop("budget")
    report = ReportFile(folder, arguments)
    complete = False
    try:
        complete = run_request(request, report, _tell)
    except KeyboardInterrupt:
        click.echo("interrupted: the report holds what was finished; the same command goes on", err=True)
    finally:
        write_pages(folder, report.records)
        report.close()
    code = exit_code_of(report.records, complete=complete)
    meaning = next(name for name, number in EXIT_CODES.items() if number == code)
    if not current().json:
        write_line(f"{meaning}: {folder}/report.html")
    end(code)


def _tell(record: Record) -> None:
    if current().json:
        write_json(record)
        return
    seconds = f"{record['seconds']:6.1f} s"
    detail = record.get("text") or record.get("reason") or ""
    if record["kind"] == "cell" and record["failures"]:
        failure = record["failures"][0]
        texts = [one["text"] for one in failure["violations"]] or [failure["error"]]
        detail = f"{texts[0]}; replay: {failure['repro']}"
    write_line(f"{record['status']:12} {record['name']:44} {seconds}  {detail[:300]}".rstrip())


@conformance.command("list", cls=Verb, examples=["mqcore conformance list --estimate"])
@_request_options  # type: ignore[arg-type]
@click.option("--estimate", is_flag=True, help="Also say how long it takes.")
@output_options
def list_cells(estimate: bool, **options: object) -> None:
    """List clauses, and the cells that would run."""
    request = _request(options)
    cells = list(plan_cells(request))
    if current().json:
        for cell, why in cells:
            write_json({"cell": cell.name, "not_run": why})
        return
    write_table(
        [(clause, facts.name, NOT_BUILT.get(clause, "checked")) for clause, facts in CLAUSES.items()],
        ("clause", "name", "here"),
    )
    write_line()
    write_table([(cell.name, why or f"{len(request.seeds)} seeds") for cell, why in cells], ("cell", "what runs"))
    if estimate:
        runs = sum(1 for _, why in cells if not why) * len(request.seeds)
        parts = len(request.storages) * CONTRACT_SECONDS["storage"]
        parts += len(request.transports) * CONTRACT_SECONDS["transport"]
        seconds = runs / RUNS_PER_SECOND / request.jobs + (parts if "contract" in request.tiers else 0)
        write_line(
            f"\nabout {seconds:.0f} s: {runs} simulated runs in {sum(1 for _, why in cells if not why)} cells"
        )


@conformance.command("explain", cls=Verb, examples=["mqcore conformance explain G11"])
@click.argument("clause")
def explain(clause: str) -> None:
    """Tell what a clause promises and how it is checked."""
    facts = CLAUSES.get(clause.upper())
    if facts is None:
        refuse(f"no clause {clause!r}; one of {', '.join(CLAUSES)}")
    write_line(f"{facts.id} {facts.name}\n\n{facts.statement}\n")
    checker = CHECKERS.get(facts.id)
    write_line(f"checked: {(checker.__doc__ or '').strip()}" if checker else f"not checked: {NOT_BUILT[facts.id]}")


@conformance.command("replay", cls=Verb, examples=["mqcore conformance replay report/repro/7f3a90b1"])
@click.argument("repro", type=click.Path(exists=True, path_type=Path))
@output_options
def replay(repro: Path) -> None:
    """Run the plan of a repro again and judge it."""
    from mqcore_conformance.cells import Failure
    from mqcore_conformance.simulation import run_plan

    plan = load_repro(repro)
    result = run_plan(plan)
    violations = check_history(result.history) if not result.error else []
    failure = Failure(seed=plan.seed, plan=plan, violations=tuple(violations), result=result)
    if current().json:
        write_json({"plan": plan.name, "digest": result.digest, "violations": list(map(str, violations))})
    else:
        for line in explain_failure(failure):
            write_line(line)
        write_line(
            f"history {result.digest}: " + (f"{len(violations)} violations" if violations else "every clause holds")
        )
    if result.error:
        end(EXIT_CODES["engine"])
    liveness_only = violations and all(violation.clause == "G13" for violation in violations)
    end(EXIT_CODES["liveness" if liveness_only else "violation" if violations else "conformant"])


conformance.add_command(selftest)


@conformance.command("matrix", cls=Verb, examples=["mqcore conformance matrix report"])
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
def show_matrix(folder: Path) -> None:
    """Print the matrix of a report, and write its pages again."""
    records = read_records(folder / "report.jsonl")
    write_pages(folder, records)
    write_line(matrix(records))


@conformance.command("diff", cls=Verb, examples=["mqcore conformance diff report-old report-new"])
@click.argument("old", type=click.Path(exists=True, path_type=Path))
@click.argument("new", type=click.Path(exists=True, path_type=Path))
def show_diff(old: Path, new: Path) -> None:
    """Print what changed colour from one report to another; status 1 when something did."""
    lines = diff(read_records(old / "report.jsonl"), read_records(new / "report.jsonl"))
    for line in lines:
        write_line(line)
    if not lines:
        write_line("nothing changed colour")
    end(1 if lines else 0)
