"""``mqcore producer``: list, describe and delete names of producers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from mqcore.cli._broker_verbs import ask, confirm, verb_options
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
    "producer",
    cls=Group,
    examples=[
        "mqcore producer list",
        "mqcore producer describe billing --topic lines",
        "mqcore producer delete billing --topic lines --yes",
    ],
)
@connection_options
@output_options
def command() -> None:
    """List, describe and delete names of producers, as of produce --producer-name."""


@command.command("list", cls=Verb, examples=["mqcore producer list --output json | jq -r .name"])
@verb_options
def list_producers() -> None:
    """List the names of producers, each with its topic and the epoch that was given out last."""
    names = ask(lambda client: client.producers.list_names())
    if current().json:
        for each in names:
            write_json(attrs.asdict(each))
    else:
        write_table([(each.name, each.topic, each.epoch) for each in names], ("producer", "topic", "epoch"))


@command.command(
    "describe",
    cls=Verb,
    examples=[
        "mqcore producer describe billing --topic lines",
        "mqcore producer describe billing --topic lines --output json",
    ],
)
@click.argument("name")
@click.option("--topic", required=True, metavar="TOPIC", help="Whose producer it is.")
@verb_options
def describe(name: str, topic: str) -> None:
    """Show what each partition of TOPIC has last stored under NAME.

    A process that claims the name is told the same, once it is committed.
    """
    described = ask(lambda client: client.producers.describe(name, topic))
    if current().json:
        write_json(attrs.asdict(described))
        return
    write_line(f"{name} in {topic}: epoch {described.epoch}")
    rows = [
        (each.partition, "-" if each.last_offset is None else each.last_offset, each.status)
        for each in described.partitions
    ]
    write_table(rows, ("partition", "last offset", ""))


@command.command("delete", cls=Verb, examples=["mqcore producer delete billing --topic lines --yes"])
@click.argument("name")
@click.option("--topic", required=True, metavar="TOPIC", help="Whose producer it is.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@verb_options
def delete(name: str, topic: str, yes: bool) -> None:
    """Forget NAME: its process is refused from then on, and the next one begins as if nothing had been sent."""
    if not yes:
        confirm(
            f"deleting producer {name} forgets what it has stored",
            f"Delete producer {name} of topic {topic}?",
            f"producer {name} was not deleted",
        )
    epoch = ask(lambda client: client.producers.delete(name, topic))
    if current().json:
        write_json({"name": name, "topic": topic, "epoch": epoch})
    else:
        write_line(f"deleted {name} of {topic}, which was at epoch {epoch}")
