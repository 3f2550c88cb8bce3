"""``mqcore consume``: messages of a topic, a line each, or a JSON object each."""

from __future__ import annotations

import base64
import itertools
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import click

from mqcore.cli._moments import Start, parse_start
from mqcore.cli.shell import Settings, Verb, connection_options, current, end, output_options, run_async, write_bytes
from mqcore.errors import BatchUndecodableError, CorruptionError, MessagesMissingError, MqcoreError

if TYPE_CHECKING:
    from mqcore.client import Client, ConsumedBatch

__all__ = ["command"]

DAMAGE_FOUND = 5


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


@click.command(
    "consume",
    cls=Verb,
    examples=[
        "mqcore consume lines --from start --exit-at-end",
        "mqcore consume lines --from @-10m --output json | jq -r .value",
        "mqcore consume lines --from 1000 --count 5 --partition 0",
    ],
)
@click.argument("topic")
@click.option("--from", "start", default="end", show_default=True, metavar="WHERE", help="start, end, OFFSET or @TIME.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages.")
@click.option("--exit-at-end", is_flag=True, help="End when everything that is there now was printed.")
@click.option("--partition", "partitions", type=click.IntRange(0), multiple=True, help="This one only; repeatable.")
@click.option("--null-separated", is_flag=True, help="End a message with a zero byte, not with a line feed.")
@click.option("--key-separator", metavar="TEXT", help="Print each message's key and TEXT before it.")
@connection_options
@output_options
def command(
    topic: str,
    start: str,
    count: int | None,
    exit_at_end: bool,
    partitions: tuple[int, ...],
    null_separated: bool,
    key_separator: str | None,
) -> None:
    """Print the messages of TOPIC as they come, until Ctrl-C, or as --count and --exit-at-end say.

    TIME is RFC 3339, as in @2026-01-31T12:00:00Z, or so long ago, as in @-10m. Messages that cannot be decoded are
    reported by their offsets, the rest is printed, and status is 5.
    """
    wish = _Wish(
        topic=topic,
        partitions=list(partitions) or None,
        start=parse_start(start, datetime.now(UTC)),
        count=count,
        exit_at_end=exit_at_end,
        terminator=b"\0" if null_separated else b"\n",
        key_separator=key_separator.encode() if key_separator is not None else None,
    )
    if run_async(_consume, current(), wish):
        end(DAMAGE_FOUND)


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

    left, damaged = wish.count, False
    async with client.consumer(wish.topic, wish.partitions, wish.start) as consumer:
        ends = await _ends(client, wish) if wish.exit_at_end else None
        while left != 0 and not (ends is not None and _reached(consumer.positions, ends)):
            try:
                batch = await consumer.next_batch()
            except (BatchUndecodableError, MessagesMissingError) as error:
                damaged = damaged or isinstance(error, CorruptionError)
                await trio.to_thread.run_sync(_complain, error, as_json, abandon_on_cancel=True)
                continue
            data, printed = _render(batch, wish, left, as_json)
            # In a thread: a reader that is slow, a pager for one, must not stop what keeps the connection alive.
            await trio.to_thread.run_sync(write_bytes, data, abandon_on_cancel=True)
            if left is not None:
                left -= printed
    return damaged


def _reached(positions: dict[int, tuple[int, int]], ends: dict[int, int]) -> bool:
    return all(positions[number][0] >= offset for number, offset in ends.items())


def _complain(error: MqcoreError, as_json: bool) -> None:
    text = json.dumps({"error": type(error).__name__, "message": str(error)}) if as_json else f"mqcore: {error}"
    print(text, file=sys.stderr)


def _render(batch: ConsumedBatch, wish: _Wish, most: int | None, as_json: bool) -> tuple[bytes, int]:
    """Return what to print of ``batch``, at most ``most`` messages, and how many it is."""
    values = batch.values if most is None else batch.values[:most]
    if as_json:
        messages = itertools.islice(batch.messages(), len(values))
        lines = [json.dumps(_record(message), ensure_ascii=False) for message in messages]
        return ("\n".join(lines) + "\n").encode(), len(values)
    if wish.key_separator is not None:
        keys = (batch.keys or [None] * len(values))[: len(values)]
        values = [(key or b"") + wish.key_separator + value for key, value in zip(keys, values, strict=True)]
    return wish.terminator.join(values) + wish.terminator, len(values)


def _record(message: Any) -> dict[str, object]:
    record: dict[str, object] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp_ms": message.timestamp_ms,
    }
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
