"""Families of faults of T1 for a set of nodes, and how the faults of a run are drawn. Plans are data here too.

A fault's ``target`` is whom it strikes: ``primary`` (the one that answered last), ``replica`` (another), ``all``. Must
not know how a fault is done.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from mqcore_conformance.plans._data import FaultPlan, ProducerPlan, RunPlan
from mqcore_conformance.plans._process_families import DIRECTIONS, draw_processes_plan
from mqcore_conformance.plans._topic_families import topics_come_and_go_among_processes

__all__ = ["SET_FAMILIES", "SET_REPLICATIONS", "draw_set_plan"]

SET_REPLICATIONS: Mapping[str, str] = MappingProxyType(
    {
        "sync": "sync(copies=2, level={level})",
        "async": "async(max_delay=300 ms, on_exceeded=throttle)",
        "async-report": "async(max_delay=300 ms, on_exceeded=report)",
        "none": "none",
    }
)
"""Replication policies of the cells of sets, by the name of their column; ``level`` follows from the flush policy."""
LEASE_MS = 1_000
SENDS = 200
ENDINGS = ("none", "switchover", "process-kill")
"""How a life, or a reign, ends before the drain: after a switchover it is another node's log that is read."""


def draw_set_plan(
    seed: int,
    *,
    storage: str,
    transport: str,
    flush: str | None,
    family: str,
    nodes: int,
    replication: str,
    coordinator: str = "",
) -> RunPlan:
    """Return the plan of a seed for one cell of a set of ``nodes`` with this ``coordinator``.

    Other arguments as for ``draw_plan``.
    """
    plan = draw_processes_plan(seed, storage=storage, transport=transport, flush=flush, family="none")
    rng = random.Random(f"{seed}/set/{storage}/{transport}/{flush}/{family}/{nodes}/{replication}")
    plan = attrs.evolve(
        plan,
        family=family,
        nodes=nodes,
        coordinator=coordinator,
        replication=SET_REPLICATIONS[replication].format(level="disk" if flush == "sync" else "page-cache"),
        weakest_send=None,
        visible="committed",
        producers=tuple(map(_plain, plan.producers)),
        consumers=tuple(attrs.evolve(each, library=False, every=False, singly=False) for each in plan.consumers),
        before_drain=rng.choice(ENDINGS),
    )
    return SET_FAMILIES[family](rng, plan)


def _plain(producer: ProducerPlan) -> ProducerPlan:
    """The suite's own client, under the topic's policy: what a receipt states is then what the set promises."""
    sends = [attrs.evolve(send, policy="topic", one_way=False) for send in producer.sends]
    return attrs.evolve(producer, library=None, retries=True, sends=tuple((sends * SENDS)[:SENDS]))


def _acks(rng: random.Random) -> int:
    return rng.choice((rng.randint(1, 10), rng.randint(1, 100)))


def _no_faults(rng: random.Random, plan: RunPlan) -> RunPlan:
    return plan


def _kills(kind: str) -> Callable[[random.Random, RunPlan], RunPlan]:
    """The primary as likely as all others together; away for a moment, or for longer than a lease."""

    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        faults = tuple(
            FaultPlan(
                kind,
                "acks",
                _acks(rng),
                duration_us=rng.choice((0, 0, 200_000, 2 * LEASE_MS * 1_000)),
                target=rng.choice(("primary", "primary", "replica", "all")),
            )
            for _ in range(rng.choice((2, 3)))
        )
        return attrs.evolve(plan, faults=faults)

    return draw


def _zombies(rng: random.Random, plan: RunPlan) -> RunPlan:
    """A primary that is stopped for longer than its lease goes on where it was, while another reigns."""
    faults = tuple(
        FaultPlan("pause", "acks", _acks(rng), duration_us=duration_us, target=target)
        for duration_us, target in (
            (rng.choice((3, 4)) * LEASE_MS * 1_000, "primary"),
            (rng.choice((200_000, 2 * LEASE_MS * 1_000)), rng.choice(("primary", "replica"))),
        )
    )
    return attrs.evolve(plan, faults=faults)


def _frozen_coordinator(rng: random.Random, plan: RunPlan) -> RunPlan:
    """The coordinator's server stands still for a part of a lease, or for several, and a primary may die in it."""
    frozen = [
        FaultPlan("coordinator-frozen", "acks", _acks(rng), duration_us=rng.choice((300_000, 3 * LEASE_MS * 1_000)))
        for _ in range(2)
    ]
    return attrs.evolve(plan, faults=(*frozen, *_sometimes_kill(rng)))


def _full_disk(rng: random.Random, plan: RunPlan) -> RunPlan:
    fault = FaultPlan(
        "full",
        "acks",
        _acks(rng),
        amount=rng.choice((0, 4096, 20_000)),
        duration_us=rng.choice((200_000, 800_000)),
        target=rng.choice(("primary", "replica")),
    )
    return attrs.evolve(plan, faults=(fault,))


def _flush_errors(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = tuple(
        FaultPlan("flush-error", "acks", _acks(rng), amount=rng.choice((0, 1, 3)), target=target)
        for target in rng.sample(("primary", "replica"), 2)
    )
    return attrs.evolve(plan, faults=faults)


def _cuts(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Streams of replicas are cut at any byte, and a primary may be killed between."""
    faults = []
    for _ in range(rng.choice((2, 3, 4))):
        target = f"{rng.choice(DIRECTIONS)}/{rng.choice(('reset', 'close', 'half-close'))}"
        amount = rng.choice((0, rng.randint(1, 40), rng.randint(1, 3_000)))
        faults.append(FaultPlan("proxy-cut", "acks", _acks(rng), amount=amount, target=target))
    return attrs.evolve(plan, faults=(*faults, *_sometimes_kill(rng)))


def _stalls(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Nothing passes between the primary and its replicas, in one direction or in both, for up to three leases."""
    faults = [
        FaultPlan(
            "proxy-stall",
            "acks",
            _acks(rng),
            duration_us=rng.choice((200_000, 1_500_000, 3 * LEASE_MS * 1_000)),
            target=rng.choice(("both", *DIRECTIONS)),
        )
        for _ in range(rng.choice((1, 2)))
    ]
    return attrs.evolve(plan, faults=(*faults, *_sometimes_kill(rng)))


def _sometimes_kill(rng: random.Random) -> list[FaultPlan]:
    target = rng.choice(("primary", "replica"))
    return [FaultPlan("process-kill", "acks", _acks(rng), target=target)] if rng.random() < 0.5 else []


SET_FAMILIES: Mapping[str, Callable[[random.Random, RunPlan], RunPlan]] = MappingProxyType(
    {
        "none": _no_faults,
        "kill": _kills("process-kill"),
        "stop": _kills("stop"),
        "power-cut": _kills("power-cut"),
        "pause": _zombies,
        "coordinator-frozen": _frozen_coordinator,
        "full": _full_disk,
        "flush-error": _flush_errors,
        "proxy-cut": _cuts,
        "proxy-stall": _stalls,
        "topics": topics_come_and_go_among_processes,
    }
)
"""Families of faults of a set, each with what draws its faults."""
