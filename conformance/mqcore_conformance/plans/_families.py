"""Families of faults: what each one does to a plan, drawn from a seed. Must not know how a fault is carried out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import FaultPlan, ProducerPlan, RunPlan, SendPlan, Trigger
from mqcore_conformance.plans._kept_families import KEPT_FAMILIES


def _moment(rng: random.Random, *, calls_max: int = 600) -> tuple[Trigger, int]:
    """A moment: mostly at a call of the file system or a step of the scheduler, small numbers as likely as large."""
    trigger: Trigger = rng.choice(("call", "call", "call", "step", "step", "time", "acks"))
    top = {"call": calls_max, "step": 6_000, "time": 1_000_000, "acks": 40}[trigger]
    return trigger, 1 + int(top ** rng.random()) if rng.random() < 0.3 else rng.randint(1, top)


def _no_faults(rng: random.Random, plan: RunPlan) -> RunPlan:
    return plan


def _deaths(kind: str) -> Callable[[random.Random, RunPlan], RunPlan]:
    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        faults = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            faults.append(FaultPlan(kind, *_moment(rng)))
        if rng.random() < 0.3:
            # and again while the next life starts
            when = rng.randint(20, 400)
            again = when + rng.randint(1, 90)
            faults += [FaultPlan(kind, "call", at) for at in (when, again)]
        ending = kind if rng.random() < 0.7 else plan.last_ending
        last = kind if rng.random() < 0.5 else plan.before_drain
        return attrs.evolve(plan, faults=tuple(faults), last_ending=ending, before_drain=last)

    return draw


def _flush_errors(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((1, 1, 2))):
        faults.append(FaultPlan("flush-error", *_moment(rng), amount=rng.choice((0, 1))))
    if rng.random() < 0.6:
        faults.append(FaultPlan("power-cut", *_moment(rng)))
    return attrs.evolve(
        plan,
        faults=tuple(faults),
        last_ending=rng.choice(("power-cut", "process-kill", "process-kill", "stop")),
        before_drain=rng.choice(("power-cut", "power-cut", "process-kill")),
    )


def _full_disk(rng: random.Random, plan: RunPlan) -> RunPlan:
    fault = FaultPlan(
        "full",
        *_moment(rng),
        amount=rng.choice((0, 4096, 20_000, 70_000)),
        duration_us=rng.choice((100_000, 2_000_000)),
    )
    return attrs.evolve(plan, faults=(fault, *_sometimes_death(rng)))


def _io_errors(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((1, 2, 3))):
        trigger, when = _moment(rng)
        operation = rng.choice(
            ("pwritev", "pread", "open", "open", "map", "view", "truncate", "rename", "unlink", "list")
        )
        faults.append(FaultPlan("io-error", trigger, when, amount=rng.choice((1, 1, 3)), target=operation))
    return attrs.evolve(plan, faults=(*faults, *_sometimes_death(rng)))


def _bit_rot(rng: random.Random, plan: RunPlan) -> RunPlan:
    fault = FaultPlan("rot", "acks", rng.choice((4, 8, 20)), amount=rng.choice((1, 8)))
    return attrs.evolve(plan, faults=(fault,), last_ending=rng.choice(("process-kill", "power-cut", "stop")))


def _metadata_rot(rng: random.Random, plan: RunPlan) -> RunPlan:
    fault = FaultPlan("rot-identity", "acks", rng.choice((1, 3, 8)), amount=4096)
    return attrs.evolve(plan, faults=(fault,), last_ending=rng.choice(("process-kill", "power-cut")))


def _slow_disk(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((1, 2))):
        trigger, when = _moment(rng)
        stalled = rng.choice(("flush", "flush_many", "flush_many", "pwritev", "pread", "flush_directory"))
        duration_us = rng.choice((500_000, 30_000_000))
        faults.append(FaultPlan("stall", trigger, when, duration_us=duration_us, target=stalled))
    if rng.random() < 0.7:
        faults.append(FaultPlan("power-cut", "time", rng.randint(100_000, 3_000_000)))
    return attrs.evolve(plan, faults=tuple(faults), before_drain=rng.choice(("power-cut", "none")))


def _network(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((1, 2, 4))):
        trigger, when = _moment(rng)
        kind = rng.choice(
            ("cut", "cut-to-broker", "cut-from-broker", "reset", "flap", "flap", "break", "break", "refuse")
        )
        faults.append(
            FaultPlan(
                kind,
                trigger,
                when,
                duration_us=rng.choice((10_000, 300_000, 40_000_000)),
                amount=rng.randint(0, 2_000),
                target=rng.choice(("reset", "close", "stall")),
            )
        )
    if rng.random() < 0.4:
        # so that retries meet what is not flushed yet
        trigger, when = _moment(rng, calls_max=200)
        flush = rng.choice(("flush", "flush_many"))
        faults.append(FaultPlan("stall", trigger, when, duration_us=500_000, target=flush))
    deaths = _sometimes_death(rng)
    return attrs.evolve(plan, faults=(*faults, *_peers(seeded(plan.seed, f"peers/{plan.name}"), plan), *deaths))


PEERS = ("peer-garbage", "peer-half-frame", "peer-huge-length", "peer-deaf", "peer-silent", "peer-flood")
"""Kinds of slow and malicious peers, see ``mqcore_conformance.worlds.model._peers``."""


def _peers(rng: random.Random, plan: RunPlan) -> list[FaultPlan]:
    """Some slow and malicious peers, early, so that they meet the others at work."""
    return [
        FaultPlan(rng.choice(PEERS), "time", rng.randint(1, 200_000), amount=rng.randint(1, 12))
        for _ in range(rng.choice((0, 1, 3)))
    ]


def _clock_jumps(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = []
    for _ in range(rng.choice((1, 3))):
        trigger, when = _moment(rng)
        seconds = rng.choice((3_600, -3_600, 315_360_000, -315_360_000))
        faults.append(FaultPlan("wall-jump", trigger, when, amount=seconds))
    return attrs.evolve(plan, faults=(*faults, *_sometimes_death(rng)))


def _mixed(rng: random.Random, plan: RunPlan) -> RunPlan:
    drawn = [FAMILIES[name](rng, plan) for name in rng.sample(_MIXABLE, 3)]
    return attrs.evolve(
        plan,
        faults=sum((each.faults for each in drawn), ()),
        last_ending=rng.choice([each.last_ending for each in drawn]),
        before_drain=rng.choice([each.before_drain for each in drawn]),
    )


def _sometimes_death(rng: random.Random) -> list[FaultPlan]:
    if rng.random() < 0.5:
        return []
    trigger, when = _moment(rng)
    return [FaultPlan(rng.choice(("process-kill", "power-cut")), trigger, when)]


FAMILIES: Mapping[str, Callable[[random.Random, RunPlan], RunPlan]] = MappingProxyType(
    {
        "none": _no_faults,
        "kill": _deaths("process-kill"),
        "stop": _deaths("stop"),
        "power-cut": _deaths("power-cut"),
        "flush-error": _flush_errors,
        "full": _full_disk,
        "io-error": _io_errors,
        "rot": _bit_rot,
        "rot-identity": _metadata_rot,
        "slow": _slow_disk,
        "network": _network,
        "clock": _clock_jumps,
        "mixed": _mixed,
        **KEPT_FAMILIES,
    }
)
"""Families of faults: columns of the report, each with what draws its faults."""
_MIXABLE = ("kill", "power-cut", "flush-error", "full", "io-error", "slow", "network", "clock")


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
