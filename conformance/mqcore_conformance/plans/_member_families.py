"""Families of faults of one member of an array: what is drawn. A plan strikes one member only, the same each time.

What an array promises is about one fault of its kind at a time, until it is whole again (guarantees, section 1). So
nothing that was acknowledged is excused by what is done to that member, whatever else ends the process meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from mqcore_conformance.plans._data import FaultPlan, RunPlan, Trigger

Draw = Callable[[random.Random, RunPlan], RunPlan]
MEMBERS_MAX = 8
STALLED = ("flush", "flush_many", "pwritev", "pread", "flush_directory")
FAILING = ("pread", "view", "map", "open", "pwritev", "rename", "list", "truncate")


def _moment(rng: random.Random) -> tuple[Trigger, int]:
    """A time or a number of acknowledgements, never the middle of a call: what is done takes calls of its own."""
    trigger: Trigger = rng.choice(("time", "acks", "acks"))
    return trigger, rng.randint(1, 40) if trigger == "acks" else 1 + int(1_000_000 ** rng.random())


def _later(trigger: Trigger, when: int, rng: random.Random) -> int:
    return when + (rng.randint(1, 20) if trigger == "acks" else rng.randint(100_000, 1_000_000))


def _with(rng: random.Random, plan: RunPlan, *faults: FaultPlan) -> RunPlan:
    """``plan`` with ``faults`` of one member, and with deaths around them."""
    count = rng.choice((0, 0, 1, 2))
    deaths = [FaultPlan(rng.choice(("process-kill", "power-cut")), *_moment(rng)) for _ in range(count)]
    return attrs.evolve(
        plan,
        faults=(*faults, *deaths),
        last_ending=rng.choice(("none", "process-kill", "power-cut", "stop")),
        before_drain=rng.choice(("none", "process-kill", "power-cut")),
    )


def _member(rng: random.Random) -> str:
    return str(rng.randrange(MEMBERS_MAX))


def _struck(kind: str, *amounts: int) -> Draw:
    """One strike. ``amount``: 0 while it is open; 1 and 2 between two lives, after a kill or a power cut."""

    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        return _with(rng, plan, FaultPlan(kind, *_moment(rng), amount=rng.choice(amounts), target=_member(rng)))

    return draw


def _there_and_back(kind: str) -> Draw:
    """Two strikes: what the first one takes, the second one brings back, as it was."""

    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        trigger, when = _moment(rng)
        member = _member(rng)
        first = FaultPlan(kind, trigger, when, amount=0, target=member)
        second = FaultPlan(kind, trigger, _later(trigger, when, rng), amount=rng.choice((1, 2)), target=member)
        return _with(rng, plan, first, second)

    return draw


def _slow(rng: random.Random, plan: RunPlan) -> RunPlan:
    member = _member(rng)
    faults = [
        FaultPlan(
            "member-slow",
            *_moment(rng),
            duration_us=rng.choice((500_000, 5_000_000, 30_000_000)),
            amount=rng.choice((1, 1, 5)),
            target=f"{member}:{rng.choice(STALLED)}",
        )
        for _ in range(rng.choice((1, 2)))
    ]
    return _with(rng, plan, *faults)


def _failing(kind: str, *operations: str) -> Draw:
    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        target = f"{_member(rng)}:{rng.choice(operations)}"
        return _with(rng, plan, FaultPlan(kind, *_moment(rng), amount=rng.choice((1, 1, 3)), target=target))

    return draw


MEMBER_FAMILIES: Mapping[str, Draw] = MappingProxyType(
    {
        "member-lost": _struck("member-lost", 0, 0, 1, 2),
        "member-emptied": _struck("member-emptied", 1, 2),
        "member-swapped": _struck("member-swapped", 1, 2),
        "member-stale": _there_and_back("member-stale"),
        "member-away": _there_and_back("member-away"),
        "member-slow": _slow,
        "member-full": _failing("member-full", "pwritev", "truncate"),
        "member-flush-error": _failing("member-flush-error", "flush"),
        "member-io-error": _failing("member-io-error", *FAILING),
        "member-rot": _struck("member-rot", 1, 8, 600),
    }
)
"""Columns of storages that claim to survive the loss of a member."""
