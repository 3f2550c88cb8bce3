"""``mqcore topic``: create, list, describe, alter and delete the topics of a broker."""

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
    from mqcore.client import Admin, TopicInfo, TopicSummary

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")
KEYS = ("flush", "weakest-send", "visible", "private-tags")


@click.group(
    "topic",
    cls=Group,
    examples=["mqcore topic create lines --partitions 4", "mqcore topic list", "mqcore topic describe lines"],
)
@connection_options
@output_options
def command() -> None:
    """Create, list, describe, alter and delete topics."""


def _common(function: F) -> F:
    return connection_options(output_options(function))


def _config_options(function: F) -> F:
    options = (
        click.option("--flush", metavar="POLICY", help="Flush policy of this topic: sync, async(...) or none."),
        click.option("--weakest-send", metavar="POLICY", help="Weakest policy that a single send may ask for."),
        click.option(
            "--visible", type=click.Choice(["committed", "stable"]), help="When consumers see a message."
        ),
        click.option(
            "--private-tag",
            "private_tags",
            type=click.IntRange(128, 255),
            multiple=True,
            help="Tag of a private codec or body encoding that batches may have; repeatable.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _changes(given: dict[str, Any]) -> dict[str, object]:
    return {key: value for key, value in given.items() if value not in (None, ())}


def _ask(request: Callable[[Admin], Awaitable[R]]) -> R:
    from mqcore.cli._client import connected

    settings = current()

    async def ask() -> R:
        async with connected(settings) as client:
            return await request(client.admin)

    return run_async(ask)


@command.command(
    "create",
    cls=Verb,
    examples=["mqcore topic create lines --partitions 4", "mqcore topic create audit --flush sync"],
)
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1), default=1, show_default=True, help="Can only be raised.")
@_config_options
@_common
def create(name: str, partitions: int, **config: Any) -> None:
    """Create the topic NAME."""
    topic = _ask(lambda admin: admin.create_topic(name, partitions, _changes(config)))
    _show(topic, f"created {topic.name} with {_partitions(topic)}")


@command.command(
    "alter", cls=Verb, examples=["mqcore topic alter lines --partitions 8", "mqcore topic alter lines --reset flush"]
)
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1), help="A larger number than now.")
@_config_options
@click.option("--reset", type=click.Choice(KEYS), multiple=True, help="Back to its default; repeatable.")
@_common
def alter(name: str, partitions: int | None, reset: tuple[str, ...], **config: Any) -> None:
    """Change the topic NAME; what is not named stays as it is."""
    changes = _changes(config)
    resets: dict[str, object] = {key.replace("-", "_"): None for key in reset}
    for key in sorted(changes.keys() & resets.keys()):
        option = {"private_tags": "private-tag"}.get(key, key.replace("_", "-"))
        refuse(f"--{option} sets what --reset {key.replace('_', '-')} takes back: give one of the two")
    changes.update(resets)
    if not changes and partitions is None:
        refuse("nothing to alter: name at least one key, as in --partitions 8 or --flush sync")
    topic = _ask(lambda admin: admin.alter_topic(name, partitions, changes))
    _show(topic, f"altered {topic.name}: {_partitions(topic)}{_config(topic)}")


@command.command("delete", cls=Verb, examples=["mqcore topic delete lines --yes"])
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@_common
def delete(name: str, yes: bool) -> None:
    """Delete the topic NAME with all its messages."""
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            refuse(f"deleting {name} deletes all its messages, and there is no terminal to ask: add --yes")
        if not click.confirm(f"Delete topic {name} and all its messages?", err=True):
            refuse(f"{name} was not deleted")
    topic_id = _ask(lambda admin: admin.delete_topic(name))
    if current().json:
        write_json({"name": name, "id": topic_id})
    else:
        write_line(f"deleted {name}")


@command.command("list", cls=Verb, examples=["mqcore topic list --output json | jq -r .name"])
@_common
def list_topics() -> None:
    """List the topics."""
    topics = _ask(lambda admin: admin.list_topics())
    if current().json:
        for topic in topics:
            write_json(attrs.asdict(topic))
    else:
        write_table([(topic.name, topic.partitions) for topic in topics], ("topic", "partitions"))


@command.command(
    "describe", cls=Verb, examples=["mqcore topic describe lines", "mqcore topic describe lines --output json"]
)
@click.argument("name")
@_common
def describe(name: str) -> None:
    """Show the configuration of the topic NAME, and what each partition holds."""
    topic = _ask(lambda admin: admin.describe_topic(name))
    if current().json:
        write_json(attrs.asdict(topic))
        return
    write_line(f"{topic.name}: {_partitions(topic)}{_config(topic)}")
    columns = ("partition", "start_offset", "committed_offset", "end_offset", "bytes")
    rows = [tuple(getattr(log, key) for key in columns) for log in topic.logs]
    write_table(rows, ("partition", "start", "committed", "end", "bytes"))
    for log in topic.logs:
        if log.failure:
            write_line(f"partition {log.partition} stopped: {log.failure}")
        for first, following in log.damaged:
            write_line(f"partition {log.partition}: offsets {first} to {following - 1} are damaged")


def _partitions(topic: TopicSummary) -> str:
    count = topic.partitions
    return f"{count} partition{'s' if count != 1 else ''}"


def _config(topic: TopicInfo) -> str:
    config = {key: value for key, value in topic.config.items() if key != "partitions"}
    return "".join(f", {key} {value}" for key, value in sorted(config.items()))


def _show(topic: TopicInfo, text: str) -> None:
    if current().json:
        write_json(attrs.asdict(topic))
    else:
        write_line(text)
