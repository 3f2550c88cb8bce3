"""Plans that are enumerated: one short run, and the same with a crash at each of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import FaultPlan, ProducerPlan, RunPlan, SendPlan
from mqcore_conformance.plans._small_files import with_drawn_files

__all__ = ["CRASH_POINTS", "crash_point_bases", "crash_points"]

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
