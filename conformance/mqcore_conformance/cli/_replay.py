"""The verb ``conformance replay``: what failed is done again from its folder, whatever tier it was seen in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mqcore.cli.shell import Verb, current, end, output_options, write_json, write_line
from mqcore.errors import ConfigurationError, MqcoreError
from mqcore.guarantees import parse_flush
from mqcore.registry import find
from mqcore_conformance.cells import Failure
from mqcore_conformance.contract import CHECK_FILE, explain_check, load_check_repro, replay_check
from mqcore_conformance.plans import EVERY_FAMILY, MEMBER_FAMILIES
from mqcore_conformance.play import RunResult, run_until_shown
from mqcore_conformance.report import EXIT_CODES, Repro, cell_of_repro, explain_failure, load_repro
from mqcore_conformance.running import suggest
from mqcore_conformance.verdicts import Status, Violation
from mqcore_conformance.worlds.model import why_not_on_the_model_network

_DEATHS = ("process-kill", "power-cut", "stop")
_NETWORK = ("cut", "cut-to-broker", "cut-from-broker", "reset", "flap", "break", "refuse")
_DISK = ("flush-error", "full", "io-error", "stall", "power-cut-in-stall", "rot", "rot-identity")
_PEERS = ("peer-garbage", "peer-half-frame", "peer-huge-length", "peer-deaf", "peer-silent", "peer-flood")
_PROXY = ("proxy-cut", "proxy-stall", "proxy-duplicate")
_CUTS_OF_A_SET = ("isolate", "cut-peers", "cut-to-peers", "cut-from-peers", "flap-peers")
_DISKS_OF_A_SET = ("emptied", "cloned", "backup", "old-copy")
_COORDINATOR = ("coordinator-cut", "coordinator-slow", "coordinator-all-frozen", "coordinator-all-backup",
                "coordinator-all-restored")  # fmt: skip
_ENDINGS = ("none", *_DEATHS)
_FAULT_KINDS = {
    # a fault of an array's member is called as its family is
    ("T0", "broker"): (*_DEATHS, *_DISK, *_NETWORK, *_PEERS, *MEMBER_FAMILIES, "wall-jump"),
    ("T1", "broker"): (*_DEATHS, "pause", "full", "flush-error", *_PROXY),
    ("T0", "set"): (*_DEATHS, *_DISK, *_CUTS_OF_A_SET, *_DISKS_OF_A_SET, *_COORDINATOR, "clock-drift", "wall-jump"),
    ("T1", "set"): (*_DEATHS, "pause", "full", "flush-error", "coordinator-frozen", *_PROXY),
}
"""What each tier can inject: a plan of another version may name what would just not happen here."""
ATTEMPTS_IN_REAL_TIME = 5
"""T1 runs in real time: what it shows once need not come back at once."""


@click.command("replay", cls=Verb, examples=["mqcore conformance replay report/repro/7f3a90b1"])
@click.argument("repro", metavar="FOLDER", type=click.Path(exists=True, path_type=Path))
@output_options
def replay(repro: Path) -> None:
    """Do again what failed, and judge it: status 1 while it fails, 0 once it is mended."""
    if repro.is_dir() and (repro / CHECK_FILE).exists():
        _replay_check(repro)
    else:
        _replay_plan(load_repro(repro))


def _replay_check(folder: Path) -> None:
    repro = load_check_repro(folder)
    result = replay_check(repro)
    passes = result.status is not Status.FAIL
    if current().json:
        write_json({"check": repro.check.name, "url": repro.url, "status": result.status.value, "text": result.text})
    else:
        for line in explain_check(repro.url, result):
            write_line(line)
        write_line("mended: the check passes now" if passes else "it fails as before")
    end(EXIT_CODES["conformant" if passes else "violation"])


def _replay_plan(repro: Repro) -> None:
    check_plan(repro)
    result, violations, runs = _run(repro)
    if current().json:
        facts = {"cell": repro.cell, "seed": repro.plan.seed, "digest": result.digest, "error": result.error}
        write_json({**facts, "runs": runs, "violations": [str(one) for one in violations]})
    else:
        _tell(repro, result, violations, runs)
    if result.error:
        end(EXIT_CODES["engine"])
    liveness_only = bool(violations) and all(violation.clause == "G13" for violation in violations)
    end(EXIT_CODES["liveness" if liveness_only else "violation" if violations else "conformant"])


def check_plan(repro: Repro) -> None:
    """Refuse a plan that this installation cannot run; it may have been written by hand, or elsewhere."""
    plan = repro.plan
    _refuse_unless_among("fault family", plan.family, EVERY_FAMILY)
    is_set = plan.nodes > 1
    for fault in plan.faults:
        kinds = _FAULT_KINDS[repro.tier, "set" if is_set else "broker"]
        _refuse_unless_among(f"fault kind of {repro.tier}", fault.kind, kinds)
    for ending in (plan.last_ending, plan.before_drain):
        _refuse_unless_among("ending of a life", ending, (*_ENDINGS, "switchover") if is_set else _ENDINGS)
    find("storage", repro.plan.storage.partition(":")[0])
    find("transports", repro.plan.transport)
    why = why_not_on_the_model_network(repro.plan.transport) if repro.tier == "T0" else ""
    if why:
        raise ConfigurationError(f"the plan's transport {repro.plan.transport!r}: {why}")
    if repro.plan.flush is not None:
        try:
            parse_flush(repro.plan.flush)
        except (MqcoreError, ValueError) as error:
            raise ConfigurationError(f"the plan's flush policy: {error}") from None


def _refuse_unless_among(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ConfigurationError(f"the plan's {what} {name!r} is unknown here{suggest(name, known)}")


def _run(repro: Repro) -> tuple[RunResult, Sequence[Violation], int]:
    """Run it, in real time until it shows: the last result, what is wrong with it, and how many runs there were."""
    return run_until_shown(repro.plan, tries=1 if repro.tier == "T0" else ATTEMPTS_IN_REAL_TIME)


def _tell(repro: Repro, result: RunResult, violations: Sequence[Violation], runs: int) -> None:
    if violations or result.error:
        failure = Failure(seed=repro.plan.seed, plan=repro.plan, violations=tuple(violations), result=result)
        for line in explain_failure(failure, cell_of_repro(repro)):
            write_line(line)
    else:
        write_line(f"{repro.cell}, seed {repro.plan.seed}: {len(result.history)} events, history {result.digest}")
    broken = sorted({violation.clause for violation in violations})
    if result.error:
        return
    before = f" ({', '.join(repro.clauses)} failed when this was written)" if repro.clauses else ""
    if not violations:
        if repro.tier == "T1":
            write_line(f"not seen in {runs} runs; time is real here, so that it may be mended or hide{before}")
        else:
            write_line(f"mended: every clause holds{before}")
    elif repro.clauses and not set(broken) & set(repro.clauses):
        write_line(f"it fails otherwise now: {', '.join(broken)}{before}")
    else:
        times = f" (seen in run {runs} of at most {ATTEMPTS_IN_REAL_TIME})" if repro.tier == "T1" else ""
        write_line(f"it fails as before{times}" if repro.clauses else f"broken: {', '.join(broken)}{times}")
