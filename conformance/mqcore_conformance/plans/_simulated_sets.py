"""Families of faults of a simulated set (T0): one for each row of guarantees.md, section 5. Plans are data here too.

A fault's ``target`` is whom it strikes, as in T1: ``primary``, ``replica``, ``all``; a fault at a call of the file
system names its node. Must not know how a fault is done.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from mqcore.testing import seeded
from mqcore_conformance.plans._data import ConsumerPlan, FaultPlan, ProducerPlan, RunPlan, Trigger
from mqcore_conformance.plans._drawing import draw_plan
from mqcore_conformance.plans._kept_families import KEPT_SET_FAMILIES
from mqcore_conformance.plans._set_families import SET_REPLICATIONS
from mqcore_conformance.plans._topic_families import topics_come_and_go

__all__ = ["SIMULATED_SET_FAMILIES", "draw_simulated_set_plan"]

Draw = Callable[[random.Random, RunPlan], RunPlan]

LEASE_US = 1_000_000
SENDS = 40
ENDINGS = ("none", "none", "switchover", "process-kill", "power-cut", "stop")


def draw_simulated_set_plan(
    seed: int, *, storage: str, transport: str, flush: str | None, family: str, nodes: int, replication: str
) -> RunPlan:
    """Return the plan of a seed for one cell of a simulated set of ``nodes``; other arguments as for ``draw_plan``."""
    plan = draw_plan(seed, storage=storage, transport=transport, flush=flush, family="none")
    rng = seeded(seed, f"sets/{storage}/{transport}/{flush}/{family}/{nodes}/{replication}")
    endings = ENDINGS if flush == "sync" else ENDINGS[:3]
    plan = attrs.evolve(
        plan,
        family=family,
        nodes=nodes,
        replication=SET_REPLICATIONS[replication].format(level="disk" if flush == "sync" else "page-cache"),
        partitions=min(plan.partitions, 3),
        weakest_send=None,
        visible="committed",
        producers=tuple(_plain(rng, each, min(plan.partitions, 3)) for each in plan.producers[:2]),
        consumers=tuple(
            attrs.evolve(each, library=False, every=False, singly=False, partition=each.partition % 3 % plan.partitions)
            for each in plan.consumers[:2]
        ),
        churn=False,
        alters=(),
        total_bytes_max=None,
        last_ending="none",
        before_drain=rng.choice(endings),
        restart_after_us=rng.choice((1_000, 200_000, 3 * LEASE_US)),
        recovery_checked=True,
    )
    plan = _with_reader_of_replicas(seeded(seed, f"replicas/{storage}/{transport}/{flush}/{family}"), plan)
    return SIMULATED_SET_FAMILIES[family](rng, plan)


def _with_reader_of_replicas(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Have one more consumer, which reads from replicas, in half of the runs."""
    if rng.random() < 0.5:
        return plan
    reader = ConsumerPlan(
        name="reader-of-replicas",
        partition=rng.randrange(plan.partitions),
        bytes_max=rng.choice((1, 2_000, 1_000_000)),
        pause_us=rng.choice((0, 10_000)),
        from_replica=True,
        tags=max((each.tags for each in plan.consumers), default=()),
    )
    return attrs.evolve(plan, consumers=(*plan.consumers, reader))


def _plain(rng: random.Random, producer: ProducerPlan, partitions: int) -> ProducerPlan:
    """The suite's own client, under the topic's policy: what a receipt states is then what the set promises."""
    pause_us = rng.choice((0, 5_000, 60_000, 200_000))
    sends = [attrs.evolve(send, policy="topic", one_way=False, spoiled=False) for send in producer.sends]
    spread = [attrs.evolve(send, pause_us=rng.randint(0, pause_us)) for send in (sends * SENDS)[:SENDS]]
    return attrs.evolve(
        producer, library=None, retries=True, sends=tuple(spread), partition=producer.partition % partitions
    )


def _moment(rng: random.Random) -> tuple[Trigger, int]:
    trigger: Trigger = rng.choice(("acks", "acks", "step", "time"))
    top = {"acks": 60, "step": 8_000, "time": 5_000_000}[trigger]
    return trigger, rng.randint(1, top)


def _target(rng: random.Random) -> str:
    return rng.choice(("primary", "primary", "replica"))


def _no_faults(rng: random.Random, plan: RunPlan) -> RunPlan:
    return plan


def _away(rng: random.Random) -> int:
    return rng.choice((1_000, 200_000, 3 * LEASE_US))


def _deaths(kind: str, *targets: str) -> Draw:
    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        faults = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            if rng.random() < 0.3 and "all" not in targets:
                node = f"n{rng.randint(1, plan.nodes)}"
                faults.append(FaultPlan(kind, "call", rng.randint(30, 700), duration_us=_away(rng), node=node))
            else:
                fault = FaultPlan(kind, *_moment(rng), duration_us=_away(rng), target=rng.choice(targets))
                faults.append(fault)
        return attrs.evolve(plan, faults=tuple(faults))

    return draw


def _for_a_while(*kinds: str, then_kill: float = 0.3) -> Draw:
    """Something that lasts for a part of a lease, or for several, and perhaps a death in it."""

    def draw(rng: random.Random, plan: RunPlan) -> RunPlan:
        faults = []
        for _ in range(rng.choice((1, 1, 2))):
            duration_us = rng.choice((200_000, 2 * LEASE_US, 4 * LEASE_US))
            amount = rng.choice((3, 8, 20)) if "flap-peers" in kinds else rng.choice((100_000, 400_000, 900_000))
            kind = rng.choice(kinds)
            faults.append(FaultPlan(kind, *_moment(rng), duration_us=duration_us, amount=amount, target=_target(rng)))
        if rng.random() < then_kill:
            faults.append(FaultPlan("process-kill", *_moment(rng), duration_us=_away(rng), target=_target(rng)))
        return attrs.evolve(plan, faults=tuple(faults))

    return draw


def _two_failovers(rng: random.Random, plan: RunPlan) -> RunPlan:
    """The primary dies, and its successor as soon as it has acknowledged something."""
    first = rng.randint(1, 30)
    kind = rng.choice(("process-kill", "isolate"))
    faults = [
        FaultPlan(kind, "acks", first + gap, duration_us=rng.choice((200_000, 3 * LEASE_US)), target="primary")
        for gap in (0, rng.randint(1, 6), rng.randint(7, 14))
    ]
    return attrs.evolve(plan, faults=tuple(faults))


def _emptied(rng: random.Random, plan: RunPlan) -> RunPlan:
    """One node comes back with an empty disk, before or after its lease is over."""
    fault = FaultPlan("emptied", "acks", rng.randint(1, 60), duration_us=_away(rng), target=_target(rng))
    return attrs.evolve(plan, faults=(fault,), restart_after_us=_away(rng))


def _coordinator(rng: random.Random, plan: RunPlan) -> RunPlan:
    at = rng.randint(1, 50)
    duration_us = rng.choice((200_000, 2 * LEASE_US, 4 * LEASE_US))
    faults = [FaultPlan("coordinator-all-frozen", "acks", at, duration_us=duration_us)]
    if rng.random() < 0.5:
        faults.append(FaultPlan("process-kill", "acks", at, duration_us=_away(rng), target=_target(rng)))
    return attrs.evolve(plan, faults=tuple(faults))


def _clocks(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Rates differ by as much as is assumed, wall clocks jump, and a primary is cut off from the rest."""
    drifts = [
        FaultPlan("clock-drift", "time", 0, amount=rng.choice((-400, 0, 400)), node=f"n{number}")
        for number in range(1, plan.nodes + 1)
    ]
    hours = (3_600, -3_600, 10 * 365 * 86_400, -10 * 365 * 86_400)
    jumps = [
        FaultPlan("wall-jump", "acks", rng.randint(1, 40), amount=rng.choice(hours), target=target)
        for target in ("primary", "replica")
    ]
    plan = _for_a_while("isolate")(rng, plan)
    return attrs.evolve(plan, faults=(*drifts, *jumps, *plan.faults))


def _full_disk(rng: random.Random, plan: RunPlan) -> RunPlan:
    fault = FaultPlan(
        "full",
        "acks",
        rng.randint(1, 40),
        amount=rng.choice((0, 4096, 20_000)),
        duration_us=rng.choice((200_000, 2 * LEASE_US)),
        target=_target(rng),
    )
    return attrs.evolve(plan, faults=(fault,))


def _flush_errors(rng: random.Random, plan: RunPlan) -> RunPlan:
    faults = tuple(
        FaultPlan("flush-error", "acks", rng.randint(1, 50), amount=rng.choice((0, 1)), target=target)
        for target in rng.sample(("primary", "replica"), rng.choice((1, 2)))
    )
    return attrs.evolve(plan, faults=faults)


def _slow_disk(rng: random.Random, plan: RunPlan) -> RunPlan:
    target, when = _target(rng), rng.randint(1, 40)
    duration_us = rng.choice((300_000, 2 * LEASE_US, 5 * LEASE_US))
    # where nothing is flushed only writes can be slow
    operations = ("pwrite", "pwritev") if plan.flush == "none" else ("flush", "flush_many")
    faults = tuple(
        FaultPlan("stall", "acks", when, duration_us=duration_us, target=f"{target}/{operation}")
        for operation in operations
    )
    return attrs.evolve(plan, faults=faults)


def _rot(rng: random.Random, plan: RunPlan) -> RunPlan:
    """Bits rot in one node's copy or in all of them: amid a log, in its last batch, in what opened a reign; the node
    serves on, or starts again on what it has."""
    faults = []
    for _ in range(rng.choice((1, 2, 3))):
        target = rng.choice(("primary", "primary", "replica", "replica", "all"))
        where = rng.choice(("middle", "middle", "tail", "opening"))
        away_us = 0 if target == "all" else rng.choice((0, 0, 1_000, 200_000))
        target = f"{target}/{where}"
        amount = rng.choice((0, 1, 8))  # 0: in the header
        faults.append(FaultPlan("rot", "acks", rng.randint(3, 60), amount=amount, duration_us=away_us, target=target))
    if any(fault.target.endswith("opening") for fault in faults):
        # so that there is a reign that was opened amid a log
        faults.append(FaultPlan("process-kill", "acks", rng.randint(1, 30), duration_us=_away(rng), target="primary"))
    return attrs.evolve(plan, faults=tuple(faults))


def _copied_disks(rng: random.Random, plan: RunPlan) -> RunPlan:
    """A node comes back on a copy of another node's disk, or on its own disk as it was a while ago."""
    at, target = rng.randint(2, 50), _target(rng)
    away_us = rng.choice((1_000, 200_000, 3 * LEASE_US))
    if rng.random() < 0.5:
        faults = [FaultPlan("cloned", "acks", at, duration_us=away_us, target=target)]
    else:
        node = f"n{rng.randint(1, plan.nodes)}"
        backup = FaultPlan("backup", "acks", rng.randint(1, at), target=node)
        faults = [backup, FaultPlan("old-copy", "acks", at + 1, duration_us=away_us, target=node)]
    return attrs.evolve(plan, faults=tuple(faults))


SIMULATED_SET_FAMILIES: Mapping[str, Draw] = MappingProxyType(
    {
        "none": _no_faults,
        "kill": _deaths("process-kill", "primary", "primary", "replica"),
        "kill-all": _deaths("process-kill", "all"),
        "power-cut": _deaths("power-cut", "primary", "replica"),
        "power-cut-all": _deaths("power-cut", "all"),
        "failovers": _two_failovers,
        "emptied": _emptied,
        "isolate": _for_a_while("isolate"),
        "cut-peers": _for_a_while("cut-peers"),
        "asymmetric-cut": _for_a_while("cut-to-peers", "cut-from-peers"),
        "flap": _for_a_while("flap-peers"),
        "coordinator-lost": _coordinator,
        "coordinator-cut": _for_a_while("coordinator-cut"),
        "coordinator-slow": _for_a_while("coordinator-slow"),
        "clock": _clocks,
        "full": _full_disk,
        "flush-error": _flush_errors,
        "slow": _slow_disk,
        "rot": _rot,
        "copied-disk": _copied_disks,
        **KEPT_SET_FAMILIES,
        "topics": topics_come_and_go,
    }
)
"""Families of faults of a simulated set, each with what draws its faults."""
