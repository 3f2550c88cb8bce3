"""Plans: what a simulation does, as data. Drawn from a seed, written as JSON, shrunk by taking things away.

A plan says everything that a run depends on, so that the same plan is the same run. Must not know how it is run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs
import cattrs

from mqcore.errors import ConfigurationError
from mqcore.testing import seeded

__all__ = [
    "CRASH_POINTS",
    "FAMILIES",
    "FLUSH_POLICIES",
    "ConsumerPlan",
    "FaultPlan",
    "Plan",
    "ProducerPlan",
    "SendPlan",
    "crash_point_base",
    "crash_points",
    "draw_plan",
    "plan_from_json",
    "plan_to_json",
    "shrink_steps",
]

TOPIC = "events"
CHURN_SIZES = (200, 200, 200)
"""Message sizes of the batches of a topic that comes and goes; a log of the same sizes meets its bytes at its end."""
FLUSH_POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "sync": "sync",
        "async": "async(max_messages=40, max_bytes=16 KiB, max_interval=200 ms)",
        "none": "none",
    }
)
"""Flush policies of the cells, by the name of their column."""

Trigger = Literal["call", "step", "time", "acks"]


@attrs.frozen(kw_only=True)
class SendPlan:
    """One batch: sizes of its messages in bytes, a pause before it, its own policy, whether a reply is wanted."""

    sizes: tuple[int, ...]
    pause_us: int = 0
    policy: str = "topic"
    one_way: bool = False


@attrs.frozen(kw_only=True)
class ProducerPlan:
    """One producer: at most ``window`` batches in flight; without ``retries`` an unknown outcome stays unknown."""

    name: str
    partition: int
    idempotent: bool
    window: int
    retries: bool
    sends: tuple[SendPlan, ...]


@attrs.frozen(kw_only=True)
class ConsumerPlan:
    """One consumer: bytes asked for at once, a pause between fetches, and when it begins."""

    name: str
    partition: int
    bytes_max: int
    pause_us: int
    begins_us: int = 0


@attrs.frozen(kw_only=True)
class FaultPlan:
    """One fault: ``kind``, when it strikes (``trigger`` counts from the start), for how long, and how much.

    ``call``: at that call of the file system; ``step``: before that step of the scheduler; ``time``: at that
    microsecond; ``acks``: with that acknowledgement.
    """

    kind: str
    trigger: Trigger
    when: int
    duration_us: int = 0
    amount: int = 0
    target: str = ""


@attrs.frozen(kw_only=True)
class Plan:
    """One run. Latencies in microseconds, by operation of the file system; ``flush`` as ``parse_flush`` reads it.

    ``last_ending``: how the broker's life ends when healing begins; ``before_drain``: and once more before the drain.
    ``churn``: a client makes, fills and deletes another topic meanwhile, so that files are used again.
    ``recovery_checked``: the final disk is recovered again and again.
    """

    seed: int
    family: str
    storage: str
    transport: str
    flush: str | None
    partitions: int
    producers: tuple[ProducerPlan, ...]
    consumers: tuple[ConsumerPlan, ...]
    faults: tuple[FaultPlan, ...] = ()
    visible: str = "committed"
    weakest_send: str | None = None
    disk_latency_us: dict[str, int] = attrs.field(factory=dict)
    network_latency_us: int = 0
    network_jitter_us: int = 0
    network_pieces: bool = False
    network_buffer_bytes: int = 65_536
    restart_after_us: int = 1_000
    last_ending: str = "none"
    before_drain: str = "none"
    recovery_checked: bool = False
    churn: bool = False

    @property
    def name(self) -> str:
        """Short name for lists."""
        return f"{self.storage.partition(':')[0]}-{self.transport}-{self.family}-{self.seed}"


# ---- drawing -----------------------------------------------------------------------------------------------------


def draw_plan(seed: int, *, storage: str, transport: str, flush: str | None, family: str) -> Plan:
    """Return the plan of a seed for one cell. ``storage``: a URL with ``{dir}``; ``flush``: text, None the default.

    ``family``: a name of ``FAMILIES``.
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
    producers = tuple(
        _producer(rng, number, partitions, policies, alike) for number in range(rng.choice((1, 2, 3)))
    )
    consumers = tuple(_consumer(rng, number, partitions) for number in range(rng.choice((0, 1, 2))))
    slow = rng.random() < 0.5
    plan = Plan(
        seed=seed,
        family=family,
        storage=_storage_url(rng, storage),
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
    return FAMILIES[family](rng, plan)


def _storage_url(rng: random.Random, url: str) -> str:
    """Small segments and extents, so that a short run meets rolls, trims and journals."""
    if not url.startswith("mmap:") or "?" in url:
        return url
    segment = rng.choice((4096, 16_384, 65_536))
    journal_range = rng.choice((0, 4096, 262_144))
    return (
        f"{url}?segment_bytes={segment}&first_extent_bytes=4096&extent_bytes_max={rng.choice((4096, 16_384))}"
        f"&journal_bytes=65536&journal_range_bytes_max={journal_range}"
    )


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


def _moment(rng: random.Random, *, calls_max: int = 600) -> tuple[Trigger, int]:
    """A moment: mostly at a call of the file system or a step of the scheduler, small numbers as likely as large."""
    trigger: Trigger = rng.choice(("call", "call", "call", "step", "step", "time", "acks"))
    top = {"call": calls_max, "step": 6_000, "time": 1_000_000, "acks": 40}[trigger]
    return trigger, 1 + int(top ** rng.random()) if rng.random() < 0.3 else rng.randint(1, top)


def _no_faults(rng: random.Random, plan: Plan) -> Plan:
    return plan


def _deaths(kind: str) -> Callable[[random.Random, Plan], Plan]:
    def draw(rng: random.Random, plan: Plan) -> Plan:
        faults = []
        for _ in range(rng.choice((1, 1, 2, 4))):
            trigger, when = _moment(rng)
            faults.append(FaultPlan(kind=kind, trigger=trigger, when=when))
        if rng.random() < 0.3:
            # and again while the next life starts
            when = rng.randint(20, 400)
            again = when + rng.randint(1, 90)
            faults += [FaultPlan(kind=kind, trigger="call", when=at) for at in (when, again)]
        ending = kind if rng.random() < 0.7 else plan.last_ending
        last = kind if rng.random() < 0.5 else plan.before_drain
        return attrs.evolve(plan, faults=tuple(faults), last_ending=ending, before_drain=last)

    return draw


def _flush_errors(rng: random.Random, plan: Plan) -> Plan:
    faults = []
    for _ in range(rng.choice((1, 1, 2))):
        trigger, when = _moment(rng)
        faults.append(FaultPlan(kind="flush-error", trigger=trigger, when=when, amount=rng.choice((0, 1))))
    if rng.random() < 0.6:
        trigger, when = _moment(rng)
        faults.append(FaultPlan(kind="power-cut", trigger=trigger, when=when))
    return attrs.evolve(
        plan,
        faults=tuple(faults),
        last_ending=rng.choice(("power-cut", "process-kill", "process-kill", "stop")),
        before_drain=rng.choice(("power-cut", "power-cut", "process-kill")),
    )


def _full_disk(rng: random.Random, plan: Plan) -> Plan:
    trigger, when = _moment(rng)
    fault = FaultPlan(
        kind="full",
        trigger=trigger,
        when=when,
        amount=rng.choice((0, 4096, 20_000, 70_000)),
        duration_us=rng.choice((100_000, 2_000_000)),
    )
    return attrs.evolve(plan, faults=(fault, *_sometimes_death(rng)))


def _io_errors(rng: random.Random, plan: Plan) -> Plan:
    faults = []
    for _ in range(rng.choice((1, 2, 3))):
        trigger, when = _moment(rng)
        operation = rng.choice(
            ("pwritev", "pread", "open", "open", "map", "view", "truncate", "rename", "unlink", "list")
        )
        faults.append(
            FaultPlan(kind="io-error", trigger=trigger, when=when, amount=rng.choice((1, 1, 3)), target=operation)
        )
    return attrs.evolve(plan, faults=(*faults, *_sometimes_death(rng)))


def _bit_rot(rng: random.Random, plan: Plan) -> Plan:
    fault = FaultPlan(kind="rot", trigger="acks", when=rng.choice((4, 8, 20)), amount=rng.choice((1, 8)))
    return attrs.evolve(plan, faults=(fault,), last_ending=rng.choice(("process-kill", "power-cut", "stop")))


def _metadata_rot(rng: random.Random, plan: Plan) -> Plan:
    fault = FaultPlan(kind="rot-identity", trigger="acks", when=rng.choice((1, 3, 8)), amount=4096)
    return attrs.evolve(plan, faults=(fault,), last_ending=rng.choice(("process-kill", "power-cut")))


def _slow_disk(rng: random.Random, plan: Plan) -> Plan:
    faults = []
    for _ in range(rng.choice((1, 2))):
        trigger, when = _moment(rng)
        stalled = rng.choice(("flush", "flush_many", "flush_many", "pwritev", "pread", "flush_directory"))
        duration_us = rng.choice((500_000, 30_000_000))
        faults.append(FaultPlan(kind="stall", trigger=trigger, when=when, duration_us=duration_us, target=stalled))
    if rng.random() < 0.7:
        faults.append(FaultPlan(kind="power-cut", trigger="time", when=rng.randint(100_000, 3_000_000)))
    return attrs.evolve(plan, faults=tuple(faults), before_drain=rng.choice(("power-cut", "none")))


def _network(rng: random.Random, plan: Plan) -> Plan:
    faults = []
    for _ in range(rng.choice((1, 2, 4))):
        trigger, when = _moment(rng)
        kind = rng.choice(
            ("cut", "cut-to-broker", "cut-from-broker", "reset", "flap", "flap", "break", "break", "refuse")
        )
        faults.append(
            FaultPlan(
                kind=kind,
                trigger=trigger,
                when=when,
                duration_us=rng.choice((10_000, 300_000, 40_000_000)),
                amount=rng.randint(0, 2_000),
                target=rng.choice(("reset", "close", "stall")),
            )
        )
    if rng.random() < 0.4:
        # so that retries meet what is not flushed yet
        trigger, when = _moment(rng, calls_max=200)
        flush = rng.choice(("flush", "flush_many"))
        faults.append(FaultPlan(kind="stall", trigger=trigger, when=when, duration_us=500_000, target=flush))
    return attrs.evolve(plan, faults=(*faults, *_sometimes_death(rng)))


def _clock_jumps(rng: random.Random, plan: Plan) -> Plan:
    faults = []
    for _ in range(rng.choice((1, 3))):
        trigger, when = _moment(rng)
        seconds = rng.choice((3_600, -3_600, 315_360_000, -315_360_000))
        faults.append(FaultPlan(kind="wall-jump", trigger=trigger, when=when, amount=seconds))
    return attrs.evolve(plan, faults=(*faults, *_sometimes_death(rng)))


def _mixed(rng: random.Random, plan: Plan) -> Plan:
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
    return [FaultPlan(kind=rng.choice(("process-kill", "power-cut")), trigger=trigger, when=when)]


FAMILIES: Mapping[str, Callable[[random.Random, Plan], Plan]] = MappingProxyType(
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
    }
)
"""Families of faults: columns of the report, each with what draws its faults."""
_MIXABLE = ("kill", "power-cut", "flush-error", "full", "io-error", "slow", "network", "clock")


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
        storage=_storage_url(rng, storage),
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


# ---- as data -----------------------------------------------------------------------------------------------------

_converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)


def plan_to_json(plan: Plan) -> str:
    """Return a plan as JSON text."""
    return json.dumps(_converter.unstructure(plan), indent=1, sort_keys=True) + "\n"


def plan_from_json(text: str, where: str = "plan") -> Plan:
    """Return the plan of a JSON text; ``ConfigurationError`` says what is wrong with it."""
    try:
        plain: Any = json.loads(text)
        return _converter.structure(plain, Plan)
    except Exception as error:
        raise ConfigurationError(f"{where}: not a plan ({type(error).__name__}: {error})") from error


# ---- shrinking ---------------------------------------------------------------------------------------------------


def shrink_steps(plan: Plan) -> Iterator[Plan]:
    """Give simpler plans, the boldest first. Whoever shrinks takes one that still fails and asks again."""
    for name in ("consumers", "faults", "producers"):
        items = getattr(plan, name)
        for index in range(len(items)):
            if len(items) > 1 or name == "consumers":
                yield attrs.evolve(plan, **{name: items[:index] + items[index + 1 :]})
    for index, producer in enumerate(plan.producers):
        count = len(producer.sends)
        for kept in (producer.sends[: count // 2], producer.sends[count // 2 :], producer.sends[:-1]):
            if 0 < len(kept) < count:
                yield _with_producer(plan, index, attrs.evolve(producer, sends=kept))
        simple = tuple(attrs.evolve(send, sizes=send.sizes[:1], pause_us=0) for send in producer.sends)
        if simple != producer.sends:
            yield _with_producer(plan, index, attrs.evolve(producer, sends=simple))
        if producer.window > 1:
            yield _with_producer(plan, index, attrs.evolve(producer, window=1))
    plain: dict[str, Any] = {
        "disk_latency_us": {},
        "network_latency_us": 0,
        "network_jitter_us": 0,
        "network_pieces": False,
        "network_buffer_bytes": 65_536,
        "restart_after_us": 0,
        "last_ending": "none",
        "before_drain": "none",
        "recovery_checked": False,
        "churn": False,
        "weakest_send": None,
        "visible": "committed",
    }
    for name, value in plain.items():
        if getattr(plan, name) != value:
            yield attrs.evolve(plan, **{name: value})


def _with_producer(plan: Plan, index: int, producer: ProducerPlan) -> Plan:
    return attrs.evolve(plan, producers=(*plan.producers[:index], producer, *plan.producers[index + 1 :]))
