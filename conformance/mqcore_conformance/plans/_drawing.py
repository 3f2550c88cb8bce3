"""Plans drawn from a seed: who sends and reads what, on which storage, and the faults of a family.

And plans that are enumerated: one short run, and the same with a crash at each of its calls.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import (
    CHURN_SIZES,
    FLUSH_POLICIES,
    TAGS,
    AlterPlan,
    ConsumerPlan,
    FaultPlan,
    LibraryPlan,
    ProducerPlan,
    RunPlan,
    SeekPlan,
    SendPlan,
)
from mqcore_conformance.plans._families import FAMILIES, WINDOW_FAMILIES, tighten_window
from mqcore_conformance.plans._member_families import MEMBER_FAMILIES
from mqcore_conformance.plans._small_files import with_drawn_files

NARROW = "async(max_messages=10, max_bytes=3 KiB, max_interval=50 ms)"
"""A policy that a topic may change to: tighter bounds than those of the cells."""


def draw_plan(seed: int, *, storage: str, transport: str, flush: str | None, family: str) -> RunPlan:
    """Return the plan of a seed for one cell. ``storage``: a URL with ``{dir}``; ``flush``: text, None the default.

    ``family``: a name of ``FAMILIES`` or ``MEMBER_FAMILIES``.
    """
    rng = seeded(seed, f"plan/{storage}/{transport}/{flush}/{family}")
    partitions = rng.choice((1, 1, 2, 3))
    asynchronous = flush is not None and flush.startswith("async")
    weakest = rng.choice((None, None, "none")) if flush is not None and flush != "none" else None
    policies = ["topic"] * 6
    if flush is not None and flush != "none":
        policies.append("sync")
    if weakest is not None:
        policies.append("none")
    churn = rng.random() < 0.25
    alike = churn and rng.random() < 0.6
    producers = tuple(_producer(rng, number, partitions, policies, alike) for number in range(rng.choice((1, 2, 3))))
    consumers = tuple(_consumer(rng, number, partitions) for number in range(rng.choice((0, 1, 2))))
    slow = rng.random() < 0.5
    plan = RunPlan(
        seed=seed,
        family=family,
        storage=with_drawn_files(rng, storage),
        transport=transport,
        flush=flush,
        partitions=partitions,
        producers=producers,
        consumers=consumers,
        visible="stable" if asynchronous and rng.random() < 0.2 else "committed",
        weakest_send=weakest,
        disk_latency_us={
            "flush": rng.choice((100, 2_000, 20_000)),
            "flush_many": rng.choice((100, 2_000, 20_000)),
            "flush_directory": rng.choice((0, 500)),
        }
        if slow
        else {},
        network_latency_us=rng.choice((0, 0, 50, 5_000)),
        network_jitter_us=rng.choice((0, 0, 1_000)),
        network_pieces=rng.random() < 0.3,
        network_buffer_bytes=rng.choice((4_096, 65_536)),
        restart_after_us=rng.choice((0, 1_000, 500_000)),
        last_ending=rng.choice(("none", "none", "process-kill", "stop")),
        before_drain=rng.choice(("none", "process-kill")),
        recovery_checked=rng.random() < 0.1,
        churn=churn,
    )
    # drawn from generators of their own: what is added here leaves the rest of a seed as it was
    plan = _vary_clients(seeded(seed, f"clients/{storage}/{transport}/{flush}/{family}"), plan)
    plan = _vary_policies(seeded(seed, f"policies/{storage}/{transport}/{flush}/{family}"), plan)
    plan = _vary_tags(seeded(seed, f"tags/{storage}/{transport}/{flush}/{family}"), plan)
    plan = {**FAMILIES, **MEMBER_FAMILIES}[family](rng, plan)
    if asynchronous and family in WINDOW_FAMILIES:
        plan = tighten_window(seeded(seed, f"windows/{storage}/{transport}/{flush}/{family}"), plan)
    return plan


def _producer(rng: random.Random, number: int, partitions: int, policies: list[str], alike: bool) -> ProducerPlan:
    hurried = rng.random() < 0.5
    return ProducerPlan(
        name=f"producer-{number}",
        partition=rng.randrange(partitions),
        idempotent=rng.random() < 0.6,
        window=rng.choice((1, 3, 8)),
        retries=rng.random() < 0.7,
        sends=tuple(_send(rng, hurried, policies) for _ in range(rng.choice((3, 10, 25))))
        if not alike
        else tuple(SendPlan(sizes=CHURN_SIZES, pause_us=rng.choice((5_000, 30_000))) for _ in range(25)),
    )


def _send(rng: random.Random, hurried: bool, policies: list[str]) -> SendPlan:
    count = rng.choice((1, 1, 2, 5, 12))
    shape = rng.random()
    if shape < 0.04:
        sizes = [rng.choice((5_000, 20_000, 70_000))]
    else:
        sizes = [rng.choice((0, 1, 20, 100, 100, 600)) for _ in range(count)]
    return SendPlan(
        sizes=tuple(sizes),
        pause_us=0 if hurried else rng.choice((0, 100, 3_000, 50_000)),
        policy=rng.choice(policies),
        one_way=rng.random() < 0.04,
    )


def _consumer(rng: random.Random, number: int, partitions: int) -> ConsumerPlan:
    return ConsumerPlan(
        name=f"consumer-{number}",
        partition=rng.randrange(partitions),
        bytes_max=rng.choice((1, 2_000, 1_000_000)),
        pause_us=rng.choice((0, 0, 10_000)),
        begins_us=rng.choice((0, 0, 100_000)),
    )


# ---- variety -----------------------------------------------------------------------------------------------------


def _vary_clients(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Let some clients be those of ``mqcore.client``, some consumers come, go and seek, some topics be wide."""
    if rng.random() < 0.06:
        many = rng.choice((9, 17))
        plan = attrs.evolve(
            plan,
            partitions=many,
            producers=tuple(attrs.evolve(each, partition=rng.randrange(many)) for each in plan.producers),
            consumers=tuple(attrs.evolve(each, partition=rng.randrange(many)) for each in plan.consumers),
        )
    return attrs.evolve(
        plan,
        producers=tuple(_vary_producer(rng, each) for each in plan.producers),
        consumers=tuple(_vary_consumer(rng, each) for each in plan.consumers),
    )


def _vary_producer(rng: random.Random, producer: ProducerPlan) -> ProducerPlan:
    if rng.random() < 0.4:
        library = LibraryPlan(
            singly=rng.random() < 0.4,
            linger_ms=rng.choice((0, 0, 5)),
            batch_messages=rng.choice((16_384, 16_384, 3)),
            delivery_timeout_ms=rng.choice((60_000, 60_000, 2_000, 200)),
            codec=rng.choice(("none", "none", "none", "zlib")),
        )
        return attrs.evolve(producer, idempotent=True, library=library)
    if rng.random() < 0.15:
        at = rng.randrange(len(producer.sends))
        spoiled = attrs.evolve(producer.sends[at], spoiled=True, one_way=False)
        return attrs.evolve(producer, sends=(*producer.sends[:at], spoiled, *producer.sends[at + 1 :]))
    return producer


def _vary_consumer(rng: random.Random, consumer: ConsumerPlan) -> ConsumerPlan:
    if rng.random() < 0.4:
        consumer = attrs.evolve(consumer, library=True, every=rng.random() < 0.5, singly=rng.random() < 0.4)
    if rng.random() < 0.25:
        consumer = attrs.evolve(
            consumer, stays_us=rng.choice((2_000, 50_000)), away_us=rng.choice((1_000, 200_000, 1_000_000))
        )
    if rng.random() < 0.25:
        places = ("start", "end", str(rng.randint(0, 30)))
        seeks = [SeekPlan(after=rng.randint(1, 12), to=rng.choice(places)) for _ in range(rng.choice((1, 2)))]
        consumer = attrs.evolve(consumer, seeks=tuple(seeks))
    return consumer


def _vary_policies(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Let some brokers have a bound for all logs together, and some topics change their policies in the run."""
    if plan.flush is not None and plan.flush.startswith("async") and rng.random() < 0.25:
        plan = attrs.evolve(plan, total_bytes_max=rng.choice((3_000, 12_000)))
    if plan.flush is None or rng.random() >= 0.2:
        return plan
    alters = []
    for at_us in sorted(int(1_000_000 ** rng.random()) for _ in range(rng.choice((1, 2, 4)))):
        if rng.random() < 0.8:
            alter = AlterPlan(at_us=at_us, flush=rng.choice((*FLUSH_POLICIES.values(), NARROW, "")))
        else:
            alter = AlterPlan(at_us=at_us, visible=rng.choice(("stable", "committed")))
        if rng.random() < 0.2:
            alter = attrs.evolve(alter, weakest_send=rng.choice(("none", FLUSH_POLICIES["async"], "")))
        alters.append(alter)
    return attrs.evolve(plan, alters=tuple(alters))


def _vary_tags(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Let messages have tags in some runs, and some consumers ask for a few of them."""
    if rng.random() >= 0.3:
        return plan
    return attrs.evolve(
        plan,
        producers=tuple(attrs.evolve(each, tagged=rng.random() < 0.8) for each in plan.producers),
        consumers=tuple(
            attrs.evolve(each, tags=tuple(rng.sample(TAGS, rng.choice((1, 1, 2))))) if rng.random() < 0.7 else each
            for each in plan.consumers
        ),
    )


CRASH_POINTS = "crash-points"
"""The family that is not drawn but enumerated: a crash at every call of the file system of a short run."""


CRASHES = (("process-kill", "power-cut"), ("power-cut",))
"""Kinds of crashes in each variant of a run; what a power cut keeps is drawn anew in each."""


def crash_point_bases(seed: int, *, storage: str, transport: str, flush: str | None) -> list[RunPlan]:
    """Return the variants of a plan of three batches and no fault, in which every call is to be a crash point."""
    rng = seeded(seed, f"crash-points/{storage}/{flush}")
    sends = tuple(SendPlan(sizes=sizes) for sizes in ((100,), (0, 1, 600), (rng.choice((300, 5_000)),)))
    producer = ProducerPlan(
        name="producer-0", partition=0, idempotent=True, window=rng.choice((1, 2)), retries=True, sends=sends
    )
    base = RunPlan(
        seed=seed,
        family=CRASH_POINTS,
        storage=with_drawn_files(rng, storage),
        transport=transport,
        flush=flush,
        partitions=1,
        producers=(producer,),
        consumers=(),
        before_drain="power-cut",
    )
    return [attrs.evolve(base, seed=seed * 1000 + salt) for salt in range(len(CRASHES))]


def crash_points(base: RunPlan, calls: Iterable[int]) -> Iterator[RunPlan]:
    """Give ``base``, a variant, with each of its crashes at each of ``calls``."""
    for call in calls:
        for kind in CRASHES[base.seed % 1000]:
            yield attrs.evolve(base, faults=(FaultPlan(kind, "call", call),))
