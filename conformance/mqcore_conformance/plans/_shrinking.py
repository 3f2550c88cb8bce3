"""Simpler plans than one that failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from mqcore_conformance.plans._data import ConsumerPlan, LibraryPlan, ProducerPlan, RunPlan


def shrink_steps(plan: RunPlan) -> Iterator[RunPlan]:
    """Give simpler plans, the boldest first. Shrinking takes one that still fails and asks again."""
    for name in ("consumers", "alters", "groups", "names", "faults", "producers"):
        items = getattr(plan, name)
        for index in range(len(items)):
            if len(items) > 1 or name in ("consumers", "alters", "groups", "names"):
                yield attrs.evolve(plan, **{name: items[:index] + items[index + 1 :]})
    for index, producer in enumerate(plan.producers):
        count = len(producer.sends)
        for kept in (producer.sends[: count // 2], producer.sends[count // 2 :], producer.sends[:-1]):
            if 0 < len(kept) < count:
                yield _with_producer(plan, index, attrs.evolve(producer, sends=kept))
        simple = tuple(attrs.evolve(send, sizes=send.sizes[:1], pause_us=0) for send in producer.sends)
        if simple != producer.sends:
            yield _with_producer(plan, index, attrs.evolve(producer, sends=simple))
        if producer.library is not None:
            for library in (None, LibraryPlan()):
                if producer.library != library:
                    yield _with_producer(plan, index, attrs.evolve(producer, library=library))
        if producer.window > 1:
            yield _with_producer(plan, index, attrs.evolve(producer, window=1))
    for index, consumer in enumerate(plan.consumers):
        for simpler in _simpler_consumers(consumer):
            yield attrs.evolve(plan, consumers=(*plan.consumers[:index], simpler, *plan.consumers[index + 1 :]))
    plain: dict[str, Any] = {
        "disk_latency_us": {},
        "network_latency_us": 0,
        "network_jitter_us": 0,
        "network_pieces": False,
        "network_buffer_bytes": 65_536,
        "restart_after_us": 0,
        "last_ending": "none",
        "before_drain": "none",
        "recovery_checked": False,
        "churn": False,
        "weakest_send": None,
        "visible": "committed",
        "total_bytes_max": None,
        "metadata_bytes": None,
    }
    for name, value in plain.items():
        if getattr(plan, name) != value:
            yield attrs.evolve(plan, **{name: value})


def _simpler_consumers(consumer: ConsumerPlan) -> Iterator[ConsumerPlan]:
    plain: dict[str, Any] = {
        "seeks": (),
        "stays_us": 0,
        "library": False,
        "every": False,
        "singly": False,
        "pause_us": 0,
        "begins_us": 0,
    }
    for name, value in plain.items():
        if getattr(consumer, name) != value:
            yield attrs.evolve(consumer, **{name: value})


def _with_producer(plan: RunPlan, index: int, producer: ProducerPlan) -> RunPlan:
    return attrs.evolve(plan, producers=(*plan.producers[:index], producer, *plan.producers[index + 1 :]))
