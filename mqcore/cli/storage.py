"""``mqcore storage``: what a broker has stored, and what that stands on, looked at; and brought elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import click

from mqcore.cli._moving import backup, migrate, restore
from mqcore.cli.shell import (
    Group,
    Verb,
    current,
    end,
    facts_in_words,
    in_words,
    output_options,
    progress,
    run_async,
    write_json,
    write_line,
    write_table,
)
from mqcore.errors import ConfigurationError, StorageError

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
    """Inspect, verify, move, back up and restore what a broker has stored; what is looked at is not changed.

    Beside a running broker it looks at all but the active tails, where the storage can be opened for reading only.
    """


for _verb in (migrate, backup, restore):
    command.add_command(_verb)


@command.command("verify", cls=Verb, examples=["mqcore storage verify mmap:///tmp/a --output json"])
@click.argument("url", metavar="URL")
@click.option("--log", "name", metavar="NAME", help="This log only.")
@output_options
def verify(url: str, name: str | None) -> None:
    """Check every header, offset, epoch and checksum of every log at URL. Status 5 when there is damage."""
    findings, beside_broker, _ = _look(url, name, _show_verdict)
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
        counted = ", ".join(f"{in_words(count)} {state}" for state, count in sorted(states.items()))
        write_line(f"{url}: {'no damage' if sound else 'DAMAGE'}; logs: {counted or 'none'}")
        if beside_broker:
            tails = f"its active tails (at most {in_words(unverified)} bytes)"
            write_line(f"a broker is running on it: {tails} were not verified")
    if not sound:
        end(DAMAGE_FOUND)


@command.command("inspect", cls=Verb, examples=["mqcore storage inspect mmap:///tmp/a --log identity --output json"])
@click.argument("url", metavar="URL")
@click.option("--log", "name", metavar="NAME", help="This log only.")
@output_options
def inspect(url: str, name: str | None) -> None:
    """Show what every log at URL holds: offsets, bytes, reigns, producers, and what is wrong with it."""
    findings, beside_broker, topics = _look(url, name, _show_json)
    if current().json:
        return
    columns = ("log", "topic", "kind", "state", "start", "end", "batches", "bytes")
    rows = [
        (
            each.name,
            topics.label(each.name),
            each.kind,
            each.state,
            each.start_offset,
            each.end_offset,
            each.batches,
            each.bytes_total,
        )
        for each in findings
    ]
    write_table(rows, columns)
    for each in findings:
        facts = [facts_in_words(each.facts)] if each.facts else []
        reigns = each.reigns if each.kind == "partition" else ()
        facts += [f"reign {number} from offset {offset}" for number, _, _, offset in reigns]
        for line in ([", ".join(facts)] if facts else []) + ([each.text] if each.text else []):
            write_line(f"{topics.label(each.name) or each.name}: {line}")
    if beside_broker:
        write_line("a broker is running on it: active tails are as they were a moment ago")


class _Topics:
    """Which topic a log belongs to: the metadata log knows, which is looked at before the partitions' logs."""

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}

    def place(self, log: str) -> dict[str, object]:
        """Name and partition of the topic that ``log`` belongs to; empty when it is of none, or of an unknown one."""
        topic_id, _, rest = log.partition("-")
        partition = rest.partition(".")[0]
        known = topic_id in self.names and partition.isdigit()
        return {"topic": self.names[topic_id], "partition": int(partition)} if known else {}

    def label(self, log: str) -> str:
        """The same as ``TOPIC/PARTITION``."""
        place = self.place(log)
        return f"{place['topic']}/{place['partition']}" if place else ""


@command.command("probe", cls=Verb, examples=["mqcore storage probe /d1", "mqcore storage probe /d1 --output json"])
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, resolve_path=True))
@output_options
def probe_directory(directory: str) -> None:
    """Show what lies below DIR: mount, file system, disk, the array under it; and what to mind before using it."""
    from mqcore.ports import probe_ground

    found = probe_ground(directory)
    mirrored, why = found.mirrored
    ground = attrs.asdict(found) | {"mirrored": mirrored, "because": why, "warnings": list(found.warnings)}
    if current().json:
        write_json(ground)
        return
    warnings, device = ground.pop("warnings"), ground.pop("device")
    write_table([(name, str(value)) for name, value in ground.items()], ("fact", "value"))
    devices = [device] if device else []
    for each in devices:
        devices += each.pop("below")
        write_line(f"device {', '.join(f'{name} {value}' for name, value in each.items() if value is not None)}")
    for text in warnings:
        write_line(f"mind: {text}")


def _show_json(finding: LogFinding, topics: _Topics) -> None:
    if current().json:
        write_json(finding.as_json() | topics.place(finding.name))


def _show_verdict(finding: LogFinding, topics: _Topics) -> None:
    if current().json:
        _show_json(finding, topics)
    elif finding.state != "whole" or (finding.text and not finding.unverified_bytes):
        label = topics.label(finding.name)
        name = f"{finding.name} ({label})" if label else finding.name
        write_line(f"{name}: {finding.state}{f': {finding.text}' if finding.text else ''}")


def _look(
    url: str, name: str | None, show: Callable[[LogFinding, _Topics], None]
) -> tuple[list[LogFinding], bool, _Topics]:
    """Return the findings of the logs at ``url``, each shown when it is there, whether a broker runs on it, topics."""
    from mqcore.abc import StorageContext
    from mqcore.broker import topic_names
    from mqcore.guarantees import Level
    from mqcore.limits import Limits
    from mqcore.log import StorageInspection
    from mqcore.ports import system_ports
    from mqcore.registry import create_storage

    limits = Limits()
    backend = create_storage(url, StorageContext(ports=system_ports(), limits=limits))
    levels = backend.capabilities
    if max(levels.append_level, levels.flush_level) <= Level.MEMORY:
        raise ConfigurationError(f"{url} keeps nothing outside the process of its broker: there is nothing to look at")
    findings: list[LogFinding] = []
    topics = _Topics()

    async def look() -> bool:
        async with StorageInspection(backend, limits) as inspection:
            with progress("verifying, bytes", None) as bar:
                async for finding in inspection.findings(name):
                    topics.names = topics.names or topic_names(inspection.records)
                    findings.append(finding)
                    bar.advance(finding.bytes_total)
                    show(finding, topics)
            return inspection.beside_broker

    try:
        beside_broker = run_async(look)
    except StorageError as error:
        if error.kind != "permission":
            raise
        raise StorageError(
            f"cannot look at {url}: this user may not; run it as the user that the broker runs as", kind="permission"
        ) from error
    if name is not None and not findings:
        raise ConfigurationError(f"{url} has no log called {name!r}; 'mqcore storage inspect {url}' lists them")
    return findings, beside_broker, topics
