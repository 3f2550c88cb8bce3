"""Families of faults of T1, and how the faults of a run are drawn. Plans are data here too; only time is real.

Must not know how a fault is done.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import FaultPlan, GroupPlan, LibraryPlan, NamePlan, ProducerPlan, RunPlan
from mqcore_conformance.plans._drawing import draw_plan

SENDS = 120
"""Batches of a producer: work for about a second."""
PAUSE_US_MAX = 2_000
PARTITIONS_MIN = 2
DELIVERY_TIMEOUT_MS_MAX = 30_000
SLOW_FLUSH = {"flush": 15_000}
"""Flushes that take long: what is acknowledged before its flush has ended is not on the disk when a kill or a power cut
comes, and most kills and power cuts come within a flush."""
KEPT_JUDGED = frozenset({"kill", "stop", "pause", "kill-at-call", "power-cut", "proxy-cut", "proxy-stall"})
"""Families in which groups and named programs are played too: no fault of theirs excuses a loss of what is kept."""
NAMES_WITHIN_US = 600_000
DIRECTIONS = ("to-broker", "from-broker")


def draw_processes_plan(seed: int, *, storage: str, transport: str, flush: str | None, family: str) -> RunPlan:
    """Return the plan of a seed for one cell of T1. Arguments as for ``draw_plan``."""
    plan = draw_plan(seed, storage=storage, transport=transport, flush=flush, family="none")
    rng = seeded(seed, f"t1/{storage}/{transport}/{flush}/{family}")
    plan = attrs.evolve(
        plan,
        tier="T1",
        family=family,
        partitions=max(plan.partitions, PARTITIONS_MIN),
        producers=_spread([_lengthened(producer) for producer in plan.producers]),
        disk_latency_us={},
        consumers=tuple(
            attrs.evolve(each, seeks=(), stays_us=0, library=each.library or number == 0)
            for number, each in enumerate(plan.consumers)
        ),
        churn=False,
        alters=(),
        total_bytes_max=None,
        last_ending="none",
        before_drain="none",
        recovery_checked=False,
    )
    plan = T1_FAMILIES[family](rng, plan)
    return _with_kept(seed, plan) if family in KEPT_JUDGED else plan


def _with_kept(seed: int, plan: RunPlan) -> RunPlan:
    """Add, to every other run, a group that commits cursors and a program that takes a name of its own again and again.

    Drawn apart, so that what else a seed plays is what it was.
    """
    own = seeded(seed, f"t1/kept/{plan.name}")
    if own.random() < 0.5:
        return plan
    group = GroupPlan(
        name="group-0", pause_us=own.choice((0, 5_000)), bytes_max=own.choice((1, 2_000)), session_ms=1_000
    )
    begins_us = (0, *sorted(own.randint(1, NAMES_WITHIN_US) for _ in range(2)))
    name = NamePlan(name="name-0", partition=0, messages=20, pause_us=own.choice((0, 3_000)), begins_us=begins_us)
    return attrs.evolve(plan, groups=(group,), names=(name,))


def _spread(producers: list[ProducerPlan]) -> tuple[ProducerPlan, ...]:
    """Let the first two producers write to two partitions: a flush of many logs may be one of the first log only."""
    if len(producers) == 1:
        producers.append(attrs.evolve(producers[0], name="producer-1"))
    return tuple(
        attrs.evolve(producer, partition=number) if number < PARTITIONS_MIN else producer
        for number, producer in enumerate(producers)
    )


def _lengthened(producer: ProducerPlan) -> ProducerPlan:
    sends = [attrs.evolve(send, pause_us=min(send.pause_us, PAUSE_US_MAX), spoiled=False) for send in producer.sends]
    library = producer.library or (LibraryPlan() if producer.idempotent else None)
    if library is not None:
        timeout_ms = min(library.delivery_timeout_ms, DELIVERY_TIMEOUT_MS_MAX)
        library = attrs.evolve(library, delivery_timeout_ms=timeout_ms)
    return attrs.evolve(producer, library=library, sends=tuple((sends * SENDS)[:SENDS]))


def _acks(rng: random.Random) -> int:
    return rng.choice((rng.randint(1, 10), rng.randint(1, 80)))


def _no_faults(rng: random.Random, plan: RunPlan) -> RunPlan:
    return plan


def _signals(kind: str) -> Callable[[random.Random, RunPlan], RunPlan]:
    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        faults = tuple(
            FaultPlan(kind, "acks", _acks(rng), duration_us=rng.choice((0, 0, 50_000, 200_000)))
            for _ in range(rng.choice((1, 2, 3)))
        )
        return attrs.evolve(plan, faults=faults, last_ending=kind, disk_latency_us=SLOW_FLUSH)

    return draw


def _pauses(rng: random.Random, plan: RunPlan) -> RunPlan:
    durations = (50_000, 400_000)
    faults = tuple(
        FaultPlan("pause", "acks", _acks(rng), duration_us=rng.choice(durations)) for _ in range(rng.choice((1, 2, 3)))
    )
    return attrs.evolve(plan, faults=faults)


def _kills_at_calls(rng: random.Random, plan: RunPlan) -> RunPlan:
    """One for each life: the first ones early or late, the next ones within a recovery as likely as not.

    Where nothing is flushed there are few calls.
    """
    first, later = ((40, 80, 150), (40, 80)) if plan.flush == "none" else ((60, 300, 900), (40, 150, 600))
    faults = []
    for number in range(rng.choice((2, 3, 4))):
        calls = rng.choice(later if number else first)
        how = rng.choice(("before", "after", "torn"))
        faults.append(FaultPlan("process-kill", "call", rng.randint(1, calls), target=how))
    return attrs.evolve(plan, faults=tuple(faults), last_ending="process-kill")


def _power_cuts(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((1, 2))):
        if rng.random() < 0.3:
            how = rng.choice(("before", "torn"))
            faults.append(FaultPlan("power-cut", "call", rng.randint(1, 900), target=how))
        else:
            faults.append(FaultPlan("power-cut", "acks", _acks(rng)))
    return attrs.evolve(plan, faults=tuple(faults), last_ending="power-cut", disk_latency_us=SLOW_FLUSH)


def _full_disk(rng: random.Random, plan: RunPlan) -> RunPlan:
    fault = FaultPlan(
        "full", "acks", _acks(rng), amount=rng.choice((0, 4096, 20_000)), duration_us=rng.choice((200_000, 800_000))
    )
    return attrs.evolve(plan, faults=(fault,), last_ending=rng.choice(("none", "process-kill", "stop")))


def _flush_errors(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = tuple(
        FaultPlan("flush-error", "acks", _acks(rng), amount=rng.choice((0, 0, 1, 3)), target=ending)
        for ending in rng.sample(("power-cut", "power-cut", "process-kill"), rng.choice((1, 2)))
    )
    return attrs.evolve(plan, faults=faults, last_ending="power-cut")


def _proxy_cuts(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((2, 3, 4))):
        target = f"{rng.choice(DIRECTIONS)}/{rng.choice(('reset', 'close', 'half-close'))}"
        amount = rng.choice((0, rng.randint(1, 40), rng.randint(1, 3_000)))
        faults.append(FaultPlan("proxy-cut", "acks", _acks(rng), amount=amount, target=target))
    return attrs.evolve(plan, faults=(*faults, *_sometimes_kill(rng)))


def _proxy_stalls(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = [
        FaultPlan(
            "proxy-stall",
            "acks",
            _acks(rng),
            duration_us=rng.choice((100_000, 500_000, 1_500_000)),
            target=rng.choice(("both", *DIRECTIONS)),
        )
        for _ in range(rng.choice((1, 2)))
    ]
    return attrs.evolve(plan, faults=(*faults, *_sometimes_kill(rng)))


def _proxy_duplicates(rng: random.Random, plan: RunPlan) -> RunPlan:
    """A frame that comes twice is sent twice: only an idempotent producer is safe from that, so all are."""
    faults = [
        FaultPlan(
            "proxy-duplicate",
            "acks",
            _acks(rng),
            amount=rng.choice((0, 1, 7)),
            target=rng.choice(("to-broker/frame", "to-broker/frame", "from-broker/frame", "to-broker/bytes")),
        )
        for _ in range(rng.choice((2, 4)))
    ]
    producers = tuple(
        attrs.evolve(
            producer,
            idempotent=True,
            library=producer.library or LibraryPlan(delivery_timeout_ms=DELIVERY_TIMEOUT_MS_MAX),
            sends=tuple(attrs.evolve(send, one_way=False) for send in producer.sends),
        )
        for producer in plan.producers
    )
    return attrs.evolve(plan, producers=producers, faults=tuple(faults))


def _sometimes_kill(rng: random.Random) -> list[FaultPlan]:
    return [FaultPlan("process-kill", "acks", _acks(rng))] if rng.random() < 0.4 else []


T1_FAMILIES: Mapping[str, Callable[[random.Random, RunPlan], RunPlan]] = MappingProxyType(
    {
        "none": _no_faults,
        "kill": _signals("process-kill"),
        "stop": _signals("stop"),
        "pause": _pauses,
        "kill-at-call": _kills_at_calls,
        "power-cut": _power_cuts,
        "full": _full_disk,
        "flush-error": _flush_errors,
        "proxy-cut": _proxy_cuts,
        "proxy-stall": _proxy_stalls,
        "proxy-duplicate": _proxy_duplicates,
    }
)
"""Families of faults: columns of the report, each with what draws its faults."""

CONTROLLED_FAMILIES = frozenset({"kill-at-call", "power-cut", "full", "flush-error"})
"""Families in which the child's files are not the machine's own."""

DIVERTED_FAMILIES = CONTROLLED_FAMILIES | {"kill"}
"""Families in which the suite decides on the system calls of a storage that does its own I/O."""

PROXY_FAMILIES = frozenset({"proxy-cut", "proxy-stall", "proxy-duplicate"})
"""Families in which clients reach the broker through the suite's proxy."""


def simpler_plans(plan: RunPlan) -> Iterator[RunPlan]:
    """Give simpler plans, the boldest first: fewer faults, clients, sends. A few only: each costs seconds."""
    producers = plan.producers
    if len(producers) > 1 or plan.consumers:
        yield attrs.evolve(plan, producers=producers[:1], consumers=())
    for index in range(len(plan.faults) if len(plan.faults) > 1 else 0):
        yield attrs.evolve(plan, faults=plan.faults[:index] + plan.faults[index + 1 :])
    if any(len(producer.sends) > 20 for producer in producers):
        yield attrs.evolve(
            plan, producers=tuple(attrs.evolve(each, sends=each.sends[: len(each.sends) // 4]) for each in producers)
        )
    plain = attrs.evolve(plan, weakest_send=None, visible="committed")
    if plain != plan:
        yield plain
