"""``mqcore top``: what a broker is doing, looked at again and again: rates, lag, the window of unflushed messages.

Rates are differences of offsets between two looks; the broker counts nothing for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import attrs
import click

from mqcore.cli.shell import (
    Duration,
    Verb,
    connection_options,
    current,
    in_words,
    output_options,
    run_async,
    write_json,
)

if TYPE_CHECKING:
    from rich.table import Table

    from mqcore.client import BrokerStatus, Client

__all__ = ["command"]

TOPICS_MAX = 200
"""Topics that one look asks for."""


@attrs.frozen(kw_only=True)
class _TopicLook:
    """Sums over a topic's partitions."""

    committed: int
    end: int
    unflushed: int
    bytes: int


@attrs.frozen(kw_only=True)
class _Look:
    """One look at a broker, at ``at`` seconds of a monotonic clock."""

    at: float
    status: BrokerStatus
    topics: dict[str, _TopicLook]


@attrs.frozen(kw_only=True)
class _Row:
    """What a topic did between two looks."""

    topic: str
    messages_per_second: float
    uncommitted: int
    unflushed: int
    kept_bytes: int


@click.command("top", cls=Verb, examples=["mqcore top", "mqcore top --interval 5s --count 1 --output json"])
@click.option("--interval", type=Duration, default="1 s", show_default=True, help="Time between two looks.")
@click.option("--count", type=click.IntRange(1), help="End after N intervals. [until Ctrl-C; 1 where no one watches]")
@connection_options
@output_options
def command(interval: int, count: int | None) -> None:
    """Show what a broker does now: messages a second, what is not committed and not flushed yet, per topic.

    On a terminal the table stays and changes; elsewhere one table is printed per interval, or with --output json one
    object a line.
    """
    if interval < 1:
        raise click.BadParameter("at least 1 ms lies between two looks", param_hint="--interval")
    live = sys.stdout.isatty() and not current().json
    run_async(_watch, interval / 1000, count if live or count else 1, live)


async def _watch(interval_s: float, count: int | None, live: bool) -> None:
    import trio
    from rich.console import Console
    from rich.live import Live

    from mqcore.cli._client import connected

    async with connected(current()) as client:
        before = await _look(client)
        shown = 0
        console = Console()
        with Live(console=console, auto_refresh=False) if live else _Nothing() as screen:
            while count is None or shown < count:
                await trio.sleep(interval_s)
                now = await _look(client)
                rows = _rows(before, now)
                if current().json:
                    write_json(_facts(before, now) | {"topics": [attrs.asdict(row) for row in rows]})
                elif isinstance(screen, Live):
                    screen.update(_table(before, now, rows), refresh=True)
                else:
                    console.print(_table(before, now, rows))
                before, shown = now, shown + 1


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


async def _look(client: Client) -> _Look:
    import trio

    status = await client.admin.status()
    topics = {}
    for each in (await client.admin.list_topics())[:TOPICS_MAX]:
        logs = (await client.admin.describe_topic(each.name)).logs
        topics[each.name] = _TopicLook(
            committed=sum(log.committed_offset for log in logs),
            end=sum(log.end_offset for log in logs),
            unflushed=sum(max(0, log.end_offset - log.durable_offset) for log in logs),
            bytes=sum(log.bytes for log in logs),
        )
    return _Look(at=trio.current_time(), status=status, topics=topics)


def _rows(before: _Look, now: _Look) -> list[_Row]:
    """What each topic did, the busiest first."""
    elapsed = now.at - before.at
    rows = [
        _Row(
            topic=name,
            # A topic that was made anew under its name begins anew.
            messages_per_second=max(0, look.committed - (before.topics[name].committed if name in before.topics else 0))
            / elapsed,
            uncommitted=look.end - look.committed,
            unflushed=look.unflushed,
            kept_bytes=look.bytes,
        )
        for name, look in now.topics.items()
    ]
    return sorted(rows, key=lambda row: (-row.messages_per_second, row.topic))


def _facts(before: _Look, now: _Look) -> dict[str, object]:
    elapsed = now.at - before.at
    status = now.status
    return {
        "node": status.name,
        "primary": status.reigns,
        "epoch": status.epoch,
        "connections": status.connections,
        "messages_per_second": sum(row.messages_per_second for row in _rows(before, now)),
        "flushes_per_second": max(0, status.flushes - before.status.flushes) / elapsed,
        "unflushed_bytes": status.unflushed_bytes,
        "partitions_failed": status.partitions_failed,
    }


def _table(before: _Look, now: _Look, rows: list[_Row]) -> Table:
    from rich.table import Table

    facts = _facts(before, now)
    title = ", ".join(
        f"{name.replace('_', ' ').replace(' per second', '/s')} {in_words(_whole(value), name)}"
        for name, value in facts.items()
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("topic")
    for heading in ("messages/s", "not committed", "not flushed", "kept bytes"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (round(row.messages_per_second), row.uncommitted, row.unflushed, row.kept_bytes)
        table.add_row(row.topic, *map(in_words, numbers))
    return table


def _whole(value: object) -> object:
    return round(value) if isinstance(value, float) else value
