"""How mqcore does a piece of work: a broker and its load in processes of their own, over TCP on the loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch

from mqcore_bench._children import ChildFailed, data_directory, end, measure, resident_bytes, serving
from mqcore_bench._rows import Consume, Memory, Open, Publish, Scale, Simulate, Spread, Work
from mqcore_bench._segments import SEGMENT_BYTES
from mqcore_bench._subjects import BURST_SEGMENTS, MESSAGE_BYTES, Settings, Subject, value_of

__all__ = ["mqcore_for"]

IDLE_CONNECTIONS = 200
IDLE_PARTITIONS = 1_000


def mqcore_for(work: Work) -> Subject:
    """Return how mqcore does ``work``."""
    return lambda settings: _measure(work, settings)


@contextmanager
def _broker(storage: str, flush: str = "sync", delay_ms: float = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with serving("_broker", storage, flush, delay_ms) as (line, process):
        yield json.loads(line)["url"], process


@singledispatch
def _measure(work: Work, settings: Settings) -> float:
    raise ChildFailed(f"nobody knows how to measure {work}")


@_measure.register
def _publish(work: Publish, settings: Settings) -> float:
    with data_directory(settings.data) as directory:
        storage = f"mmap://{directory}/storage"
        if work.burst:
            storage += f"?ready_segments_max={BURST_SEGMENTS}"
        with _broker(storage, work.flush, work.delay_ms) as (url, _):
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
def _consume(work: Consume, settings: Settings) -> float:
    messages = settings.size_bytes // MESSAGE_BYTES // 256 * 256
    with data_directory(settings.data) as directory, _broker(f"mmap://{directory}/storage", "async") as (url, _):
        measure("_load", "publish", url, 256, 16, 0, messages * MESSAGE_BYTES)
        result = measure("_load", "consume", url, work.form, messages)
    return float(result["messages"] / result["seconds"])


@_measure.register
def _open(work: Open, settings: Settings) -> float:
    with data_directory(settings.data) as directory:
        storage = f"mmap://{directory}/storage"
        with _broker(storage, "async") as (url, process):
            measure("_load", "publish", url, 256, 16, 0, settings.size_bytes)
            end(process, signal.SIGKILL if work.killed else signal.SIGTERM)
        with serving("_broker", storage, "async", 0) as (line, _):
            facts = json.loads(line)
            opened = measure("_load", "describe", facts["url"])
    return float(facts["open_seconds"] + opened["seconds"])


@_measure.register
def _memory(work: Memory, settings: Settings) -> float:
    with data_directory(settings.data) as directory, _broker(f"mmap://{directory}/storage") as (url, process):
        idle = resident_bytes(process.pid)
        if work.of == "idle":
            return idle / 1e6
        if work.of == "partition":
            measure("_load", "spread", url, IDLE_PARTITIONS, 1, 1, 0)
            return (resident_bytes(process.pid) - idle) / IDLE_PARTITIONS / 1e3
        holder = subprocess.Popen(
            [sys.executable, "-m", "mqcore_bench._load", "idle", url, str(IDLE_CONNECTIONS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            return (resident_bytes(process.pid) - idle) / IDLE_CONNECTIONS / 1e3
        finally:
            end(holder)


@_measure.register
def _spread(work: Spread, settings: Settings) -> float:
    rates = []
    for partitions, window in ((1, 64), (work.partitions, work.partitions)):
        with data_directory(settings.data) as directory:
            with _broker(f"mmap://{directory}/storage", "sync", work.delay_ms) as (url, _):
                result = measure("_load", "spread", url, partitions, 16, window, settings.seconds)
        rates.append(result["messages"] / result["seconds"])
    return float(rates[0] / rates[1])


@_measure.register
def _scale(work: Scale, settings: Settings) -> float:
    rates = []
    for partitions, connections in ((1, work.connections), (work.partitions, work.connections)):
        with data_directory(settings.data) as directory, _broker(f"mmap://{directory}/storage", "sync") as (url, _):
            result = measure("_load", "scale", url, partitions, connections, 16, settings.seconds)
        rates.append(result["messages"] / result["seconds"])
    return float(rates[0] / rates[1])


@_measure.register
def _simulate(work: Simulate, settings: Settings) -> float:
    result = measure("_simulation", settings.seconds)
    return float(result[work.of] / result["seconds"])
