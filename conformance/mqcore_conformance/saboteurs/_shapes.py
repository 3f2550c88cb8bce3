"""Shapes: what is made of a drawn plan so that a rare bug shows within a few seeds, however plans are drawn.

A shape leaves the plan in its cell: same storage, transport, policy and family. Knows plans only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from mqcore_conformance.plans import CHURN_SIZES, TAGS, ConsumerPlan, FaultPlan, ProducerPlan, RunPlan, SendPlan


def small_segments(plan: RunPlan) -> RunPlan:
    """Roll often; every flush goes to the segments themselves."""
    url = plan.storage.partition("?")[0]
    options = "segment_bytes=4096&first_extent_bytes=4096&extent_bytes_max=4096&journal_range_bytes_max=0"
    return attrs.evolve(plan, storage=f"{url}?{options}")


def _shaped(plan: RunPlan, sends: tuple[SendPlan, ...], *faults: FaultPlan, window: int = 4, **changes: Any) -> RunPlan:
    """Return the plan with one partition, one producer of ``sends``, these faults, and other ``changes``."""
    producer = ProducerPlan(name="producer-0", partition=0, idempotent=True, window=window, retries=True, sends=sends)
    return attrs.evolve(plan, partitions=1, producers=(producer,), faults=faults, **changes)


def large_batches(plan: RunPlan) -> RunPlan:
    """Batches that a roll has to follow soon, many in flight, then a power cut."""
    sends = tuple(SendPlan(sizes=(900 + 300 * (number % 5),)) for number in range(20))
    cut = FaultPlan(kind="power-cut", trigger="acks", when=4 + plan.seed % 8)
    return small_segments(_shaped(plan, sends, cut, consumers=(), last_ending="none", churn=False))


def same_files_again(plan: RunPlan) -> RunPlan:
    """Two logs of one shape take turns in small segments, so that old bytes lie where a new batch may end."""
    sends = tuple(SendPlan(sizes=CHURN_SIZES, pause_us=10_000 + 2_000 * (plan.seed % 20)) for _ in range(25))
    kill = FaultPlan(kind="process-kill", trigger="acks", when=6 + plan.seed % 9)
    shaped = _shaped(plan, sends, kill, window=1, consumers=(), churn=True, last_ending="none", restart_after_us=0)
    return small_segments(attrs.evolve(shaped, disk_latency_us={}, network_latency_us=0, network_jitter_us=0))


def recovery_checked(plan: RunPlan) -> RunPlan:
    """Recover the final disk with and without a crash in it."""
    return attrs.evolve(plan, recovery_checked=True)


def failing_flush_then(ending: str) -> Callable[[RunPlan], RunPlan]:
    """A flush fails, the broker ends by ``ending``, and later the power is cut."""

    def shape(plan: RunPlan) -> RunPlan:
        sends = tuple(SendPlan(sizes=(2_500,), pause_us=30_000) for _ in range(20))
        fault = FaultPlan(kind="flush-error", trigger="acks", when=1 + plan.seed % 6)
        return _shaped(plan, sends, fault, last_ending=ending, before_drain="power-cut", churn=False)

    return shape


def power_cut_in_a_stall(plan: RunPlan) -> RunPlan:
    """Many small batches; a flush takes half a minute, and the power is cut in it."""
    sends = tuple(SendPlan(sizes=(100,) * 5, pause_us=5_000) for _ in range(25))
    stall = FaultPlan(kind="stall", trigger="acks", when=1 + plan.seed % 5, duration_us=30_000_000, target="flush")
    many = attrs.evolve(stall, target="flush_many")
    cut = FaultPlan(kind="power-cut", trigger="time", when=110_000)
    return _shaped(plan, sends, stall, many, cut, window=8, visible="committed", weakest_send=None)


def retries_in_a_stall(plan: RunPlan) -> RunPlan:
    """Connections break while a flush takes long, so that retries meet what is not flushed yet."""
    sends = tuple(SendPlan(sizes=(100,), pause_us=1_000) for _ in range(20))
    when = 2 + plan.seed % 9
    stall = FaultPlan(kind="stall", trigger="acks", when=when, duration_us=500_000, target="flush")
    flap = FaultPlan(kind="flap", trigger="acks", when=when + 1, duration_us=300_000, amount=10)
    later = FaultPlan(kind="flap", trigger="time", when=30_000 + 5_000 * (plan.seed % 10), amount=15)
    return _shaped(plan, sends, stall, attrs.evolve(stall, target="flush_many"), flap, later)


def appends_beside_a_failing_flush(plan: RunPlan) -> RunPlan:
    """A slow flush fails, of which some sectors reach the device, while more is appended; then the broker is killed."""
    sends = tuple(SendPlan(sizes=(100,), pause_us=1_000) for _ in range(25))
    fault = FaultPlan(kind="flush-error", trigger="acks", when=1 + plan.seed % 6, amount=1)
    slow = {"flush": 20_000, "flush_many": 20_000}
    shaped = _shaped(plan, sends, fault, window=8, disk_latency_us=slow)
    return attrs.evolve(shaped, last_ending="process-kill", before_drain="none")


def reader_over_a_power_cut(plan: RunPlan) -> RunPlan:
    """A consumer has read what a power cut takes, and reads on where others have taken its place."""
    sends = tuple(SendPlan(sizes=(700,), pause_us=5_000) for _ in range(25))
    consumer = ConsumerPlan(name="consumer-0", partition=0, bytes_max=1_000_000, pause_us=0)
    cut = FaultPlan(kind="power-cut", trigger="acks", when=4 + plan.seed % 8)
    shaped = _shaped(plan, sends, cut, consumers=(consumer,), restart_after_us=0)
    return attrs.evolve(shaped, last_ending="none", before_drain="none")


def reads_by_tags(plan: RunPlan) -> RunPlan:
    """Batches of several tags, and consumers that ask for one each; the broker lives from the start to the drain."""
    sends = tuple(SendPlan(sizes=(60,) * (1 + number % 4), pause_us=2_000) for number in range(25))
    consumers = tuple(
        ConsumerPlan(name=f"consumer-{number}", partition=0, bytes_max=1_000_000, pause_us=0, tags=(tag,))
        for number, tag in enumerate(TAGS)
    )
    shaped = _shaped(plan, sends, consumers=consumers, weakest_send=None, last_ending="none", before_drain="none")
    return attrs.evolve(shaped, producers=tuple(attrs.evolve(each, tagged=True) for each in shaped.producers))


def runs_on(plan: RunPlan) -> RunPlan:
    """The broker lives from the start to the drain; many small batches, one after the other."""
    sends = tuple(SendPlan(sizes=(100,)) for _ in range(25))
    return _shaped(plan, sends, window=1, weakest_send=None, last_ending="none", before_drain="none")


def retries_over_a_trim(plan: RunPlan) -> RunPlan:
    """One producer sends much, so that the log is trimmed; others send once, and are cut off without an answer."""
    flood = (SendPlan(sizes=(1_500,)),) * 60
    shaped = _shaped(plan, flood, window=8, consumers=(), weakest_send=None, last_ending="none", before_drain="none")
    producers = [attrs.evolve(shaped.producers[0], idempotent=False, retries=False)]
    for number in range(1, 25):
        once = (SendPlan(sizes=(100,), pause_us=60_000 + 1_000 * number),)
        producers.append(attrs.evolve(shaped.producers[0], name=f"producer-{number}", sends=once))
    reset = FaultPlan(kind="reset", trigger="time", when=126_000 + 2_000 * (plan.seed % 15))
    slow = {"flush": 3_000, "flush_many": 3_000}
    timed = attrs.evolve(shaped, disk_latency_us=slow, network_latency_us=5_000, network_jitter_us=0)
    return small_segments(
        attrs.evolve(timed, producers=tuple(producers), faults=(reset,), network_pieces=False, retention_bytes=40_000)
    )
