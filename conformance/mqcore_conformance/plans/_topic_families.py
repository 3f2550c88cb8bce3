"""The family about topics that come and go in a set whose metadata log is made short all the while (R13, R15).

Nodes die, are cut off and come back when what they have missed is not in the log any more. Must not know how a fault is
done.
"""

from __future__ import annotations

import random

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import FaultPlan, GroupPlan, RunPlan, Trigger

__all__ = ["topics_come_and_go", "topics_come_and_go_among_processes"]

LEASE_US = 1_000_000
KINDS = ("process-kill", "process-kill", "power-cut", "power-cut", "isolate", "cut-peers", "emptied")


def _moment(rng: random.Random) -> tuple[Trigger, int]:
    trigger: Trigger = rng.choice(("acks", "step", "time"))
    top = {"acks": 60, "step": 8_000, "time": 5_000_000}[trigger]
    return trigger, rng.randint(1, top)


def _fault(rng: random.Random, kinds: tuple[str, ...]) -> FaultPlan:
    kind = rng.choice(kinds)
    target = rng.choice(("primary", "primary", "replica", "replica", "all"))
    if target == "all" and kind not in ("process-kill", "power-cut"):
        target = "replica"
    away_us = rng.choice((1_000, 200_000, 2 * LEASE_US, 3 * LEASE_US))
    return FaultPlan(kind, *_moment(rng), duration_us=away_us, target=target)


def topics_come_and_go(rng: random.Random, plan: RunPlan) -> RunPlan:
    """A log that may grow by a byte, by a few records or by some more, and in half of the runs a group with cursors."""
    own = seeded(plan.seed, f"topics/{plan.name}")
    faults = [_fault(rng, KINDS)]
    # One node at most comes back empty: what two of three have lost nobody promised.
    others = tuple(kind for kind in KINDS if kind != "emptied")
    faults += [_fault(rng, others) for _ in range(rng.choice((0, 1, 2)))] if faults[0].kind != "emptied" else []
    group = GroupPlan(name="group-0", pause_us=own.choice((0, 5_000, 50_000)), bytes_max=2_000, session_ms=1_000)
    return attrs.evolve(
        plan,
        churn=True,
        metadata_bytes=own.choice((1, 400, 1_500)),
        groups=(group,) if own.random() < 0.5 else (),
        faults=tuple(faults),
    )


def topics_come_and_go_among_processes(rng: random.Random, plan: RunPlan) -> RunPlan:
    """The same for processes, each killed or stopped for a moment, or for as long as the log takes to go on without it.

    A primary, a replica or all of them; in half of the runs a group has cursors, whose log is trimmed by the same log.
    """
    faults = tuple(
        FaultPlan(
            rng.choice(("process-kill", "process-kill", "stop")),
            "acks",
            rng.choice((rng.randint(1, 20), rng.randint(20, 120))),
            duration_us=rng.choice((0, 200_000, 2 * LEASE_US, 3 * LEASE_US)),
            target=rng.choice(("primary", "primary", "replica", "replica", "all")),
        )
        for _ in range(rng.choice((3, 4)))
    )
    group = GroupPlan(name="group-0", pause_us=rng.choice((0, 5_000)), bytes_max=2_000, session_ms=1_000)
    return attrs.evolve(
        plan,
        churn=True,
        metadata_bytes=rng.choice((1, 400, 1_500)),
        groups=(group,) if rng.random() < 0.5 else (),
        faults=faults,
    )
