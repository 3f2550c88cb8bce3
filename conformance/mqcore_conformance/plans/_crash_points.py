"""Plans that are enumerated: one short run, and the same with a crash at each of its calls."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import FaultPlan, Plan, ProducerPlan, SendPlan
from mqcore_conformance.plans._drawing import storage_url

__all__ = ["CRASH_POINTS", "crash_point_base", "crash_points"]

CRASH_POINTS = "crash-points"
"""The family that is not drawn but enumerated: a crash at every call of the file system of a short run."""


def crash_point_base(seed: int, *, storage: str, transport: str, flush: str | None) -> Plan:
    """Return a plan of three batches and no fault, in which every call is to be a crash point."""
    rng = seeded(seed, f"crash-points/{storage}/{flush}")
    sends = tuple(SendPlan(sizes=sizes) for sizes in ((100,), (0, 1, 600), (rng.choice((300, 5_000)),)))
    producer = ProducerPlan(name="producer-0", partition=0, idempotent=True, window=2, retries=True, sends=sends)
    return Plan(
        seed=seed,
        family=CRASH_POINTS,
        storage=storage_url(rng, storage),
        transport=transport,
        flush=flush,
        partitions=1,
        producers=(producer,),
        consumers=(),
    )


def crash_points(base: Plan, calls: int) -> Iterator[Plan]:
    """Give ``base`` with a process kill, and with two power cuts that keep different things, at every call."""
    for call in range(1, calls + 1):
        for kind, salt in (("process-kill", 0), ("power-cut", 1), ("power-cut", 2)):
            fault = FaultPlan(kind=kind, trigger="call", when=call)
            yield attrs.evolve(base, seed=base.seed * 1000 + salt, faults=(fault,), before_drain="power-cut")
