"""``mqcore quarantine``: what was cut from a log and kept aside: list it, look at it, send it again, delete it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mqcore.cli._broker_verbs import confirm
from mqcore.cli._sets import common_options
from mqcore.cli.shell import (
    Group,
    Verb,
    connection_options,
    current,
    output_options,
    progress,
    refuse,
    run_async,
    write_json,
    write_line,
    write_table,
)

if TYPE_CHECKING:
    from mqcore.cli._kept_aside import KeptAside
    from mqcore.cli._replay import Replayed
    from mqcore.client import Message

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    "quarantine",
    cls=Group,
    examples=[
        "mqcore quarantine list",
        "mqcore quarantine list --storage mmap:///var/lib/mqcore",
        "mqcore quarantine show NAME",
        "mqcore quarantine replay NAME",
        "mqcore quarantine delete NAME --yes",
    ],
)
@connection_options
@output_options
def command() -> None:
    """Look at what nodes cut from their logs and kept aside, send it again, delete it.

    A node that comes back with messages which the reign that goes on does not have keeps them aside; so does a start
    that finds a torn tail. Nothing of it is ever deleted but by `delete`. All nodes of the cluster are asked, the one
    that --server names, or a stopped storage that --storage names.
    """


def _source_options(function: F) -> F:
    storage = click.option("--storage", metavar="URL", help="A storage without its broker, instead of a server.")
    return storage(common_options(function))


@command.command("list", cls=Verb, examples=["mqcore quarantine list", "mqcore quarantine list --output json"])
@_source_options
def list_suffixes(storage: str | None) -> None:
    """List what is kept aside: where, of which partition, how many messages, from which offset on."""
    found = run_async(_list, storage)
    if current().json:
        for each in found:
            write_json(_as_json(each))
        return
    rows = [
        (
            each.suffix.name,
            each.keeper.name,
            f"{each.suffix.topic or each.suffix.topic_id or '?'}/{each.suffix.partition}",
            each.suffix.messages,
            each.suffix.first_offset,
            each.suffix.bytes,
            each.suffix.unreadable_bytes,
        )
        for each in found
    ]
    write_table(rows, ("name", "node", "partition", "messages", "from offset", "bytes", "unreadable"))


@command.command(
    "show", cls=Verb, examples=["mqcore quarantine show NAME", "mqcore quarantine show NAME --output json"]
)
@click.argument("name")
@_source_options
def show(name: str, storage: str | None) -> None:
    """Print the messages of the side file NAME, a line each; with JSON, one object each, as `consume` does."""
    run_async(_show, name, storage)


@command.command(
    "replay", cls=Verb, examples=["mqcore quarantine replay NAME", "mqcore quarantine replay NAME --topic orders"]
)
@click.argument("name")
@click.option("--topic", help="Where to send, where the side file's own topic is not known any more or not wanted.")
@_source_options
def replay(name: str, topic: str | None, storage: str | None) -> None:
    """Send the messages of the side file NAME again, to the partition that they came from.

    They are new messages, at the log's end, under new offsets. What the log has already is skipped: a message with the
    same content and time, and what an earlier replay of the same file has sent. The file stays until it is deleted.
    """
    replayed = run_async(_replay, name, topic, storage)
    if current().json:
        write_json(replayed)
    else:
        where = f"{replayed.topic}/{replayed.partition}"
        write_line(f"sent {replayed.sent} messages to {where}; skipped {replayed.skipped} that the log has already")


@command.command("delete", cls=Verb, examples=["mqcore quarantine delete NAME --yes"])
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@_source_options
def delete(name: str, yes: bool, storage: str | None) -> None:
    """Delete the side file NAME, for good: it may hold the only copy of messages that were acknowledged."""
    if not yes:
        confirm(f"deleting {name} is for good", f"Delete {name} for good?", f"{name} was not deleted")
    size = run_async(_delete, name, storage)
    if current().json:
        write_json({"name": name, "bytes": size})
    else:
        write_line(f"deleted {name}, {size} bytes")


async def _list(storage: str | None) -> list[KeptAside]:
    from mqcore.cli._kept_aside import KeptAside, opened_keepers

    async with opened_keepers(current(), storage) as keepers:
        return [KeptAside(keeper, suffix) for keeper in keepers for suffix in await keeper.suffixes()]


async def _show(name: str, storage: str | None) -> None:
    from mqcore.cli._kept_aside import find_kept_aside, opened_keepers

    as_json = current().json
    async with opened_keepers(current(), storage) as keepers:
        found = await find_kept_aside(keepers, name)
        async for message in _messages_of(found):
            if as_json:
                from mqcore.cli.consume import message_as_json

                write_json(message_as_json(message))
            else:
                write_line(message.value.decode(errors="replace"))
    if found.suffix.unreadable_bytes and not as_json:
        text = f"mqcore: {found.suffix.unreadable_bytes} bytes are no batches (any more), and were not shown"
        click.echo(text, err=True)


async def _delete(name: str, storage: str | None) -> int:
    from mqcore.cli._kept_aside import find_kept_aside, opened_keepers

    async with opened_keepers(current(), storage) as keepers:
        found = await find_kept_aside(keepers, name)
        return await found.keeper.delete(name)


async def _replay(name: str, topic: str | None, storage: str | None) -> Replayed:
    from mqcore.cli._client import connected
    from mqcore.cli._kept_aside import find_kept_aside, opened_keepers
    from mqcore.cli._replay import replay_messages

    async with opened_keepers(current(), storage) as keepers:
        found = await find_kept_aside(keepers, name)
        target = topic or found.suffix.topic
        if not target:
            refuse(f"{name}: its topic, {found.suffix.topic_id or 'none'}, is not known: name one with --topic")
        async with connected(current()) as client:
            with progress("sending again", found.suffix.messages) as bar:
                return await replay_messages(
                    client, target, found.suffix, lambda: _messages_of(found), on_message=lambda: bar.advance(1)
                )


async def _messages_of(found: KeptAside) -> AsyncIterator[Message]:
    from mqcore.cli._replay import messages_in

    async for batch in found.keeper.batches(found.suffix.name):
        for message in messages_in(batch, found.suffix):
            yield message


def _as_json(each: KeptAside) -> dict[str, object]:
    from mqcore.operations import to_json

    return {**to_json(each.suffix), "node": each.keeper.name}
