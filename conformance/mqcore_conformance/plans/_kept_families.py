"""Families about what brokers keep for clients: cursors of groups, names of producers. For a node alone and for sets.

Nodes die, lose their power and, in a set, hand over; where the topic's policy permits it messages are lost meanwhile,
and cursors and names have to be right all the same. Must not know how a fault is done.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import FaultPlan, GroupPlan, NamePlan, RunPlan, Trigger

__all__ = ["KEPT_FAMILIES", "KEPT_SET_FAMILIES"]

Draw = Callable[[random.Random, RunPlan], RunPlan]
Faults = Callable[[random.Random, RunPlan], tuple[FaultPlan, ...]]

LEASE_US = 1_000_000
DEATHS = ("process-kill", "power-cut", "power-cut", "stop")


def _moment(rng: random.Random, acks_max: int) -> tuple[Trigger, int]:
    trigger: Trigger = rng.choice(("acks", "acks", "step", "time"))
    top = {"acks": acks_max, "step": 6_000, "time": 2_000_000}[trigger]
    return trigger, rng.randint(1, top)


def _deaths(rng: random.Random, plan: RunPlan) -> tuple[FaultPlan, ...]:
    return tuple(FaultPlan(rng.choice(DEATHS), *_moment(rng, 60)) for _ in range(rng.choice((1, 2, 3))))


def _deaths_of_a_set(rng: random.Random, plan: RunPlan) -> tuple[FaultPlan, ...]:
    faults = []
    for _ in range(rng.choice((1, 2, 3))):
        kind = rng.choice(("process-kill", "process-kill", "power-cut", "isolate"))
        target = rng.choice(("primary", "primary", "replica", "all"))
        if target == "all" and kind == "isolate":
            kind = "power-cut"
        away_us = rng.choice((200_000, 2 * LEASE_US, 3 * LEASE_US))
        faults.append(FaultPlan(kind, *_moment(rng, 60), duration_us=away_us, target=target))
    return tuple(faults)


def _with_groups(draw_faults: Faults) -> Draw:
    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        own = seeded(plan.seed, f"groups/{plan.name}")
        groups = tuple(
            GroupPlan(
                name=f"group-{number}",
                pause_us=own.choice((0, 5_000, 50_000)),
                bytes_max=own.choice((1, 2_000, 50_000)),
                session_ms=own.choice((300, 1_000)),
            )
            for number in range(own.choice((1, 1, 2)))
        )
        return _survived(own, attrs.evolve(plan, groups=groups, faults=draw_faults(rng, plan)))

    return draw


def _with_names(draw_faults: Faults) -> Draw:
    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        own = seeded(plan.seed, f"names/{plan.name}")
        top_us = 3 * LEASE_US if plan.nodes > 1 else 400_000
        names = tuple(
            NamePlan(
                name=f"name-{number}",
                partition=own.randrange(plan.partitions),
                messages=own.choice((10, 30, 60)),
                pause_us=own.choice((0, 3_000, 30_000)),
                begins_us=(0, *sorted(own.randint(1, top_us) for _ in range(own.choice((1, 2, 3))))),
            )
            for number in range(own.choice((1, 2)))
        )
        return _survived(own, attrs.evolve(plan, names=names, faults=draw_faults(rng, plan)))

    return draw


def _survived(rng: random.Random, plan: RunPlan) -> RunPlan:
    """One more death before what is left is looked at: what was kept has to be on a disk by then."""
    if plan.nodes > 1:
        return plan
    deaths = ("process-kill", "power-cut", "stop")
    return attrs.evolve(plan, last_ending=rng.choice(deaths), before_drain=rng.choice(deaths), churn=False, alters=())


KEPT_FAMILIES: Mapping[str, Draw] = MappingProxyType({"cursors": _with_groups(_deaths), "names": _with_names(_deaths)})
"""Families of a node alone."""
KEPT_SET_FAMILIES: Mapping[str, Draw] = MappingProxyType(
    {"cursors": _with_groups(_deaths_of_a_set), "names": _with_names(_deaths_of_a_set)}
)
"""Families of a simulated set."""
