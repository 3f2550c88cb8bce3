"""``mqcore plugins``: which parts are installed, what they declare, and whether they keep their contract."""

from __future__ import annotations

import click

from mqcore.cli.shell import Group, Verb, current, end, output_options, refuse, write_json, write_line, write_table

__all__ = ["command"]


@click.group("plugins", cls=Group, examples=["mqcore plugins list", "mqcore plugins check storage/mmap"])
@output_options
def command() -> None:
    """List and check the installed parts."""


@command.command("list", cls=Verb, examples=["mqcore plugins list --output json | jq .name"])
@output_options
def list_parts() -> None:
    """List every installed part: its group, the name or scheme that picks it, and where it comes from."""
    from mqcore.registry import GROUPS, installed

    parts = [item for group in GROUPS for item in installed(group)]
    if current().json:
        for item in parts:
            keys = ("group", "name", "distribution", "version", "target")
            write_json({key: getattr(item, key) for key in keys})
        return
    rows = [(item.group, item.name, f"{item.distribution} {item.version}".strip(), item.target) for item in parts]
    write_table(rows, ("group", "name", "from", "class"))


@command.command(
    "check", cls=Verb, examples=["mqcore plugins check", "mqcore plugins check storage/shelf --url shelf:///tmp/s"]
)
@click.argument("parts", nargs=-1, metavar="[GROUP/NAME]...")
@click.option("--url", help="A URL that the part understands, to check its options too (with one GROUP/NAME).")
@output_options
def check_parts(parts: tuple[str, ...], url: str | None) -> None:
    """Load parts (all of them by default) and hold each against its contract. Status 1 when one breaks it."""
    from mqcore.abc import StorageContext
    from mqcore.ports import system_ports
    from mqcore.registry import check, list_plugins

    if url is not None and len(parts) != 1:
        refuse("--url goes with exactly one GROUP/NAME")
    context = StorageContext(ports=system_ports())
    reports = list_plugins(context) if not parts else []
    for part in parts:
        group, slash, name = part.partition("/")
        if not slash:
            refuse(f"{part!r}: write GROUP/NAME, as in storage/mmap; 'mqcore plugins list' shows them")
        reports.append(check(group, name, url=url, context=context))
    for report in reports:
        if current().json:
            write_json(report)
        else:
            known = report.capabilities or {}
            facts = ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)
            write_line(f"{report.group}/{report.name}: {report.problem or 'good'}{f'  ({facts})' if facts else ''}")
    if any(report.problem for report in reports):
        end(1)
