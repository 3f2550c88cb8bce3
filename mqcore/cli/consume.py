"""``mqcore consume``: messages of a topic, a line each, or a JSON object each."""

from __future__ import annotations

import base64
import itertools
import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import click

from mqcore.cli._moments import Start, parse_start
from mqcore.cli.shell import (
    Settings,
    Verb,
    connection_options,
    current,
    end,
    in_words,
    output_options,
    refuse,
    run_async,
    write_bytes,
)
from mqcore.errors import (
    BatchUndecodableError,
    CorruptionError,
    MessagesMissingError,
    MqcoreError,
    PluginInvalidError,
)
from mqcore.units import parse_duration_ms

if TYPE_CHECKING:
    from mqcore.abc import Filter
    from mqcore.client import Client, ConsumedBatch, Message

__all__ = ["command", "message_as_json"]

DAMAGE_FOUND = 5
MESSAGES_MAX = 500
LOOK_MS = 100
"""How often it is looked whether the end was reached of what is read by tags."""


@attrs.frozen(kw_only=True)
class _Wish:
    """What is to be printed, and until when."""

    topic: str
    partitions: list[int] | None
    start: Start
    count: int | None
    exit_at_end: bool
    terminator: bytes
    key_separator: bytes | None
    group: dict[str, Any]
    on_trimmed: str
    tags: tuple[str, ...]
    chosen: Filter | None


@click.command(
    "consume",
    cls=Verb,
    examples=[
        "mqcore consume lines --from start --exit-at-end",
        "mqcore consume lines --from @-10m --output json | jq -r .value",
        "mqcore consume lines --from 1000 --count 5 --partition 0",
        "mqcore consume lines --group g1 --from start",
        "mqcore consume orders --tag paid --tag refunded --output json",
    ],
)
@click.argument("topic")
@click.option("--from", "start", default="end", show_default=True, metavar="WHERE", help="start, end, OFFSET or @TIME.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages.")
@click.option("--exit-at-end", is_flag=True, help="End when everything that is there now was printed.")
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, help="This one only; repeatable.")
@click.option("--group", metavar="GROUP", help="Share the partitions with the group's other members; --from: new ones.")
@click.option("--member", metavar="NAME", help="Name of this member of the group; by default one by chance.")
@click.option("--assignor", metavar="NAME", help="How the group shares out: sticky, range, round-robin.")
@click.option("--session", metavar="DURATION", help="Silence after which its partitions go to others; 10s if not said.")
@click.option("--null-separated", is_flag=True, help="End a message with a zero byte, not with a line feed.")
@click.option("--key-separator", metavar="TEXT", help="Print each message's key and TEXT before it.")
@click.option(
    "--on-trimmed",
    type=click.Choice(["error", "earliest", "latest"]),
    default="error",
    show_default=True,
    help="Where retention took what was to be read: say so and go on; or go on, silently, at the earliest or latest.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Messages with this tag only; repeatable.")
@click.option(
    "--filter", "chosen", metavar="NAME:EXPRESSION", help="Print what a filter matches, as in header:colour=red|blue."
)
@connection_options
@output_options
def command(
    topic: str,
    start: str,
    count: int | None,
    exit_at_end: bool,
    partitions: tuple[int, ...],
    group: str | None,
    member: str | None,
    assignor: str | None,
    session: str | None,
    null_separated: bool,
    key_separator: str | None,
    on_trimmed: str,
    tags: tuple[str, ...],
    chosen: str | None,
) -> None:
    """Print the messages of TOPIC as they come, until Ctrl-C, or as --count and --exit-at-end say.

    TIME is RFC 3339, as in @2026-01-31T12:00:00Z, or so long ago, as in @-10m. Messages that cannot be decoded are
    reported by their offsets, the rest is printed, and status is 5. With --group what was printed is committed, and
    read again by nobody of that group. By tags the broker chooses; a filter is evaluated here, of every message read.
    """
    from mqcore.registry import create_filter

    if group is not None and (partitions or exit_at_end):
        refuse("--group shares the partitions out and has no end of its own: leave --partition and --exit-at-end away")
    if exit_at_end and on_trimmed == "latest":
        refuse("--on-trimmed latest waits for what is new, --exit-at-end ends before it: give one of the two")
    choice = None if chosen is None else create_filter(chosen)
    wish = _Wish(
        topic=topic,
        partitions=list(partitions) or None,
        start=parse_start(start, datetime.now(UTC)),
        count=count,
        exit_at_end=exit_at_end,
        terminator=b"\0" if null_separated else b"\n",
        key_separator=os.fsencode(key_separator) if key_separator is not None else None,
        group=_group_options(group, member=member, assignor=assignor, session=session),
        on_trimmed=on_trimmed,
        tags=tags or (() if choice is None else tuple(choice.tags)),
        chosen=choice,
    )
    if run_async(_consume, current(), wish):
        end(DAMAGE_FOUND)


def _group_options(group: str | None, *, session: str | None, **names: str | None) -> dict[str, Any]:
    """The options of a member, of which only those that were given are said."""
    options: dict[str, Any] = {key: value for key, value in names.items() if value is not None}
    if session is not None:
        try:
            options["session_ms"] = parse_duration_ms(session)
        except ValueError as error:
            refuse(f"--session: {error}")
    if options and group is None:
        refuse("--member, --assignor and --session are about a member of a group: add --group")
    return options if group is None else {"group": group, **options}


async def _consume(settings: Settings, wish: _Wish) -> bool:
    """Print until the wish is met; return whether something was damaged."""
    import trio

    from mqcore.cli._client import connected
    from mqcore.cli._reader import raise_when_reader_is_gone

    async with trio.open_nursery() as nursery:
        nursery.start_soon(raise_when_reader_is_gone)
        async with connected(settings) as client:
            damaged = await _print_all(client, wish, settings.json)
        nursery.cancel_scope.cancel()
    return damaged


async def _ends(client: Client, wish: _Wish) -> dict[int, int]:
    """Where each partition ends now."""
    numbers = wish.partitions
    if numbers is None:
        numbers = list(range((await client.admin.resolve_topic(wish.topic)).partitions))
    return {number: (await client.admin.look_up_offset(wish.topic, number, "end"))[0] for number in numbers}


async def _print_all(client: Client, wish: _Wish, as_json: bool) -> bool:
    import trio

    left, damaged, found_any = wish.count, False, False
    options: dict[str, Any] = {"on_trimmed": wish.on_trimmed, "tags": wish.tags, **wish.group}
    looks = wish.exit_at_end and bool(wish.tags)  # at the position now and then: the last messages may be passed over
    if looks:
        options["wait_ms"] = LOOK_MS
    async with client.consumer(wish.topic, wish.partitions, wish.start, **options) as consumer:
        ends = await _ends(client, wish) if wish.exit_at_end else None
        while left != 0 and not (ends is not None and _reached(consumer.positions, ends)):
            try:
                if not looks and (left is None or not wish.group):
                    data, printed = _render(await consumer.next_batch(), wish, left, as_json)
                else:  # what is not printed is, in a group, another member's to read
                    messages = await consumer.poll(left or MESSAGES_MAX, LOOK_MS if looks else 1_000)
                    if wish.chosen is not None:
                        messages = _chosen_of(messages, wish.chosen, left)
                    data, printed = _render_messages(messages, wish, as_json)
            except (BatchUndecodableError, MessagesMissingError) as error:
                damaged = damaged or isinstance(error, CorruptionError)
                await trio.to_thread.run_sync(_complain, error, as_json, abandon_on_cancel=True)
                continue
            # In a thread: a reader that is slow, a pager for one, must not stop what keeps the connection alive.
            await trio.to_thread.run_sync(write_bytes, data, abandon_on_cancel=True)
            found_any = found_any or printed > 0
            if left is not None:
                left -= printed
    if ends is not None and not found_any:
        await _tell_what_is_not_committed(client, wish)
    return damaged


async def _tell_what_is_not_committed(client: Client, wish: _Wish) -> None:
    """Where nothing was found, say what is there and cannot be shown yet: it looks as if it were lost."""
    logs = (await client.admin.describe_topic(wish.topic)).logs
    logs = tuple(each for each in logs if wish.partitions is None or each.partition in wish.partitions)
    hidden = sum(max(0, each.end_offset - each.committed_offset) for each in logs)
    if hidden:
        print(
            f"mqcore: topic {wish.topic!r}: {in_words(hidden)} messages are there and not shown, as they are not "
            "committed yet: of a set, 'mqcore cluster describe' shows which node is waited for",
            file=sys.stderr,
        )


def _reached(positions: dict[int, tuple[int, int]], ends: dict[int, int]) -> bool:
    return all(positions[number][0] >= offset for number, offset in ends.items())


def _complain(error: MqcoreError, as_json: bool) -> None:
    text = json.dumps({"error": type(error).__name__, "message": str(error)}) if as_json else f"mqcore: {error}"
    print(text, file=sys.stderr)


def _render(batch: ConsumedBatch, wish: _Wish, most: int | None, as_json: bool) -> tuple[bytes, int]:
    """Return what to print of ``batch``, at most ``most`` messages, and how many it is."""
    if wish.chosen is not None:
        return _render_messages(_chosen_of(batch.messages(), wish.chosen, most), wish, as_json)
    values = batch.values if most is None else batch.values[:most]
    if as_json:
        messages = itertools.islice(batch.messages(), len(values))
        lines = [json.dumps(message_as_json(message), ensure_ascii=False) for message in messages]
        return ("\n".join(lines) + "\n").encode(), len(values)
    if wish.key_separator is not None:
        keys = (batch.keys or [None] * len(values))[: len(values)]
        values = [(key or b"") + wish.key_separator + value for key, value in zip(keys, values, strict=True)]
    return wish.terminator.join(values) + wish.terminator, len(values)


def _render_messages(messages: list[Message], wish: _Wish, as_json: bool) -> tuple[bytes, int]:
    """The same of messages that were taken one by one."""
    if as_json:
        lines = [json.dumps(message_as_json(message), ensure_ascii=False) + "\n" for message in messages]
        return "".join(lines).encode(), len(messages)
    separator = wish.key_separator
    prefixes = [b"" if separator is None else (message.key or b"") + separator for message in messages]
    values = [prefix + message.value for prefix, message in zip(prefixes, messages, strict=True)]
    return b"".join(value + wish.terminator for value in values), len(messages)


def _chosen_of(batch: Iterable[Message], chosen: Filter, most: int | None) -> list[Message]:
    """Messages that a filter matches, at most ``most``. Raises ``PluginInvalidError`` for a filter that raises."""
    found: list[Message] = []
    for message in batch:
        try:
            if (most is None or len(found) < most) and chosen.matches(message):
                found.append(message)
        except Exception as error:
            text = f"filter {chosen.expression!r} raised {type(error).__name__} at offset {message.offset}: {error}"
            raise PluginInvalidError(f"{text}; leave --filter out, or mend the filter") from error
    return found


def message_as_json(message: Any) -> dict[str, object]:
    """Return a message as the JSON object that is printed of it."""
    record: dict[str, object] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp_ms": message.timestamp_ms,
    }
    if message.tag is not None:
        record["tag"] = message.tag
    if message.key is not None:
        record.update(_text("key", message.key))
    if message.headers:
        record["headers"] = [_text("name", name.encode()) | _text("value", value) for name, value in message.headers]
    return record | _text("value", message.value)


def _text(name: str, data: bytes) -> dict[str, object]:
    """The bytes as text where they are UTF-8, else in base64 under another name."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}
