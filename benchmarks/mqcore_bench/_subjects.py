"""How toy and probe do a piece of work. Each function measures once and returns one value in the row's unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from mqcore_bench._children import data_directory, measure, serving
from mqcore_bench._rows import Consume, Publish, Work
from mqcore_bench._segments import SEGMENT_BYTES

__all__ = [
    "BURST_SEGMENTS",
    "MESSAGE_BYTES",
    "OWN_LISTEN",
    "OWN_STORAGE",
    "BenchSettings",
    "Subject",
    "probe_for",
    "toy_for",
    "value_of",
]

MESSAGE_BYTES = 1024
OWN_STORAGE = "mmap://{dir}/storage"
OWN_LISTEN = "tcp://127.0.0.1:0"
BURST_SEGMENTS = 8
"""Segments that are made ready before a burst: 512 MiB."""
ASYNC_WINDOW_BYTES = 64 * 1024 * 1024
"""What an asynchronous flush may leave unflushed: the default of the policy."""


@attrs.frozen(kw_only=True)
class BenchSettings:
    """What a run was asked for: seconds of each measurement, bytes of a log to open or consume, where data goes.

    ``storage``: URL of the part that is measured, ``{dir}`` in it is a fresh folder; ``listen``: where the broker
    listens.
    """

    seconds: float
    size_bytes: int
    data: str | None = None
    storage: str = OWN_STORAGE
    listen: str = OWN_LISTEN


Subject = Callable[[BenchSettings], float]


def value_of(result: Mapping[str, Any], work: Publish) -> float:
    """Return the value that a load generator's result stands for, in the row's unit."""
    if not work.latency:
        return float(result["messages"] / result["seconds"])
    if "latency_us" in result:
        return float(result["latency_us"]["median"])
    return float(result["seconds"] / result["messages"] * 1e6)


def _space(work: Publish) -> tuple[object, ...]:
    return (BURST_SEGMENTS, BURST_SEGMENTS) if work.burst else (2,)


def toy_for(work: Work) -> Subject | None:
    """Return how the toy does ``work``, None where it has nothing to compare."""
    if isinstance(work, Publish):
        return lambda settings: _toy_publish(work, settings)
    if isinstance(work, Consume):
        return lambda settings: _toy_consume(work, settings)
    return None


def _toy_publish(work: Publish, settings: BenchSettings) -> float:
    total = (BURST_SEGMENTS - 1) * SEGMENT_BYTES if work.burst else 0
    with data_directory(settings.data) as directory:
        with serving("_toy", directory, work.flush, work.delay_ms, *_space(work)) as (port, _):
            result = measure("_toy_client", "publish", port, work.batch, work.window, settings.seconds, total)
    return value_of(result, work)


def _toy_consume(work: Consume, settings: BenchSettings) -> float:
    batch = 256
    messages = settings.size_bytes // MESSAGE_BYTES // batch * batch
    with data_directory(settings.data) as directory:
        with serving("_toy", directory, "async", 0, 2) as (port, _):
            measure("_toy_client", "publish", port, batch, 16, 1, messages * MESSAGE_BYTES)
            result = measure("_toy_client", "consume", port, batch, "messages", messages)
    return float(result["messages"] / result["seconds"])


def probe_for(work: Work) -> Subject | None:
    """Return how the disk alone does ``work``, None where the disk is not what it is about."""
    if not isinstance(work, Publish) or (work.batch == 1 and work.window > 1):
        return None
    return lambda settings: _probe(work, settings)


def _probe(work: Publish, settings: BenchSettings) -> float:
    window = work.window
    if work.flush == "async":
        window = max(1, ASYNC_WINDOW_BYTES // (work.batch * MESSAGE_BYTES))
    with data_directory(settings.data) as directory:
        result = measure("_probe", directory, work.batch, window, work.delay_ms, settings.seconds, *_space(work))
    return value_of(result, work)
