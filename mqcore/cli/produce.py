"""``mqcore produce``: a line of a file, or of standard input, is a message."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import click

from mqcore.cli.shell import (
    Progress,
    Settings,
    Verb,
    connection_options,
    current,
    end,
    in_words,
    output_options,
    progress,
    run_async,
    write_json,
    write_line,
)
from mqcore.errors import ConfigurationError

if TYPE_CHECKING:
    from mqcore.client import Delivery, Producer

__all__ = ["command"]

_Outcomes: TypeAlias = "deque[tuple[Delivery, int]]"
"""What was sent and is not known to be acknowledged: the delivery, and the bytes that it stands for."""

_PACES_PER_SECOND = 20
_TELL_AFTER_SECONDS = 1.0


@attrs.frozen(kw_only=True)
class _Input:
    """What is read and how it is cut into messages."""

    descriptor: int
    separator: bytes
    key_separator: bytes | None
    partition: int | None
    tag: str | None
    rate: float | None


@attrs.define
class _Tally:
    """What was acknowledged so far; offsets by partition, first and last."""

    messages: int = 0
    size: int = 0
    level: str = ""
    partitions: dict[int, list[int]] = attrs.field(factory=dict)

    def add(self, delivery: Delivery, size: int) -> None:
        """Count a delivery that has its receipt."""
        receipt = delivery.result()
        self.messages += receipt.count
        self.size += size
        self.level = receipt.level.label
        span = self.partitions.setdefault(receipt.partition, [receipt.offset, receipt.offset])
        span[0] = min(span[0], receipt.offset)
        span[1] = max(span[1], receipt.offset + receipt.count - 1)


@click.command(
    "produce",
    cls=Verb,
    examples=[
        "mqcore produce lines /usr/share/common-licenses/GPL-3",
        "find . -print0 | mqcore produce names --null-separated",
        "mqcore produce prices prices.txt --key-separator : --rate 1000",
        "echo 'order 17' | mqcore produce orders --tag paid",
    ],
)
@click.argument("topic")
@click.argument("file", default="-", metavar="[FILE|-]")
@click.option("--null-separated", is_flag=True, help="A zero byte ends a message, not a line feed.")
@click.option("--key-separator", metavar="TEXT", help="What stands before the first TEXT is the message's key.")
@click.option("--partition", type=click.IntRange(0), help="Send all to this partition.")
@click.option("--tag", metavar="TAG", help="Give each message this tag, by which consumers choose.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N messages per second.")
@click.option(
    "--policy",
    type=click.Choice(["topic", "none", "async", "sync"]),
    default="topic",
    help="When a message is acknowledged: as the topic says (the default), or otherwise.",
)
@click.option("--codec", default="none", metavar="NAME", help="Compress with zlib, zstandard or lz4.")
@click.option("--producer-name", metavar="NAME", help="Go on as the producer NAME, in place of who had the name last.")
@connection_options
@output_options
def command(
    topic: str,
    file: str,
    null_separated: bool,
    key_separator: str | None,
    partition: int | None,
    tag: str | None,
    rate: float | None,
    policy: str,
    codec: str,
    producer_name: str | None,
) -> None:
    """Publish every line of FILE, or of standard input, to TOPIC, and wait for every acknowledgement.

    What a broker cannot take now, with its disk full or while it starts again, is sent again for 60 s, or as long as
    --timeout says; that it waits is told after a few seconds.

    Ctrl-C and SIGTERM stop reading; what was read is still acknowledged, and status is 130 or 143. That this takes
    longer than a second is told; a second one does not wait.

    With --producer-name another process of that name is refused from now on, and what partitions have last of the name
    is printed before anything is sent: which lines are stored already is yours to compare.
    """
    if key_separator == "":
        raise ConfigurationError("--key-separator '': needs at least one character")
    descriptor = _open(file)
    source = _Input(
        descriptor=descriptor,
        separator=b"\0" if null_separated else b"\n",
        key_separator=os.fsencode(key_separator) if key_separator is not None else None,
        partition=partition,
        tag=tag,
        rate=rate,
    )
    size = os.fstat(descriptor).st_size or None
    tally, started = _Tally(), time.perf_counter()
    try:
        with progress(f"publishing to {topic}, bytes", size) as bar:
            options: dict[str, Any] = {"policy": policy, "codec": codec, "name": producer_name}
            if current().timeout_is_given:
                options["delivery_timeout_ms"] = current().timeout_ms
            ended_by = run_async(_produce, current(), topic, options, source, tally, bar)
    except BaseException:
        if tally.messages:
            print(f"mqcore: acknowledged before this failed: {_counted(tally.messages)}", file=sys.stderr)
        raise
    finally:
        if descriptor != 0:
            os.close(descriptor)
    _report(topic, tally, time.perf_counter() - started)
    if ended_by is not None:
        end(128 + ended_by)


def _open(file: str) -> int:
    if os.path.isdir(file):
        raise ConfigurationError(f"{file} is a directory; name a file, or - for standard input")
    if file == "-" and sys.stdin is None:
        # Not tried: the descriptor's number may belong to another file by now.
        raise ConfigurationError("standard input is closed; name a file")
    return 0 if file == "-" else os.open(file, os.O_RDONLY | os.O_CLOEXEC)


def _report(topic: str, tally: _Tally, seconds: float) -> None:
    if current().json:
        spans = {str(partition): span for partition, span in sorted(tally.partitions.items())}
        write_json(
            {
                "topic": topic,
                "messages": tally.messages,
                "bytes": tally.size,
                "seconds": round(seconds, 6),
                "level": tally.level,
                "offsets": spans,
            }
        )
        return
    write_line(
        f"published {_counted(tally.messages)} ({in_words(tally.size)} bytes) to {topic} in {seconds:.2f} s"
        + (f", acknowledged at level {tally.level}" if tally.level else "")
    )


def _counted(messages: int) -> str:
    return f"{in_words(messages)} message{'' if messages == 1 else 's'}"


async def _produce(
    settings: Settings, topic: str, options: dict[str, Any], source: _Input, tally: _Tally, bar: Progress
) -> int | None:
    """Read, send, and wait for every outcome; return the signal that ended the reading, None for the end of the input.

    Input that cannot be sent ends the reading too; it is raised once the messages before it have their outcomes.
    """
    import trio

    from mqcore.cli._client import connected
    from mqcore.cli._lines import InputRefused

    refused: InputRefused | None = None
    ended_by: int | None = None
    reading = trio.CancelScope()

    async def obey(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal ended_by
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if ended_by is not None and number == signal.SIGINT:
                    raise KeyboardInterrupt
                if ended_by is not None:
                    end(128 + number)
                ended_by = number
                reading.cancel()
                nursery.start_soon(_tell_what_is_waited_for)

    async with trio.open_nursery() as nursery:
        await nursery.start(obey)
        async with connected(settings) as client, client.producer(topic, **options) as producer:
            _tell_where(producer)
            outcomes: _Outcomes = deque()
            try:
                with reading:
                    await _send_all(producer, source, outcomes, tally, bar)
            except InputRefused as error:
                refused = error
            while outcomes:
                await outcomes[0][0].wait()
                _collect(outcomes, tally, bar)
        nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused
    return ended_by


async def _tell_what_is_waited_for() -> None:
    """Say why a signal has not ended it yet; cancelled when it ends sooner."""
    import trio

    await trio.sleep(_TELL_AFTER_SECONDS)
    print(
        "mqcore: what was sent is not all acknowledged yet, and is waited for; a second Ctrl-C does not wait",
        file=sys.stderr,
    )


def _tell_where(producer: Producer) -> None:
    """Say, of a producer with a name, who it is and where the process before it had come to."""
    if producer.name is None:
        return
    where = [f"partition {number} at offset {offset}" for number, offset in sorted(producer.last.items())]
    where += [f"partition {number} not remembered" for number in sorted(producer.forgotten)]
    last = f"the last message stored before is in {', '.join(where)}" if where else "nothing was stored before"
    print(f"mqcore: producer {producer.name}: epoch {producer.epoch}, {last}", file=sys.stderr)


async def _send_all(producer: Producer, source: _Input, outcomes: _Outcomes, tally: _Tally, bar: Progress) -> None:
    import trio

    from mqcore.cli._lines import InputRefused, blocks
    from mqcore.limits import Limits

    number, due = 0, trio.current_time()
    async with aclosing(blocks(source.descriptor, source.separator, Limits().message_bytes_max)) as arriving:
        async for values in arriving:
            for part in _paced(values, source.rate):
                if source.rate is not None:
                    await trio.sleep_until(due)
                    due = max(due, trio.current_time() - 1) + len(part) / source.rate
                keys, problem = None, ""
                if source.key_separator is not None:
                    keys, part, problem = _split_keys(part, source.key_separator)
                number += len(part)
                size = sum(map(len, part))
                await producer.wait_for_room(size)
                posted = producer.post_many(part, keys, source.partition, tag=source.tag)
                outcomes.extend((delivery, size if index == 0 else 0) for index, delivery in enumerate(posted))
                _collect(outcomes, tally, bar)
                if problem:
                    raise InputRefused(f"message {number + 1} of the input {problem}")


def _paced(values: list[bytes], rate: float | None) -> Sequence[list[bytes]]:
    """Cut what one read brought into what may go at once."""
    step = len(values) if rate is None else max(1, int(rate / _PACES_PER_SECOND))
    return [values[start : start + step] for start in range(0, len(values), step)]


def _split_keys(lines: list[bytes], separator: bytes) -> tuple[list[bytes | None], list[bytes], str]:
    """Return keys and values up to the first line without a separator, and what is wrong with it."""
    keys: list[bytes | None] = []
    values: list[bytes] = []
    for line in lines:
        key, found, value = line.partition(separator)
        if not found:
            return keys, values, f"has no key separator {separator.decode()!r}"
        keys.append(key)
        values.append(value)
    return keys, values, ""


def _collect(outcomes: _Outcomes, tally: _Tally, bar: Progress) -> None:
    """Count the outcomes that are known, in order; raises the error of one that failed."""
    while outcomes and outcomes[0][0].is_done:
        delivery, size = outcomes.popleft()
        tally.add(delivery, size)
        bar.advance(size)
