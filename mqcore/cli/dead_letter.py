"""``mqcore dead-letter``: what consumers of a topic failed to handle: list it, look at it, send it again, delete it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from mqcore.cli._broker_verbs import ask, verb_options
from mqcore.cli.consume import message_as_json
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
from mqcore.errors import ConfigurationError

if TYPE_CHECKING:
    from mqcore.client import Client, Message

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])
LISTED_MAX = 10_000
"""Dead letters that one command keeps in its memory; those after them are worked on by the next one."""


@attrs.frozen
class _Letter:
    """One that is not settled: the ``message`` as it lies in the dead-letter topic, and its history."""

    message: Message
    history: dict[str, Any]

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.message.partition}/{self.message.offset}"


@attrs.frozen
class _Box:
    """The dead-letter topic of a topic, and what of it is not settled."""

    topic: str
    dead_letter: str
    letters: Sequence[_Letter]


@click.group(
    "dead-letter",
    cls=Group,
    examples=[
        "mqcore topic create jobs --dead-letter",
        "mqcore dead-letter list jobs",
        "mqcore dead-letter show jobs 0/17",
        "mqcore dead-letter replay jobs --all",
        "mqcore dead-letter delete jobs 0/17 --yes",
    ],
)
@connection_options
@output_options
def command() -> None:
    """Look at what consumers of a topic failed to handle, send it to the topic again, or delete it.

    TOPIC is the topic that was consumed; its dead letters lie in the one that `topic create --dead-letter` or
    `--dead-letter-topic` named. A dead letter is called PARTITION/OFFSET, as `list` prints it. One that was replayed or
    deleted is listed no more; its bytes go with the retention of the dead-letter topic.
    """


def _chosen_options(function: F) -> F:
    everything = click.option("--all", "everything", is_flag=True, help="All that are there now.")
    return click.argument("names", nargs=-1, metavar="[PARTITION/OFFSET]...")(everything(function))


@command.command(
    "list", cls=Verb, examples=["mqcore dead-letter list jobs", "mqcore dead-letter list jobs --output json"]
)
@click.argument("topic")
@verb_options
def list_letters(topic: str) -> None:
    """List the dead letters of TOPIC: where each was read, how often it was tried, and with which error."""
    box = _work_on(topic, _only_look)
    if current().json:
        for letter in box.letters:
            write_json({"name": letter.name, **letter.history})
        return
    rows = [
        (
            letter.name,
            f"{letter.history.get('topic', '?')}/{letter.history.get('partition', '?')}",
            letter.history.get("offset", "?"),
            letter.history.get("attempts", "?"),
            str(letter.history.get("error", "it has no history")).split("\n")[0][:60],
        )
        for letter in box.letters
    ]
    write_table(rows, ("dead letter", "read in", "offset", "attempts", "error"))


@command.command("show", cls=Verb, examples=["mqcore dead-letter show jobs 0/17"])
@click.argument("topic")
@click.argument("name", metavar="PARTITION/OFFSET")
@verb_options
def show(topic: str, name: str) -> None:
    """Show one dead letter of TOPIC whole, with its history, as a JSON object."""
    (letter,) = _chosen(_work_on(topic, _only_look), (name,), everything=False)
    write_json({"name": letter.name, "history": letter.history, "message": message_as_json(_original(letter.message))})


@command.command(
    "replay", cls=Verb, examples=["mqcore dead-letter replay jobs 0/17", "mqcore dead-letter replay jobs --all"]
)
@click.argument("topic")
@_chosen_options
@verb_options
def replay(topic: str, names: tuple[str, ...], everything: bool) -> None:
    """Send dead letters of TOPIC to it again, in their order, as they were; then they are settled.

    A command that is killed between the two has sent one that is still listed: it may be replayed twice.
    """
    _settle(topic, names, everything, "replayed")


@command.command("delete", cls=Verb, examples=["mqcore dead-letter delete jobs 0/17 --yes"])
@click.argument("topic")
@_chosen_options
@click.option("--yes", is_flag=True, help="Needed: a dead letter that is deleted is listed no more.")
@verb_options
def delete(topic: str, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete dead letters of TOPIC."""
    if not yes:
        refuse("what is deleted is never handled: add --yes, or send it again with mqcore dead-letter replay")
    _settle(topic, names, everything, "deleted")


def _settle(topic: str, names: tuple[str, ...], everything: bool, how: Any) -> None:
    if bool(names) == everything:
        refuse("name the dead letters, as in 0/17, or all of them by --all")

    async def settle(client: Client, box: _Box) -> int:
        from mqcore.delivery import settled_pairs

        letters = _chosen(box, names, everything)
        async with client.producer(box.topic) as again, client.producer(box.dead_letter) as marks:
            for letter in letters:
                message = _original(letter.message)
                if how == "replayed":
                    await again.send(message.value, message.key, message.headers, _partition(letter), tag=message.tag)
                mark = settled_pairs(letter.message.offset, how)
                await marks.send(b"", None, mark, letter.message.partition)
        return len(letters)

    count = _work_on(topic, settle)
    if current().json:
        write_json({"topic": topic, how: count})
    else:
        write_line(f"{how} {count} dead letter{'' if count == 1 else 's'} of {topic}")


def _partition(letter: _Letter) -> int | None:
    """The partition that a letter goes back to: that of its key, which picks the same one again."""
    found = letter.history.get("partition")
    return found if letter.message.key is None and isinstance(found, int) else None


def _work_on(topic: str, work: Callable[[Client, _Box], Any]) -> Any:
    async def found_and_done(client: Client) -> Any:
        found = await client.admin.resolve_topic(topic)
        dead_letter = found.config.get("dead_letter")
        if not dead_letter:
            raise ConfigurationError(
                f"topic {topic} has no dead-letter topic: name one by "
                f"mqcore topic alter {topic} --dead-letter-topic NAME"
            )
        return await work(client, _Box(topic, dead_letter, await _unsettled(client, dead_letter)))

    return ask(found_and_done)


async def _only_look(client: Client, box: _Box) -> _Box:
    return box


async def _unsettled(client: Client, dead_letter: str) -> list[_Letter]:
    """Read a dead-letter topic to where it ends now; return what of it nothing settles."""
    from mqcore.delivery import history_of, settled_by

    count = (await client.admin.resolve_topic(dead_letter)).partitions
    ends = {number: (await client.admin.look_up_offset(dead_letter, number, "end"))[0] for number in range(count)}
    found: dict[tuple[int, int], _Letter] = {}
    async with client.consumer(dead_letter, start="start", on_trimmed="earliest") as consumer:
        while any(consumer.positions[number][0] < end for number, end in ends.items()):
            for message in (await consumer.next_batch()).messages():
                settled = settled_by(message.headers)
                if settled is not None:
                    found.pop((message.partition, settled[0]), None)
                elif len(found) < LISTED_MAX:
                    history = history_of(message.headers)
                    fields = {} if history is None else {**attrs.asdict(history[0]), **attrs.asdict(history[1])}
                    found[message.partition, message.offset] = _Letter(message, fields)
    return [found[place] for place in sorted(found)]


def _chosen(box: _Box, names: Sequence[str], everything: bool) -> list[_Letter]:
    if everything:
        return list(box.letters)
    by_name = {letter.name: letter for letter in box.letters}
    for name in names:
        if name not in by_name:
            raise ConfigurationError(
                f"{box.dead_letter} has no dead letter {name!r}: mqcore dead-letter list {box.topic} names those it has"
            )
    return [by_name[name] for name in dict.fromkeys(names)]


def _original(message: Message) -> Message:
    from mqcore.delivery import original_pairs

    return message._replace(headers=original_pairs(message.headers))
