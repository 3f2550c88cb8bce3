"""Measures replica sets of broker processes on this machine: ``python -m mqcore_bench.replication [--help]``.

What is compared is measured in turns within one run, and told as the median of the ratios of neighbours. Nothing is
asserted: a person judges. Prints a table in Markdown, or a JSON object for each row.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import attrs
import trio

from mqcore.client import Client, Delivery, connect
from mqcore.errors import MqcoreError, OutcomeUnknownError
from mqcore_bench._children import measure
from mqcore_bench._sets import LEASE_MS, RunningSet, bytes_sent, running_set, seconds_and_switches

__all__ = ["latency_us", "main", "throughput"]

SECONDS, SINGLES = 3.0, 1_000
BATCH_MESSAGES = 256
IN_FLIGHT_BATCHES = 64
VALUE, KIB = bytes(100), bytes(1024)
LAG_EVERY_S, IDLE_S = 0.02, 5.0
FILLED_EVERY_S = 0.02
IDLE_LEASE_MS = 10_000
POLICIES = {
    "none": {"replication": "none"},
    "async": {"replication": "async"},
    "sync": {"replication": "sync(copies=2, level=disk)"},
    "sync-page-cache": {"replication": "sync(copies=2, level=page-cache)", "flush": "none"},
    "none-page-cache": {"replication": "none", "flush": "none"},
}


@attrs.frozen(kw_only=True)
class SetRow:
    """One figure: what was measured on how many nodes, and what it should be at least (``>=``) or at most (``<=``)."""

    name: str
    nodes: int
    value: float
    unit: str
    target: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        sign, _, bound = self.target.partition(" ")
        if not sign:
            return None
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


@attrs.frozen(kw_only=True)
class Extent:
    """How much is measured: seconds of a load, rounds of a comparison, single messages, hand-overs, kills, sizes, and
    for how long an idle set is watched, under which lease.

    ``sync_bytes_per_s``: rate at which a replica may be filled, 0 for no limit; ``sync_on``: a folder on the disk of
    that replica, empty for the one that all nodes share.
    """

    seconds: float = 2.0
    rounds: int = 7
    singles: int = 500
    switchovers: int = 5
    kills: int = 30
    sync_bytes: int = 512 * 1024 * 1024
    sync_bytes_per_s: int = 0
    sync_on: str = ""
    partitions: int = 10_000
    idle_seconds: float = 2 * IDLE_S
    idle_lease_ms: int = IDLE_LEASE_MS


async def throughput(
    client: Client, topic: str, seconds: float = SECONDS, value: bytes = VALUE, bytes_max: float = 1e18
) -> float:
    """Messages a second in batches, each acknowledged, for so long or for so many bytes."""
    values, sent = [value] * BATCH_MESSAGES, 0
    async with client.producer(topic, batch_messages=BATCH_MESSAGES) as producer:
        started = trio.current_time()
        waiting: deque[Delivery] = deque()
        while trio.current_time() - started < seconds and sent * len(value) < bytes_max:
            waiting += producer.post_many(values)
            sent += len(values)
            while len(waiting) > IN_FLIGHT_BATCHES:
                await waiting.popleft().wait()
        for delivery in waiting:
            await delivery.wait()
        return sent / (trio.current_time() - started)


async def latency_us(client: Client, topic: str, count: int = SINGLES) -> float:
    """Median time of one message, one in flight."""
    times = []
    async with client.producer(topic) as producer:
        for _ in range(count):
            before = time.perf_counter()
            await producer.send(VALUE)
            times.append(time.perf_counter() - before)
    return statistics.median(times) * 1e6


async def _in_turns(rounds: int, measures: Mapping[str, Callable[[], Awaitable[float]]]) -> dict[str, list[float]]:
    """Return what each of ``measures`` gave in each round; they take turns, forwards and backwards."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name in list(measures) if number % 2 else reversed(list(measures)):
            value = await measures[name]()
            if number:  # the first round warms up
                found[name].append(value)
    return found


def _ratio(values: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


async def _throughput(running: RunningSet, client: Client, extent: Extent) -> AsyncIterator[SetRow]:
    nodes = len(running.pids)
    policies = ["none", "async", "sync"] if nodes > 1 else ["none"]
    loads = {name: partial(throughput, client, name, extent.seconds) for name in policies}
    found = await _in_turns(extent.rounds, loads)
    for name, values in found.items():
        yield SetRow(name=f"batches-{name}", nodes=nodes, value=statistics.median(values), unit="msg/s")
    if nodes > 1:
        share = _ratio(found["sync"], found["async"])
        yield SetRow(name="batches-sync-of-async", nodes=nodes, value=share, unit="", target=">= 0.9")


async def _latency(running: RunningSet, client: Client, extent: Extent) -> AsyncIterator[SetRow]:
    """What replication adds to one message, by what a broker that is alone takes in all.

    That is one round trip, an append and, with ``disk``, a flush: as much as replication may add.
    """
    nodes = len(running.pids)
    names = list(POLICIES) if nodes > 1 else ["none", "none-page-cache"]
    found = await _in_turns(extent.rounds, {name: partial(latency_us, client, name, extent.singles) for name in names})
    for name, values in found.items():
        yield SetRow(name=f"single-{name}", nodes=nodes, value=statistics.median(values), unit="us")
    for level in ("", "-page-cache") if nodes > 1 else ():
        alone = found[f"none{level}"]
        added = [one - other for one, other in zip(found[f"sync{level}"], alone, strict=True)]
        share = _ratio(added, alone)
        yield SetRow(name=f"single-added{level}-of-alone", nodes=nodes, value=share, unit="", target="<= 1")


async def _lag(running: RunningSet, client: Client, extent: Extent) -> AsyncIterator[SetRow]:
    """How far replicas lack behind under full load, in the time in which that much was acknowledged."""
    nodes, lags = len(running.pids), list[int]()

    async def sample() -> None:
        async with connect(running.url_of(await running.primary())) as watching:
            while True:
                members = await watching.sets.replicas()
                lags.append(max((each.lag_messages or 0 for each in members), default=0))
                await trio.sleep(LAG_EVERY_S)

    if nodes > 1:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sample)
            rate = await throughput(client, "async", 3 * extent.seconds)
            nursery.cancel_scope.cancel()
        at = sorted(lags)[min(len(lags) - 1, len(lags) * 99 // 100)]
        yield SetRow(name="lag-p99", nodes=nodes, value=at / rate * 1e3, unit="ms", target="<= 20")


async def _gap_s(client: Client, act: Callable[[], Awaitable[None]]) -> float:
    """Longest time between two acknowledgements of a stream while ``act()``, a coroutine function, is carried out."""
    times: list[float] = []

    async def stream() -> None:
        async with client.producer("sync") as producer:
            while True:
                await producer.send(VALUE)
                times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        await trio.sleep(1)
        began = trio.current_time()
        await act()
        # Until the stream goes on, which is what the longest pause is about.
        while not times or times[-1] < began + 0.5 or trio.current_time() < began + 1:  # noqa: ASYNC110 - times
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return max(after - before for before, after in pairwise(times))


async def _switchover(running: RunningSet, client: Client, extent: Extent) -> AsyncIterator[SetRow]:
    async def act() -> None:
        async with connect(running.url_of(await running.primary())) as primary:
            await primary.sets.switch_over()

    nodes, gaps = len(running.pids), []
    for _ in range(extent.switchovers if nodes > 1 else 0):
        await running.until_in_sync()
        gaps.append(await _gap_s(client, act))
    if gaps:
        yield SetRow(name="switchover-median", nodes=nodes, value=statistics.median(gaps), unit="s", target="<= 1")
        yield SetRow(name="switchover-worst", nodes=nodes, value=max(gaps), unit="s")


async def _failover(running: RunningSet, client: Client, extent: Extent) -> AsyncIterator[SetRow]:
    async def act() -> None:
        running.kill(await running.primary())

    nodes, gaps, bound = len(running.pids), [], LEASE_MS / 1000 + 1
    for _ in range(extent.kills if nodes > 2 else 0):
        await running.until_in_sync()
        gaps.append(await _gap_s(client, act))
    if gaps:
        median = statistics.median(gaps)
        yield SetRow(name="failover-median", nodes=nodes, value=median, unit="s", target=f"<= {bound:g}")
        yield SetRow(name="failover-worst", nodes=nodes, value=max(gaps), unit="s", target=f"<= {bound:g}")


async def _first_sync(running: RunningSet, client: Client, extent: Extent) -> AsyncIterator[SetRow]:
    """A replica comes back with an empty disk: how fast it is filled, and what acknowledgements take meanwhile.

    Twice: while nobody sends, as fast as it can be, and while one message after the other is sent.
    """
    nodes = len(running.pids)
    if nodes < 3:
        return
    await throughput(client, "async", 1e9, KIB, extent.sync_bytes)
    await running.until_in_sync()
    primary = await running.primary()
    name = next(each for each in running.pids if each != primary)
    alone = await latency_us(client, "sync", extent.singles)
    rate, _ = await _filled(running, client, extent, name, is_beside=False)
    beside_rate, beside = await _filled(running, client, extent, name, is_beside=True)
    if not rate or not beside:
        print("first-sync: it was filled before it could be watched: --sync-bytes gives it more", file=sys.stderr)
        return
    yield SetRow(name="first-sync", nodes=nodes, value=rate / 1e6, unit="MB/s")
    disk = await trio.to_thread.run_sync(_disk_rate, running.folder, extent.seconds)
    yield SetRow(name="first-sync-of-disk", nodes=nodes, value=rate / disk, unit="", target=">= 0.8")
    yield SetRow(name="first-sync-beside-singles", nodes=nodes, value=beside_rate / 1e6, unit="MB/s")
    slower = statistics.median(beside) / alone
    yield SetRow(name="single-beside-first-sync", nodes=nodes, value=slower, unit="", target="<= 1.2")


async def _filled(
    running: RunningSet, client: Client, extent: Extent, name: str, *, is_beside: bool
) -> tuple[float, list[float]]:
    """The node ``name`` loses its disk and comes back: bytes a second, and what one message took meanwhile, in us."""
    running.held[name] = trio.Event()
    running.kill(name)
    await trio.sleep(2 * LEASE_MS / 1000)
    disk = os.path.join(running.folder, name)
    await trio.to_thread.run_sync(_removed, disk)
    with tempfile.TemporaryDirectory(dir=extent.sync_on) if extent.sync_on else nullcontext() as place:
        if place is not None:
            os.symlink(place, disk)
        return await _watched(running, client, extent, name, is_beside=is_beside)


def _removed(folder: str) -> None:
    if os.path.islink(folder):
        os.unlink(folder)
    else:
        shutil.rmtree(folder)


async def _watched(
    running: RunningSet, client: Client, extent: Extent, name: str, *, is_beside: bool
) -> tuple[float, list[float]]:
    filled: list[tuple[float, int]] = []  # since it lacks nearly all, until it lacks next to nothing
    beside: list[float] = []
    in_sync = trio.Event()

    async def watch() -> None:
        is_added = False
        async with connect(running.url_of(await running.primary())) as primary:
            while not in_sync.is_set():
                with suppress(MqcoreError):
                    if not is_added:
                        await primary.sets.add_replica(name, sync_bytes_per_s=extent.sync_bytes_per_s or None)
                        is_added = True
                    (member,) = [each for each in await primary.sets.replicas() if each.name == name]
                    if (member.lag_messages or 0) > 2 * BATCH_MESSAGES:
                        filled.append((trio.current_time(), member.lag_messages or 0))
                    elif is_added and member.in_sync:
                        in_sync.set()
                await trio.sleep(FILLED_EVERY_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        running.held.pop(name).set()
        while is_beside and not in_sync.is_set():
            if filled:
                beside.append(await latency_us(client, "sync", 5))
            else:
                await trio.sleep(FILLED_EVERY_S)
    if len(filled) < 2:
        return 0.0, beside
    return (filled[0][1] - filled[-1][1]) * len(KIB) / (filled[-1][0] - filled[0][0]), beside


def _disk_rate(folder: str, seconds: float) -> float:
    """Bytes a second that the disk takes by itself, flushed."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        found = measure("_probe", place, BATCH_MESSAGES, IN_FLIGHT_BATCHES, 0, seconds, 2)
    return float(found["messages"]) * len(KIB) / float(found["seconds"])


async def _idle(nodes: int, extent: Extent) -> AsyncIterator[SetRow]:
    """What a set of many partitions costs while nobody sends: bytes, processor time, wake-ups, all nodes together.

    And how many reigns that took: a node that is too busy to renew its lease loses it.
    """
    for partitions in (1, extent.partitions):
        with tempfile.TemporaryDirectory() as folder:
            async with running_set(nodes, folder, "memory://", extent.idle_lease_ms) as running:
                async with connect(*running.urls, request_timeout_ms=300_000) as client:
                    with suppress(OutcomeUnknownError):  # a reign may have ended meanwhile: it is there all the same
                        await client.admin.create_topic("many", partitions=partitions)
                    await client.admin.describe_topic("many")
                await running.until_in_sync()
                await trio.sleep(IDLE_S)
                first = await _epoch_of(running)
                began, before, (used, switches) = time.monotonic(), await bytes_sent(running), _load_of(running)
                await trio.sleep(extent.idle_seconds)
                seconds, sent, (used_since, switches_since) = (
                    time.monotonic() - began, await bytes_sent(running), _load_of(running)
                )  # fmt: skip
                reigns = 1 + await _epoch_of(running) - first
        name = f"idle-{partitions}"
        yield SetRow(name=f"{name}-reigns", nodes=nodes, value=reigns, unit="", target="<= 1")
        yield SetRow(name=f"{name}-bytes", nodes=nodes, value=(sent - before) / seconds, unit="B/s")
        yield SetRow(name=f"{name}-processor", nodes=nodes, value=100 * (used_since - used) / seconds, unit="%")
        yield SetRow(name=f"{name}-wake-ups", nodes=nodes, value=(switches_since - switches) / seconds, unit="1/s")


async def _epoch_of(running: RunningSet) -> int:
    async with connect(running.url_of(await running.primary())) as client:
        return (await client.sets.describe()).epoch


_load_of = seconds_and_switches
MEASURES = {
    "throughput": _throughput,
    "latency": _latency,
    "lag": _lag,
    "switchover": _switchover,
    "failover": _failover,
    "first-sync": _first_sync,
}


async def _measure(
    nodes: int, names: Sequence[str], extent: Extent, data: Path | None, say: Callable[[SetRow], None]
) -> None:
    for name in names:
        if name == "idle":
            async for row in _idle(nodes, extent):
                say(row)
            continue
        with tempfile.TemporaryDirectory(dir=data) as folder:
            async with running_set(nodes, folder) as running, connect(*running.urls) as client:
                for topic, config in POLICIES.items():
                    if nodes > 1 or config["replication"] == "none":
                        await client.admin.create_topic(topic, config=config)
                async for row in MEASURES[name](running, client, extent):
                    say(row)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what ``arguments`` ask for and print a line as each figure is known."""
    every = [*MEASURES, "idle"]
    parser = argparse.ArgumentParser(prog="python -m mqcore_bench.replication", description=__doc__)
    parser.add_argument("nodes", nargs="*", type=int, default=[2, 3], help="sizes of the sets [2 3]")
    parser.add_argument("--only", metavar="NAMES", default=",".join(every), help=f"by comma: {', '.join(every)}")
    parser.add_argument("--data", type=Path, help="where logs are written [the system's temporary folder]")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    for field in attrs.fields(Extent):
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=type(field.default), default=field.default, help=f"[{field.default}]")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",")
    if strangers := sorted({*names} - {*every}):
        parser.error(f"no measurement {strangers[0]!r}; one of {', '.join(every)}")
    extent = Extent(**{field.name: getattr(asked, field.name) for field in attrs.fields(Extent)})
    if asked.output == "text":
        print("| nodes | what | value | unit | target | |\n|---|---|---|---|---|---|")
    for nodes in asked.nodes:
        trio.run(_measure, nodes, names, extent, asked.data, _say_json if asked.output == "json" else _say)


def _say_json(row: SetRow) -> None:
    print(json.dumps({**attrs.asdict(row), "met": row.is_met}), flush=True)


def _say(row: SetRow) -> None:
    met = {True: "met", False: "missed", None: ""}[row.is_met]
    print(f"| {row.nodes} | {row.name} | {row.value:.4g} | {row.unit} | {row.target} | {met} |", flush=True)


if __name__ == "__main__":
    main()
