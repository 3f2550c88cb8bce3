"""Shapes of sets: small plans in which a bug of a set shows at once. Each leaves the plan in its cell.

Faults come at times, so that several of them meet; nodes are called by name. Knows plans only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from mqcore_conformance.plans import ConsumerPlan, FaultPlan, GroupPlan, NamePlan, ProducerPlan, RunPlan, SendPlan

SECOND_US = 1_000_000
LONG_US = 5 * SECOND_US
"""Longer than a lease and the time after which a replica counts as gone, both together."""
AT_ONCE_US = 1_000


def _at(at_ms: int, kind: str, *targets: str, for_us: int = LONG_US, **fields: Any) -> list[FaultPlan]:
    return [FaultPlan(kind, "time", at_ms * 1000, duration_us=for_us, target=each, **fields) for each in targets]


def _small(
    plan: RunPlan,
    *faults: list[FaultPlan],
    sends: int = 40,
    pause_ms: int = 60,
    sizes: tuple[int, ...] = (100,),
    retries: bool = True,
    window: int = 4,
    consumers: tuple[ConsumerPlan, ...] = (),
    latency_us: int = 0,
    **changes: Any,
) -> RunPlan:
    """One partition, one producer, a quick disk and network, these faults and no other."""
    each = SendPlan(sizes=sizes, pause_us=pause_ms * 1000)
    producer = ProducerPlan(
        name="producer-0", partition=0, idempotent=retries, window=window, retries=retries, sends=(each,) * sends
    )
    quiet: dict[str, Any] = {
        "partitions": 1,
        "producers": (producer,),
        "consumers": consumers,
        "faults": tuple(fault for group in faults for fault in group),
        "disk_latency_us": {},
        "network_latency_us": latency_us,
        "network_jitter_us": 0,
        "network_pieces": False,
        "restart_after_us": AT_ONCE_US,
        "before_drain": "none",
    }
    return attrs.evolve(plan, **{**quiet, **changes})


def _reader(*, from_replica: bool = False, number: int = 0) -> ConsumerPlan:
    name = f"consumer-{number}"
    return ConsumerPlan(name=name, partition=0, bytes_max=1_000_000, pause_us=0, from_replica=from_replica)


def quiet(plan: RunPlan) -> RunPlan:
    """Nothing happens, and every message takes a while from node to node."""
    return _small(plan, sends=12, pause_ms=10, latency_us=5_000)


def busy(plan: RunPlan) -> RunPlan:
    """Nothing happens, and every write and flush takes a while, so that several are under way."""
    slow = {"pwritev": 15_000, "flush": 20_000, "flush_many": 20_000}
    return _small(plan, sends=40, pause_ms=4, window=8, disk_latency_us=slow)


def cut_off(kind: str, target: str, *, for_ms: int = 3_000, **changes: Any) -> Callable[[RunPlan], RunPlan]:
    """One fault of ``kind`` that lasts, while messages are sent to whoever takes them."""

    def shape(plan: RunPlan) -> RunPlan:
        return _small(plan, _at(900, kind, target, for_us=for_ms * 1000), **changes)

    return shape


def read_at_a_lonely_primary(plan: RunPlan) -> RunPlan:
    """A primary is cut off; who reads there sees what is not sent again elsewhere."""
    return _small(plan, _at(900, "isolate", "n1"), retries=False, consumers=(_reader(),))


def read_over_a_failover(plan: RunPlan) -> RunPlan:
    """A consumer has read at a primary that is cut off, and reads on at the next one."""
    return _small(plan, _at(900, "isolate", "n1", for_us=3 * SECOND_US), sends=60, consumers=(_reader(),))


def a_replica_left_behind_is_read(plan: RunPlan) -> RunPlan:
    """A replica is cut off from its primary for several leases, and asked all the while."""
    readers = tuple(_reader(from_replica=True, number=number) for number in range(2))
    return _small(plan, _at(900, "cut-peers", "n2"), sends=80, consumers=readers)


def the_replica_that_is_read_dies(plan: RunPlan) -> RunPlan:
    """One replica lacks what the primary and the other one have, which die when that was read; it goes on alone."""
    readers = tuple(_reader(from_replica=True, number=number) for number in range(2))
    return _small(
        plan,
        _at(1_000, "cut-peers", "n3", for_us=2 * SECOND_US),
        _at(1_500, "process-kill", "n1", "n2"),
        retries=False,
        consumers=readers,
    )


def one_comes_back_and_the_others_die(kind: str) -> Callable[[RunPlan], RunPlan]:
    """A replica loses what it had by ``kind`` and is back at once, alone for longer than a lease."""

    def shape(plan: RunPlan) -> RunPlan:
        return _small(plan, _at(1_000, kind, "n2", for_us=AT_ONCE_US), _at(1_000, "process-kill", "n1", "n3"), sends=30)

    return shape


def the_primary_comes_back(kind: str) -> Callable[[RunPlan], RunPlan]:
    """The primary ends by ``kind`` and is back at once."""

    def shape(plan: RunPlan) -> RunPlan:
        return _small(plan, _at(1_000, kind, "n1", for_us=AT_ONCE_US), sends=30)

    return shape


def a_replica_starts_and_the_others_die(plan: RunPlan) -> RunPlan:
    """A replica is started again over a slow network, and soon after is the only one that lives."""
    return _small(
        plan,
        _at(1_500, "process-kill", "n3", for_us=AT_ONCE_US),
        _at(1_750, "process-kill", "n1", "n2"),
        sends=40,
        pause_ms=60,
        sizes=(8_000,),
        latency_us=5_000,
        network_buffer_bytes=4_096,
    )


def a_replica_joins_and_the_others_die(plan: RunPlan) -> RunPlan:
    """A replica that was gone comes back with a disk that takes nothing, and soon is the only one that lives."""
    return _small(
        plan,
        _at(500, "cut-peers", "n2", for_us=2_500_000),
        _at(2_900, "stall", "n2/pwritev", for_us=3_500_000),
        _at(3_400, "process-kill", "n1", "n3"),
        sends=90,
    )


def the_set_changes_unseen(plan: RunPlan) -> RunPlan:
    """A replica is gone, the coordinator does not answer when that is to be recorded; then only the replica lives."""
    when = 900 + 30 * (plan.seed % 8)
    return _small(
        plan,
        _at(500, "cut-peers", "n2", for_us=2_000_000),
        _at(500 + when, "coordinator-cut", "n1"),
        _at(500 + when + 600, "process-kill", "n1", "n3"),
        sends=60,
        pause_ms=30,
    )


def retries_without_replicas(plan: RunPlan) -> RunPlan:
    """A primary hears nothing from its replicas for a moment, in which connections to it break."""
    return _small(
        plan,
        _at(900, "cut-peers", "n1", for_us=700_000),
        _at(1_100, "flap", "n1", amount=5),
    )


def one_of_three_copies_is_whole(plan: RunPlan) -> RunPlan:
    """One batch rots on two nodes and is read while the third is away; then that one comes back."""
    late = attrs.evolve(_reader(number=1), begins_us=2 * SECOND_US)
    return _small(
        plan,
        _at(1_500, "process-kill", "n3", for_us=3 * SECOND_US),
        _at(1_700, "rot", "n1+n2/middle", for_us=0, amount=8),
        sends=60,
        consumers=(late,),
    )


def one_copy_rots(plan: RunPlan) -> RunPlan:
    """A batch rots on the primary, and is read later."""
    late = attrs.evolve(_reader(number=1), begins_us=2 * SECOND_US)
    return _small(plan, _at(1_500, "rot", "n1/middle", for_us=0, amount=8), sends=50, consumers=(late,))


def no_copy_is_whole(plan: RunPlan) -> RunPlan:
    """A batch rots on all nodes, and is read later."""
    late = attrs.evolve(_reader(number=1), begins_us=2 * SECOND_US)
    return _small(plan, _at(1_500, "rot", "n1+n2+n3/middle", for_us=0, amount=8), sends=50, consumers=(late,))


def what_waits_rots(plan: RunPlan) -> RunPlan:
    """A primary hears nothing from its replicas for a moment, in which the last batch rots that they do not have."""
    cut = _at(900, "cut-peers", "n1", for_us=700_000)
    return _small(plan, cut, _at(1_250, "rot", "n1/tail", for_us=0, amount=8), sends=40)


def a_clone(plan: RunPlan) -> RunPlan:
    """A replica comes back on a copy of another node's disk."""
    return _small(plan, _at(1_200, "cloned", "n2", for_us=AT_ONCE_US), sends=60)


def an_old_copy_and_the_others_die(plan: RunPlan) -> RunPlan:
    """A replica comes back on its disk of a while ago, alone for longer than a lease."""
    return _small(
        plan,
        _at(700, "backup", "n2"),
        _at(2_000, "old-copy", "n2", for_us=AT_ONCE_US),
        _at(2_000, "process-kill", "n1", "n3"),
        sends=50,
    )


def two_that_do_not_know_of_each_other(plan: RunPlan) -> RunPlan:
    """The primary dies, two replicas are cut off from each other, and the one of them that reigns dies too."""
    return _small(
        plan,
        _at(900, "process-kill", "n1"),
        _at(900, "cut-peers", "n3"),
        _at(3_000, "process-kill", "primary"),
    )


def a_name_is_taken_before_a_failover(plan: RunPlan) -> RunPlan:
    """A name is taken over, and its set hands over before the process that had it has sent again."""
    name = NamePlan(name="name-0", partition=0, messages=30, pause_us=SECOND_US, begins_us=(0, 2_200_000))
    return _small(plan, _at(2_400, "process-kill", "primary"), sends=10, names=(name,))


def a_failover_while_topics_come_and_go(plan: RunPlan) -> RunPlan:
    """The metadata log is made short again and again, a group reads; the primary dies when both went on for a while."""
    group = GroupPlan(name="group-0", pause_us=20_000, bytes_max=2_000, session_ms=1_000)
    dies = _at(2_600, "process-kill", "primary")
    return _small(plan, dies, sends=60, groups=(group,), churn=True, metadata_bytes=1)


def nodes_are_away_while_topics_go(plan: RunPlan) -> RunPlan:
    """On slow disks, so that a topic is there for a while; one replica after the other is away for long enough."""
    slow = {"pwritev": 15_000, "flush": 20_000, "flush_many": 20_000}
    away = [_at(at_ms, "process-kill", node, for_us=2 * SECOND_US) for at_ms, node in ((1_100, "n2"), (3_700, "n3"))]
    return _small(plan, *away, sends=80, groups=(), churn=True, metadata_bytes=1, disk_latency_us=slow)
