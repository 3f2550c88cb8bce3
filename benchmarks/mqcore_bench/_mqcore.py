"""How mqcore does a piece of work: a broker and its load in processes of their own, over TCP on the loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import Any

from mqcore_bench._children import ChildFailed, data_directory, end, measure, resident_bytes, serving
from mqcore_bench._rows import Consume, Memory, Open, Publish, Quiet, Scale, Simulate, Spread, Work
from mqcore_bench._segments import SEGMENT_BYTES
from mqcore_bench._subjects import BURST_SEGMENTS, MESSAGE_BYTES, OWN_STORAGE, BenchSettings, Subject, value_of

__all__ = ["mqcore_for"]

IDLE_CONNECTIONS = 200
IDLE_PARTITIONS = 1_000


def mqcore_for(work: Work) -> Subject:
    """Return how mqcore does ``work``."""
    return lambda settings: _measure(work, settings)


@contextmanager
def _broker(
    settings: BenchSettings, directory: str, flush: str = "sync", delay_ms: float = 0, options: str = ""
) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """A broker on the part under test, its data in ``directory``: what it printed at start, and its process."""
    storage = settings.storage.replace("{dir}", directory)
    if options:
        storage += f"{'&' if '?' in storage else '?'}{options}"
    listen = settings.listen.replace("{dir}", directory)
    with serving("_broker", storage, listen, flush, delay_ms) as (line, process):
        yield json.loads(line), process


@singledispatch
def _measure(work: Work, settings: BenchSettings) -> float:
    raise ChildFailed(f"there is no measurement of {work}")


@_measure.register
def _publish(work: Publish, settings: BenchSettings) -> float:
    with data_directory(settings.data) as directory:
        # Only our own storage makes segments ready: of another part a burst measures what it does with as many bytes.
        options = f"ready_segments_max={BURST_SEGMENTS}" if work.burst and settings.storage == OWN_STORAGE else ""
        with _broker(settings, directory, work.flush, work.delay_ms, options) as (facts, _):
            url = facts["url"]
            if work.batch == 1:
                how = "senders" if work.tasks or work.window == 1 else "singles"
                return value_of(measure("_load", how, url, work.window, settings.seconds), work)
            total = 0
            if work.burst:
                total = (BURST_SEGMENTS - 1) * SEGMENT_BYTES
                measure("_load", "publish", url, work.batch, work.window, 0, total)
                measure("_load", "delete", url)
            return value_of(measure("_load", "publish", url, work.batch, work.window, settings.seconds, total), work)


@_measure.register
def _consume(work: Consume, settings: BenchSettings) -> float:
    messages = settings.size_bytes // MESSAGE_BYTES // 256 * 256
    with data_directory(settings.data) as directory, _broker(settings, directory, "async") as (facts, _):
        url = facts["url"]
        measure("_load", "publish", url, 256, 16, 0, messages * MESSAGE_BYTES)
        result = measure("_load", "consume", url, work.form, messages)
    return float(result["messages"] / result["seconds"])


@_measure.register
def _open(work: Open, settings: BenchSettings) -> float:
    with data_directory(settings.data) as directory:
        with _broker(settings, directory, "async") as (facts, process):
            measure("_load", "publish", facts["url"], 256, 16, 0, settings.size_bytes)
            end(process, signal.SIGKILL if work.killed else signal.SIGTERM)
        with _broker(settings, directory, "async") as (facts, _):
            opened = measure("_load", "describe", facts["url"])
    return float(facts["open_seconds"] + opened["seconds"])


@_measure.register
def _memory(work: Memory, settings: BenchSettings) -> float:
    with data_directory(settings.data) as directory, _broker(settings, directory) as (facts, process):
        url = facts["url"]
        idle = resident_bytes(process.pid)
        if work.of == "idle":
            return idle / 1e6
        if work.of == "partition":
            measure("_load", "spread", url, IDLE_PARTITIONS, 1, 1, 0)
            return (resident_bytes(process.pid) - idle) / IDLE_PARTITIONS / 1e3
        with _beside("idle", url, IDLE_CONNECTIONS):
            return (resident_bytes(process.pid) - idle) / IDLE_CONNECTIONS / 1e3


@contextmanager
def _beside(how: str, *arguments: object) -> Iterator[None]:
    """Load of a process of its own for a block: entered when it says that it is under way."""
    command = [sys.executable, "-m", "mqcore_bench._load", how, *map(str, arguments)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        if not child.stdout.readline():
            raise ChildFailed(f"the load beside a measurement ({how}) did not begin")
        yield
        if child.poll() is not None:
            raise ChildFailed(f"the load beside a measurement ({how}) ended before it, with status {child.returncode}")
    finally:
        end(child)


@_measure.register
def _quiet(work: Quiet, settings: BenchSettings) -> float:
    with data_directory(settings.data) as directory, _broker(settings, directory, work.flush) as (facts, _):
        url = facts["url"]
        alone = measure("_load", "quiet", url, settings.seconds)
        with _beside("flood", url):
            beside = measure("_load", "quiet", url, settings.seconds)
    return float(beside["p99_us"] / alone["p99_us"])


@_measure.register
def _spread(work: Spread, settings: BenchSettings) -> float:
    rates = []
    for partitions, window in ((1, 64), (work.partitions, work.partitions)):
        with data_directory(settings.data) as directory:
            with _broker(settings, directory, "sync", work.delay_ms) as (facts, _):
                result = measure("_load", "spread", facts["url"], partitions, 16, window, settings.seconds)
        rates.append(result["messages"] / result["seconds"])
    return float(rates[0] / rates[1])


@_measure.register
def _scale(work: Scale, settings: BenchSettings) -> float:
    rates = []
    for partitions, connections in ((1, work.connections), (work.partitions, work.connections)):
        with data_directory(settings.data) as directory, _broker(settings, directory, "sync") as (facts, _):
            result = measure("_load", "scale", facts["url"], partitions, connections, 16, settings.seconds)
        rates.append(result["messages"] / result["seconds"])
    return float(rates[0] / rates[1])


@_measure.register
def _simulate(work: Simulate, settings: BenchSettings) -> float:
    result = measure("_simulation", settings.seconds)
    return float(result[work.of] / result["seconds"])
