"""The rows that are measured: what each does, in which unit, and what it has to reach (performance.md, section 4).

Values only; ``_subjects`` knows how a piece of work is done by mqcore, toy and probe.
"""

from __future__ import annotations

import fnmatch
from typing import Literal, TypeAlias

import attrs

__all__ = [
    "ROWS",
    "Consume",
    "Memory",
    "Open",
    "Publish",
    "Quiet",
    "Row",
    "Scale",
    "Simulate",
    "Spread",
    "select",
]


@attrs.frozen(kw_only=True)
class Publish:
    """Messages of 1 KiB in batches of ``batch``, ``window`` of them in flight, ``delay_ms`` added to each flush.

    ``burst``: into segments made ready before the clock starts. ``latency``: the measure is the time of one, in us.
    ``tasks``: each message in flight is awaited by a task of its own, not posted by one task for all.
    """

    flush: Literal["async", "sync"]
    delay_ms: int
    batch: int
    window: int
    burst: bool = False
    latency: bool = False
    tasks: bool = False


@attrs.frozen(kw_only=True)
class Consume:
    """Everything from the start, one bytes object per message, taken by ``batches`` or by ``messages``."""

    form: Literal["batches", "messages"]


@attrs.frozen(kw_only=True)
class Open:
    """From the start of the broker's process to its first answer, on one log of ``--size`` bytes."""

    killed: bool


@attrs.frozen(kw_only=True)
class Memory:
    """Resident bytes of a broker: ``idle``, or what one more ``connection`` or ``partition`` adds."""

    of: Literal["idle", "connection", "partition"]


@attrs.frozen(kw_only=True)
class Spread:
    """Synchronous publish of the same bytes over ``partitions`` instead of one: how many times longer it takes."""

    partitions: int
    delay_ms: int


@attrs.frozen(kw_only=True)
class Scale:
    """Time per message with so many partitions and connections, in multiples of one partition's."""

    partitions: int
    connections: int


@attrs.frozen(kw_only=True)
class Quiet:
    """The 99th percentile of one message every few milliseconds beside a flood, in multiples of that without it.

    The flood, of a process of its own: 64 batches of 256 in flight to another topic, and a consumer that reads that
    topic from the start as fast as it can.
    """

    flush: Literal["async", "sync"]


@attrs.frozen(kw_only=True)
class Simulate:
    """Plans of the conformance suite, one after the other: rate of their ``events``, or of whole ``runs``."""

    of: Literal["events", "runs"]


Work: TypeAlias = Publish | Consume | Open | Memory | Spread | Scale | Quiet | Simulate


@attrs.frozen(kw_only=True)
class Row:
    """One line of the report.

    ``ratio`` is to be reached against the limit, which is the smaller of toy and probe: at least so much where more is
    better, at most where less is. ``at_most`` and ``at_least`` are targets in the row's own unit.
    """

    name: str
    summary: str
    work: Work
    unit: str = "msg/s"
    more_is_better: bool = True
    ratio: float | None = None
    at_most: float | None = None
    at_least: float | None = None


def _publish(batch: int, flush: Literal["async", "sync"], delay_ms: int) -> Row:
    covering = flush == "sync" and delay_ms > 0 and batch == 256
    window = 64 if covering else 16
    return Row(
        name=f"publish-{batch}-{flush}-{delay_ms}ms",
        summary=f"batches of {batch}, {window} in flight, {flush} flush, {delay_ms} ms more per flush",
        work=Publish(flush=flush, delay_ms=delay_ms, batch=batch, window=window),
        ratio=0.6,
    )


def _burst(flush: Literal["async", "sync"]) -> Row:
    return Row(
        name=f"burst-256-{flush}",
        summary=f"batches of 256, 16 in flight, {flush} flush, into segments made ready",
        work=Publish(flush=flush, delay_ms=0, batch=256, window=16, burst=True),
        ratio=0.6,
    )


def _one(flush: Literal["async", "sync"], delay_ms: int) -> Row:
    return Row(
        name=f"one-{flush}-{delay_ms}ms",
        summary=f"one message in flight, {flush} flush, {delay_ms} ms more per flush: median",
        work=Publish(flush=flush, delay_ms=delay_ms, batch=1, window=1, latency=True),
        unit="us",
        more_is_better=False,
        ratio=1.5,
    )


def _singles(flush: Literal["async", "sync"], delay_ms: int, *, tasks: bool = False) -> Row:
    window = 256 if delay_ms else 64
    who = f"{window} tasks, each awaiting one message" if tasks else f"{window} single messages in flight of one task"
    return Row(
        name=f"{'senders' if tasks else 'singles'}-{flush}-{delay_ms}ms",
        summary=f"{who}, {flush} flush, {delay_ms} ms more per flush",
        work=Publish(flush=flush, delay_ms=delay_ms, batch=1, window=window, tasks=tasks),
        ratio=0.5,
    )


def _cost(name: str, summary: str, work: Work, unit: str, at_most: float) -> Row:
    return Row(name=name, summary=summary, work=work, unit=unit, more_is_better=False, at_most=at_most)


def _quiet(flush: Literal["async", "sync"]) -> Row:
    return _cost(
        f"quiet-{flush}",
        f"99th percentile of a quiet topic's acknowledgements beside a flood of another, {flush} flush, against alone",
        Quiet(flush=flush),
        "x",
        3,
    )


def _spread(delay_ms: int, at_most: float) -> Row:
    return _cost(
        f"spread-1000-{delay_ms}ms",
        f"sync publish, {delay_ms} ms more per flush: time on 1 000 partitions against one",
        Spread(partitions=1_000, delay_ms=delay_ms),
        "x",
        at_most,
    )


ROWS: tuple[Row, ...] = (
    *(_publish(256, "async", delay) for delay in (0, 1, 5)),
    *(_publish(256, "sync", delay) for delay in (0, 1, 5)),
    _publish(100, "async", 0),
    *(_publish(100, "sync", delay) for delay in (0, 1, 5)),
    _burst("async"),
    _burst("sync"),
    _one("async", 0),
    *(_one("sync", delay) for delay in (0, 1, 5)),
    _singles("async", 0),
    *(_singles("sync", delay) for delay in (0, 1, 5)),
    _singles("async", 0, tasks=True),
    *(_singles("sync", delay, tasks=True) for delay in (0, 1, 5)),
    Row(
        name="consume-batches",
        summary="everything from the start, one bytes object per message, by batch",
        work=Consume(form="batches"),
        ratio=0.6,
    ),
    Row(name="consume-messages", summary="the same, message by message", work=Consume(form="messages")),
    _cost("open-clean", "start on a log of --size after a clean stop", Open(killed=False), "s", 0.2),
    _cost("open-killed", "start on a log of --size after kill -9", Open(killed=True), "s", 2.0),
    _cost("memory-idle", "memory of an idle broker", Memory(of="idle"), "MB", 60),
    _cost("memory-connection", "memory of an idle connection", Memory(of="connection"), "KB", 40),
    _cost("memory-partition", "memory of a partition", Memory(of="partition"), "KB", 20),
    _spread(0, 2),
    _spread(5, 1.3),
    _cost(
        "scale",
        "1 000 connections: time per message on 10 000 partitions against one",
        Scale(partitions=10_000, connections=1_000),
        "x",
        2,
    ),
    _quiet("async"),
    _quiet("sync"),
    Row(
        name="simulation-events",
        summary="simulation of file storage over TCP under mixed faults: events in a second of one core",
        work=Simulate(of="events"),
        unit="event/s",
        at_least=20_000,
    ),
    Row(
        name="simulation-runs",
        summary="the same: plans run and judged",
        work=Simulate(of="runs"),
        unit="run/s",
        at_least=6.5,
    ),
)
"""Every row, in the order of the report."""


def select(patterns: tuple[str, ...]) -> list[Row]:
    """Return the rows that match one of ``patterns`` (shell wildcards); ``KeyError`` for a pattern without a row."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in ROWS):
            raise KeyError(pattern)
    return [row for row in ROWS if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]
