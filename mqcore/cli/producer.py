"""``mqcore producer``: list, describe and delete names of producers."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from mqcore.cli.shell import (
    Group,
    Verb,
    connection_options,
    current,
    output_options,
    refuse,
    run_async,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from mqcore.client import ProducerAdmin

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


def _common(function: F) -> F:
    return connection_options(output_options(function))


def _ask(request: Callable[[ProducerAdmin], Awaitable[R]]) -> R:
    from mqcore.cli._client import connected

    settings = current()

    async def ask() -> R:
        async with connected(settings) as client:
            return await request(client.producers)

    return run_async(ask)


@command.command("list", cls=Verb, examples=["mqcore producer list --output json | jq -r .name"])
@_common
def list_producers() -> None:
    """List the names of producers, each with its topic and the epoch that was given out last."""
    names = _ask(lambda admin: admin.list_names())
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
@_common
def describe(name: str, topic: str) -> None:
    """Show what each partition of TOPIC has last stored under NAME.

    A process that claims the name is told the same, once it is committed.
    """
    described = _ask(lambda admin: admin.describe(name, topic))
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
@_common
def delete(name: str, topic: str, yes: bool) -> None:
    """Forget NAME: its process is refused from then on, and the next one begins as if nothing had been sent."""
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            refuse(f"deleting producer {name} forgets what it has stored, and there is no terminal to ask: add --yes")
        if not click.confirm(f"Delete producer {name} of topic {topic}?", err=True):
            refuse(f"producer {name} was not deleted")
    epoch = _ask(lambda admin: admin.delete(name, topic))
    if current().json:
        write_json({"name": name, "topic": topic, "epoch": epoch})
    else:
        write_line(f"deleted {name} of {topic}, which was at epoch {epoch}")
