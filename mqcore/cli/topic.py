"""``mqcore topic``: create, list, describe, alter and delete the topics of a broker."""

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
    refuse,
    write_json,
    write_line,
    write_table,
)
from mqcore.units import format_bytes, format_duration_ms, parse_bytes, parse_duration_ms

if TYPE_CHECKING:
    from mqcore.client import Admin, Client, TopicInfo, TopicSummary

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")
KEYS = (
    *("flush", "replication", "weakest-send", "visible", "retention", "retention-bytes"),
    *("dead-letter-topic", "private-tags"),
)
_FIELDS = {"retention": "retention_ms", "dead-letter-topic": "dead_letter"}
REPLICATION_ARGUMENTS = ("copies", "level", "on_missing", "max_delay", "on_exceeded")


@click.group(
    "topic",
    cls=Group,
    examples=["mqcore topic create lines --partitions 4", "mqcore topic list", "mqcore topic describe lines"],
)
@connection_options
@output_options
def command() -> None:
    """Create, list, describe, alter and delete topics."""


def _duration_ms(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    return _parsed(parameter, value, parse_duration_ms)


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    return _parsed(parameter, value, parse_bytes)


def _parsed(parameter: click.Parameter, value: str | None, parse: Callable[[str], int]) -> int | None:
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _config_options(function: F) -> F:
    options = (
        click.option("--flush", metavar="POLICY", help="Flush policy of this topic: sync, async(...) or none."),
        click.option(
            "--replication", metavar="POLICY", help="Replication policy of this topic: sync, async, none, or its text."
        ),
        click.option("--copies", type=click.IntRange(2), help="sync: nodes that hold a message, the primary included."),
        click.option(
            "--level",
            type=click.Choice(["memory", "page-cache", "disk", "mirror"]),
            help="sync: level at which each of them holds it.",
        ),
        click.option(
            "--on-missing", type=click.Choice(["block", "reject"]), help="sync: sends while too few nodes are in sync."
        ),
        click.option("--max-delay", metavar="DURATION", help="async: how far a replica may trail."),
        click.option(
            "--on-exceeded", type=click.Choice(["report", "throttle"]), help="async: what happens when it trails more."
        ),
        click.option("--weakest-send", metavar="POLICY", help="Weakest policy that a single send may ask for."),
        click.option("--visible", type=click.Choice(["committed", "stable"]), help="When consumers see a message."),
        click.option(
            "--retention",
            "retention_ms",
            metavar="DURATION",
            callback=_duration_ms,
            help="Messages that are older go; 0: never by age.",
        ),
        click.option(
            "--retention-bytes",
            metavar="SIZE",
            callback=_bytes,
            help="The oldest messages of a partition go while it holds more; 0: never by size.",
        ),
        click.option(
            "--dead-letter-topic",
            "dead_letter",
            metavar="TOPIC",
            help="Where its consumers send what they fail to handle.",
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
    changes = {key: value for key, value in given.items() if value not in (None, ())}
    arguments = {key: changes.pop(key) for key in REPLICATION_ARGUMENTS if key in changes}
    if arguments:
        first = next(iter(arguments)).replace("_", "-")
        policy = changes.get("replication")
        if policy is None:
            refuse(f"--{first} says how to replicate: add --replication sync or --replication async")
        if "(" in policy:
            refuse(f"--{first} and the arguments in --replication {policy!r} say the same: give one of the two")
        changes["replication"] = f"{policy}({', '.join(f'{key}={value}' for key, value in arguments.items())})"
    return changes


@command.command(
    "create",
    cls=Verb,
    examples=[
        "mqcore topic create lines --partitions 4",
        "mqcore topic create audit --flush sync",
        "mqcore topic create jobs --retention 1h --retention-bytes '1 GB' --dead-letter",
        "mqcore topic create orders --partitions 8 --replication sync --copies 2 --level disk",
    ],
)
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1), default=1, show_default=True, help="Can only be raised.")
@click.option(
    "--dead-letter",
    "with_dead_letter",
    is_flag=True,
    help="Also create NAME.dead-letter, unless it is there, for what its consumers fail to handle.",
)
@_config_options
@verb_options
def create(name: str, partitions: int, with_dead_letter: bool, **config: Any) -> None:
    """Create the topic NAME."""
    from mqcore.delivery import DEAD_LETTER_SUFFIX

    changes = _changes(config)
    if with_dead_letter:
        if "dead_letter" in changes:
            refuse("--dead-letter names the topic itself, --dead-letter-topic names another one: give one of the two")
        changes["dead_letter"] = name + DEAD_LETTER_SUFFIX

    async def created(client: Client) -> TopicInfo:
        if with_dead_letter:
            await _create_if_missing(client.admin, name + DEAD_LETTER_SUFFIX)
        return await client.admin.create_topic(name, partitions, changes)

    topic = ask(created)
    told = f", dead letters to {changes['dead_letter']}" if with_dead_letter else ""
    _show(topic, f"created {topic.name} with {_partitions(topic)}{told}")


async def _create_if_missing(admin: Admin, name: str) -> None:
    from mqcore.errors import RejectedError

    try:
        await admin.create_topic(name, 1, {"retention_ms": 0, "retention_bytes": 0})
    except RejectedError as error:
        if error.name != "topic-exists":
            raise


@command.command(
    "alter", cls=Verb, examples=["mqcore topic alter lines --partitions 8", "mqcore topic alter lines --reset flush"]
)
@click.argument("name")
@click.option("--partitions", type=click.IntRange(1), help="A larger number than now.")
@_config_options
@click.option("--reset", type=click.Choice(KEYS), multiple=True, help="Back to its default; repeatable.")
@verb_options
def alter(name: str, partitions: int | None, reset: tuple[str, ...], **config: Any) -> None:
    """Change the topic NAME; what is not named stays as it is."""
    changes = _changes(config)
    resets: dict[str, object] = {_FIELDS.get(key, key.replace("-", "_")): None for key in reset}
    for key in sorted(changes.keys() & resets.keys()):
        names = {"private_tags": "private-tag", "retention_ms": "retention", "dead_letter": "dead-letter-topic"}
        option = names.get(key, key.replace("_", "-"))
        refuse(f"--{option} sets what --reset {key.replace('_', '-')} takes back: give one of the two")
    changes.update(resets)
    if not changes and partitions is None:
        refuse("nothing to alter: name at least one key, as in --partitions 8 or --flush sync")
    topic = ask(lambda client: client.admin.alter_topic(name, partitions, changes))
    _show(topic, f"altered {topic.name}: {_partitions(topic)}{_config(topic)}")


@command.command("delete", cls=Verb, examples=["mqcore topic delete lines --yes"])
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@verb_options
def delete(name: str, yes: bool) -> None:
    """Delete the topic NAME with all its messages."""
    if not yes:
        confirm(
            f"deleting {name} deletes all its messages",
            f"Delete topic {name} and all its messages?",
            f"{name} was not deleted",
        )
    topic_id = ask(lambda client: client.admin.delete_topic(name))
    if current().json:
        write_json({"name": name, "id": topic_id})
    else:
        write_line(f"deleted {name}")


@command.command("list", cls=Verb, examples=["mqcore topic list --output json | jq -r .name"])
@verb_options
def list_topics() -> None:
    """List the topics."""
    topics = ask(lambda client: client.admin.list_topics())
    if current().json:
        for topic in topics:
            write_json(attrs.asdict(topic))
    else:
        write_table([(topic.name, topic.partitions) for topic in topics], ("topic", "partitions"))


@command.command(
    "describe", cls=Verb, examples=["mqcore topic describe lines", "mqcore topic describe lines --output json"]
)
@click.argument("name")
@verb_options
def describe(name: str) -> None:
    """Show the configuration of the topic NAME, and what each partition holds."""
    topic = ask(lambda client: client.admin.describe_topic(name))
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


@command.command("confirm-clock", cls=Verb, examples=["mqcore topic confirm-clock"])
@verb_options
def confirm_clock() -> None:
    """Say that the broker's wall clock is right, so that messages are trimmed by age again after it was set."""
    step_ms = ask(lambda client: client.admin.confirm_clock())
    if current().json:
        write_json({"step_ms": step_ms})
    else:
        write_line(f"confirmed: the clock had been set by {step_ms / 1000:+g} s since the broker started")


def _partitions(topic: TopicSummary) -> str:
    count = topic.partitions
    return f"{count} partition{'s' if count != 1 else ''}"


def _config(topic: TopicInfo) -> str:
    config = {key: value for key, value in topic.config.items() if key != "partitions"}
    return "".join(f", {_shown(key, value)}" for key, value in sorted(config.items()))


def _shown(key: str, value: object) -> str:
    if isinstance(value, int) and key in ("retention_ms", "retention_bytes"):
        text = format_duration_ms(value) if key == "retention_ms" else format_bytes(value)
        return f"{key.removesuffix('_ms')} {text if value else 'never'}"
    return f"{key} {value}"


def _show(topic: TopicInfo, text: str) -> None:
    if current().json:
        write_json(attrs.asdict(topic))
    else:
        write_line(text)
