"""``mqcore group``: list, describe, reset and delete consumer groups."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from mqcore.cli._broker_verbs import ask, confirm, verb_options
from mqcore.cli._moments import parse_start
from mqcore.cli.shell import (
    Group,
    Verb,
    connection_options,
    current,
    output_options,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    pass

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


@click.group(
    "group",
    cls=Group,
    examples=[
        "mqcore group list",
        "mqcore group describe g1 --output json",
        "mqcore group reset g1 --topic lines --to start",
    ],
)
@connection_options
@output_options
def command() -> None:
    """List, describe, reset and delete consumer groups."""


@command.command("list", cls=Verb, examples=["mqcore group list --output json | jq -r .name"])
@verb_options
def list_groups() -> None:
    """List the groups that have members or cursors."""
    groups = ask(lambda client: client.groups.list_groups())
    if current().json:
        for each in groups:
            write_json(attrs.asdict(each))
    else:
        rows = [(each.name, each.members, ", ".join(each.topics)) for each in groups]
        write_table(rows, ("group", "members", "topics"))


@command.command(
    "describe", cls=Verb, examples=["mqcore group describe g1", "mqcore group describe g1 --topic lines --output json"]
)
@click.argument("name")
@click.option("--topic", metavar="TOPIC", help="This one only.")
@verb_options
def describe(name: str, topic: str | None) -> None:
    """Show the members of the group NAME, and where it stands in each partition: cursor, end and lag."""
    states = ask(lambda client: client.groups.describe(name, topic))
    if current().json:
        write_json({"name": name, "topics": [attrs.asdict(each) for each in states]})
        return
    for state in states:
        lag = sum(each.lag for each in state.partitions)
        count = len(state.members)
        who = f"{count} member{'s' * (count > 1)}, shared out by {state.assignor}" if count else "no members"
        moving = "" if state.settled else ", moving"
        write_line(f"{name} in {state.topic}: {who}{moving}, lag {lag}")
        columns = ("name", "client", "partitions", "silent_ms", "session_ms")
        if state.members:
            write_table([tuple(getattr(each, key) for key in columns) for each in state.members], columns)
        rows = [
            (each.partition, "-" if each.offset is None else each.offset, each.end_offset, each.lag,
             each.member or "-", "" if each.status == "ok" else each.status)
            for each in state.partitions
        ]  # fmt: skip
        write_table(rows, ("partition", "cursor", "end", "lag", "member", ""))


@command.command(
    "reset",
    cls=Verb,
    examples=[
        "mqcore group reset g1 --topic lines --to start",
        "mqcore group reset g1 --topic lines --to @-10m",
        "mqcore group reset g1 --topic lines --to 1000 --partition 0",
    ],
)
@click.argument("name")
@click.option("--topic", required=True, metavar="TOPIC", help="Whose cursors are moved.")
@click.option("--to", required=True, metavar="WHERE", help="start, end, OFFSET or @TIME, as of consume --from.")
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, help="This one only; repeatable.")
@verb_options
def reset(name: str, topic: str, to: str, partitions: tuple[int, ...]) -> None:
    """Move the cursors of the group NAME, which has no members meanwhile."""
    where = parse_start(to, datetime.now(UTC), option="--to")
    moved = ask(lambda client: client.groups.reset(name, topic, where, list(partitions) or None))
    if current().json:
        for each in moved:
            write_json(attrs.asdict(each))
    else:
        rows = [(each.partition, "-" if each.before is None else each.before, each.offset) for each in moved]
        write_table(rows, ("partition", "before", "cursor"))


@command.command("delete", cls=Verb, examples=["mqcore group delete g1 --yes"])
@click.argument("name")
@click.option("--topic", metavar="TOPIC", help="Only the cursors of this one.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@verb_options
def delete(name: str, topic: str | None, yes: bool) -> None:
    """Delete the group NAME with all its cursors; it has no members meanwhile."""
    if not yes:
        confirm(
            f"deleting group {name} deletes its cursors",
            f"Delete group {name} and its cursors?",
            f"group {name} was not deleted",
        )
    topics = ask(lambda client: client.groups.delete(name, topic))
    if current().json:
        write_json({"name": name, "topics": topics})
    else:
        write_line(f"deleted {name}: its cursors in {', '.join(topics)}")
