"""``mqcore storage``: what a broker has stored, looked at and verified without changing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mqcore.cli.shell import (
    Group,
    Verb,
    current,
    end,
    output_options,
    progress,
    run_async,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from mqcore.log import LogFinding

__all__ = ["command"]

DAMAGE_FOUND = 5


@click.group(
    "storage",
    cls=Group,
    examples=["mqcore storage verify mmap:///tmp/a", "mqcore storage inspect mmap:///tmp/a --output json"],
)
@output_options
def command() -> None:
    """Inspect and verify what a broker has stored; nothing is changed.

    Beside a running broker it looks at all but the active tails, where the storage can be opened for reading only.
    """


@command.command("verify", cls=Verb, examples=["mqcore storage verify mmap:///tmp/a --output json"])
@click.argument("url", metavar="URL")
@click.option("--log", "name", metavar="NAME", help="This log only.")
@output_options
def verify(url: str, name: str | None) -> None:
    """Check every header, offset, epoch and checksum of every log at URL. Status 5 when there is damage."""
    findings, beside_broker = _look(url, name, _show_verdict)
    states = Counter(finding.state for finding in findings)
    sound = all(finding.is_sound for finding in findings)
    unverified = sum(finding.unverified_bytes for finding in findings)
    if current().json:
        write_json(
            {
                "summary": {
                    "storage": url,
                    "sound": sound,
                    "logs": len(findings),
                    "states": dict(states),
                    "messages": sum(finding.messages for finding in findings),
                    "beside_broker": beside_broker,
                    "unverified_bytes": unverified,
                }
            }
        )
    else:
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        write_line(f"{url}: {'no damage' if sound else 'DAMAGE'}; logs: {counted or 'none'}")
        if beside_broker:
            write_line(f"a broker is running on it: its active tails (at most {unverified} bytes) were not verified")
    if not sound:
        end(DAMAGE_FOUND)


@command.command("inspect", cls=Verb, examples=["mqcore storage inspect mmap:///tmp/a --log identity --output json"])
@click.argument("url", metavar="URL")
@click.option("--log", "name", metavar="NAME", help="This log only.")
@output_options
def inspect(url: str, name: str | None) -> None:
    """Show what every log at URL holds: offsets, bytes, reigns, producers, and what is wrong with it."""
    findings, beside_broker = _look(url, name, _show_json)
    if current().json:
        return
    rows = [
        (each.name, each.kind, each.state, each.start_offset, each.end_offset, each.batches, each.bytes_total)
        for each in findings
    ]
    write_table(rows, ("log", "kind", "state", "start", "end", "batches", "bytes"))
    for each in findings:
        facts = [f"{key} {value}" for key, value in each.facts.items()]
        reigns = each.reigns if each.kind == "partition" else ()
        facts += [f"reign {number} from offset {offset}" for number, _, _, offset in reigns]
        for line in ([", ".join(facts)] if facts else []) + ([each.text] if each.text else []):
            write_line(f"{each.name}: {line}")
    if beside_broker:
        write_line("a broker is running on it: active tails are as they were a moment ago")


def _show_json(finding: LogFinding) -> None:
    if current().json:
        write_json(finding.as_json())


def _show_verdict(finding: LogFinding) -> None:
    if current().json:
        write_json(finding.as_json())
    elif finding.state != "whole" or (finding.text and not finding.unverified_bytes):
        write_line(f"{finding.name}: {finding.state}{f': {finding.text}' if finding.text else ''}")


def _look(url: str, name: str | None, show: Callable[[LogFinding], None]) -> tuple[list[LogFinding], bool]:
    """Return the findings of the logs at ``url``, each shown when it is there, and whether a broker runs on it."""
    from mqcore.abc import StorageContext
    from mqcore.limits import Limits
    from mqcore.log import StorageInspection
    from mqcore.ports import system_ports
    from mqcore.registry import create_storage

    limits = Limits()
    backend = create_storage(url, StorageContext(ports=system_ports(), limits=limits))
    findings: list[LogFinding] = []

    async def look() -> bool:
        async with StorageInspection(backend, limits) as inspection:
            with progress("verifying, bytes", None) as bar:
                async for finding in inspection.findings(name):
                    findings.append(finding)
                    bar.advance(finding.bytes_total)
                    show(finding)
            return inspection.beside_broker

    beside_broker = run_async(look)
    if name is not None and not findings:
        from mqcore.errors import ConfigurationError

        raise ConfigurationError(f"{url} has no log called {name!r}; 'mqcore storage inspect {url}' lists them")
    return findings, beside_broker
