"""Asynchronous windows as tight as they can be, and a power cut when they are full: what G03 is judged by.

Small batches keep coming while the device does not flush; then the power goes. Must not know how faults are done.
"""

from __future__ import annotations

import random

import attrs

from mqcore_conformance.plans._data import FaultPlan, ProducerPlan, RunPlan, SendPlan

__all__ = ["WINDOW_FAMILIES", "tighten_window"]

WINDOW_FAMILIES = frozenset({"power-cut", "slow", "mixed"})
"""Families in which the power is cut while flushes are slow."""
WIDE = "async(max_messages=1000)"
"""Bounds that a short run never meets, for a broker whose bound of all logs together is the one in question."""


def tighten_window(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Give half of the plans one tight bound, producers that fill it, and a power cut in a flush that stalls."""
    if rng.random() < 0.5:
        return plan
    bound = rng.choice(("messages", "bytes", "interval", "total"))
    flush, total_bytes_max, cut_us = WIDE, None, rng.choice((20_000, 60_000))
    pauses: tuple[int, ...] = (0, 0, 500, 3_000)
    if bound == "messages":
        flush = f"async(max_messages={rng.randint(2, 8)})"
    elif bound == "bytes":
        flush = f"async(max_bytes={rng.randint(300, 2_000)} B)"
    elif bound == "interval":
        interval_ms = rng.choice((5, 10, 20, 50))
        flush, pauses, cut_us = f"async(max_interval={interval_ms} ms)", (1_000, 3_000), interval_ms * 3_500
    else:
        total_bytes_max = rng.randint(600, 2_000)
    partitions = rng.choice((2, 3)) if bound == "total" else rng.choice((1, 1, 2))
    faults = _cuts_in_stalls(rng, cut_us)
    return attrs.evolve(
        plan,
        flush=flush,
        total_bytes_max=total_bytes_max,
        partitions=partitions,
        producers=tuple(_producer(rng, number, number % partitions, pauses) for number in range(partitions + 1)),
        consumers=tuple(attrs.evolve(each, partition=each.partition % partitions) for each in plan.consumers),
        alters=(),
        faults=(*faults, *(plan.faults if rng.random() < 0.3 else ())),
        disk_latency_us={name: rng.choice((100, 2_000, 10_000)) for name in ("flush", "flush_many")},
        network_latency_us=rng.choice((0, 0, 50)),
        network_jitter_us=0,
        churn=False,
    )


def _cuts_in_stalls(rng: random.Random, cut_us: int) -> tuple[FaultPlan, ...]:
    strikes = sorted(rng.randint(1, 60) for _ in range(rng.choice((1, 2))))
    return tuple(
        FaultPlan(
            "power-cut-in-stall",
            "acks",
            when,
            duration_us=max(rng.choice((500_000, 5_000_000, 30_000_000)), 2 * cut_us),
            amount=cut_us,
        )
        for when in strikes
    )


def _producer(rng: random.Random, number: int, partition: int, pauses: tuple[int, ...]) -> ProducerPlan:
    """A producer that never lets up: batches of one message or of a few small ones."""
    sends = tuple(
        SendPlan(
            sizes=tuple(rng.choice((0, 20, 100)) for _ in range(rng.choice((1, 1, 1, 2)))),
            pause_us=rng.choice(pauses),
            one_way=rng.random() < 0.03,
        )
        for _ in range(60)
    )
    return ProducerPlan(
        name=f"producer-{number}",
        partition=partition,
        idempotent=rng.random() < 0.5,
        window=8,
        retries=rng.random() < 0.7,
        sends=sends,
    )
