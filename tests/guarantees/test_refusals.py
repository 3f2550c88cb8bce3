"""G18: what cannot be kept is refused by name, with the values and the remedy."""

import attrs
import pytest

from mqcore.errors import RefusedError, exit_code
from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    Build,
    Fault,
    FlushPolicy,
    Level,
    NoFlush,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
    TopicBuild,
    at_least_as_strong,
    check_available,
    check_build,
    explain,
    raise_refusals,
)

pytestmark = pytest.mark.quick

FILE = Build(storage="mmap:///a", append_level=Level.PAGE_CACHE, flush_level=Level.DISK)
HEAP = Build(storage="memory://", append_level=Level.MEMORY, flush_level=Level.MEMORY)
BOUNDS = AsyncFlush(max_messages=1000, max_bytes=10**6, max_interval_ms=200)


def names(build: Build) -> list[str]:
    return [refusal.name for refusal in check_build(build)]


def replicated(policy: ReplicationPolicy, **changes: object) -> Build:
    return attrs.evolve(FILE, replication=policy, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("flush", [SyncFlush(), BOUNDS])
@pytest.mark.parametrize("level", [Level.MEMORY, Level.PAGE_CACHE])
def test_g18_sync_and_async_need_a_flush_that_reaches_disk(flush: FlushPolicy, level: Level) -> None:
    (refusal,) = check_build(attrs.evolve(HEAP, flush=flush, flush_level=level))
    assert refusal.name == "flush-does-not-reach-disk"
    assert f"reaches {level.label}, not disk" in refusal.message
    assert "memory://" in refusal.message
    assert 'flush = "none"' in refusal.remedy


def test_g18_what_a_backend_can_keep_is_not_refused() -> None:
    for build in (FILE, HEAP, attrs.evolve(FILE, flush=BOUNDS), attrs.evolve(HEAP, flush=NoFlush())):
        assert check_build(build) == []


def test_g18_a_topics_own_policies_are_held_against_the_storage_too() -> None:
    topic = TopicBuild(name="orders", flush=SyncFlush(), weakest_send=BOUNDS)
    refusals = check_build(attrs.evolve(HEAP, topics=(topic,)))
    assert [refusal.name for refusal in refusals] == ["flush-does-not-reach-disk"] * 2
    assert "topics.orders.flush" in refusals[0].message
    assert "topics.orders.weakest_send" in refusals[1].message


def test_g18_the_weakest_send_is_weaker_than_the_topic() -> None:
    assert names(attrs.evolve(FILE, topics=(TopicBuild(name="a", flush=BOUNDS, weakest_send=SyncFlush()),))) == [
        "weakest-send-is-stronger"
    ]
    assert names(attrs.evolve(FILE, topics=(TopicBuild(name="a", weakest_send=BOUNDS),))) == []


def test_g08_stable_needs_a_flush() -> None:
    stable = TopicBuild(name="a", visible="stable")
    assert names(attrs.evolve(FILE, topics=(stable,))) == []
    assert names(attrs.evolve(HEAP, topics=(stable,))) == ["never-stable"]
    assert names(attrs.evolve(FILE, flush=NoFlush(), topics=(stable,))) == ["never-stable"]


@pytest.mark.parametrize(
    ("build", "name", "said"),
    [
        (replicated(SyncReplication(level=Level.MIRROR)), "level-not-reached", "mmap:///a reaches disk at best"),
        (replicated(SyncReplication(level=Level.NONE)), "level-none", "level none"),
        (replicated(SyncReplication(copies=3), nodes=2), "too-few-nodes", "2 nodes cannot hold 3 copies"),
        (replicated(AsyncReplication(on_exceeded="throttle"), nodes=1), "throttle-alone", "one node"),
        (replicated(SyncReplication(), failover="automatic"), "no-arbiter", "2 nodes without a coordinator"),
    ],
)
def test_g18_impossible_replication(build: Build, name: str, said: str) -> None:
    (refusal,) = check_build(build)
    assert refusal.name == name
    assert said in refusal.message
    assert refusal.remedy


def test_r1_a_coordinator_or_a_human_settles_who_reigns() -> None:
    for changes in ({"failover": "manual"}, {"failover": "automatic", "coordinator": True}):
        assert check_build(replicated(SyncReplication(), **changes)) == []


def test_g18_synchronous_replication_to_itself_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"copies = 1: .* at least 2"):
        SyncReplication(copies=1)


@pytest.mark.parametrize("policy", [SyncReplication(), AsyncReplication(), AsyncReplication(on_exceeded="throttle")])
def test_g18_replication_needs_the_nodes_of_a_set_and_is_explained_without(policy: ReplicationPolicy) -> None:
    build = replicated(policy)
    assert check_build(build) == []
    (refusal,) = check_available(build)
    assert refusal.name == "replication-without-a-set"
    assert "[cluster]" in refusal.remedy
    explanation = explain(build)
    assert explanation.tables
    assert not explanation.starts
    assert check_available(FILE) == []
    assert check_available(attrs.evolve(build, nodes=2)) == []
    (refusal,) = check_available(attrs.evolve(FILE, topics=(TopicBuild(name="a", replication=policy),)))
    assert refusal.name == "replication-without-a-set"


def test_g18_a_topics_own_replication_is_held_against_the_set() -> None:
    topic = TopicBuild(name="orders", replication=SyncReplication(copies=3))
    (refusal,) = check_build(attrs.evolve(FILE, topics=(topic,), nodes=2))
    assert str(refusal).startswith("topics.orders.replication = 'sync(copies=3, ")
    assert "2 nodes cannot hold 3 copies" in str(refusal)


def test_r1_two_nodes_without_an_arbiter_do_not_fail_over_whatever_the_replication() -> None:
    assert names(attrs.evolve(FILE, nodes=2, failover="automatic")) == ["no-arbiter"]


def test_r16_explain_says_what_a_promotion_by_hand_may_lose_and_g09_what_a_lease_bounds() -> None:
    build = replicated(AsyncReplication(), nodes=2)
    by_hand, by_lease = explain(build), explain(attrs.evolve(build, coordinator=True, failover="automatic"))
    assert any("lost without bound (R16)" in note for note in by_hand.notes)
    assert any("no reply later than lease_ms" in note for note in by_lease.notes)
    assert not any("R16" in note for note in by_lease.notes)
    whole = explain(replicated(SyncReplication(), nodes=2))
    assert not any("R16" in note for note in whole.notes)
    assert explain(FILE).notes == ()
    assert "linearizable" in by_lease.assumptions[-1]
    assert "linearizable" not in by_hand.assumptions[-1]
    assert by_hand.notes[0] in " ".join(by_hand.lines(200))


def test_survive_met_is_not_refused() -> None:
    faults = (Fault.PROCESS_KILL, Fault.NODE_POWER_CUT, Fault.POWER_CUT)
    assert check_build(attrs.evolve(FILE, survive=faults)) == []
    assert check_build(replicated(SyncReplication(level=Level.DISK), survive=tuple(Fault))) == []


@pytest.mark.parametrize(
    ("build", "fault", "said", "remedy"),
    [
        (
            attrs.evolve(FILE, flush=BOUNDS, topics=(TopicBuild(name="a", partitions=4),)),
            Fault.POWER_CUT,
            "survive = 'power-cut' is not met: may lose up to 1 000 messages, 1 MB, acknowledged within 200 ms, "
            "per partition; 4 000 messages, 4 MB in all",
            'flush = "sync"',
        ),
        (attrs.evolve(FILE, flush=NoFlush()), Fault.POWER_CUT, "without bound", 'flush = "sync"'),
        (HEAP, Fault.PROCESS_KILL, "may lose everything", "a storage whose flush reaches disk"),
        (FILE, Fault.DISK_LOSS, "this disk has the only copy", "mirrored storage"),
        (FILE, Fault.HOST_LOSS, "this node has the only copy", "synchronous replication to another node"),
    ],
)
def test_g18_survive_not_met_says_what_may_be_lost_and_what_it_takes(
    build: Build, fault: Fault, said: str, remedy: str
) -> None:
    (refusal,) = check_build(attrs.evolve(build, survive=(fault,)))
    assert refusal.name == "survive-not-met"
    assert said in refusal.message
    assert remedy in refusal.remedy


def test_g18_survive_is_held_against_the_worst_topic_and_the_weakest_send() -> None:
    survive = (Fault.POWER_CUT,)
    for topic in (TopicBuild(name="b", flush=BOUNDS), TopicBuild(name="b", weakest_send=NoFlush())):
        assert names(attrs.evolve(FILE, survive=survive, topics=(TopicBuild(name="a"), topic))) == ["survive-not-met"]


def test_each_fault_is_refused_alone_and_once() -> None:
    survive = (Fault.PROCESS_KILL, Fault.DISK_LOSS, Fault.HOST_LOSS, Fault.HOST_LOSS)
    assert names(attrs.evolve(FILE, survive=survive)) == ["survive-not-met"] * 2


def test_refusals_raise_one_error_of_exit_code_3_with_a_line_each() -> None:
    raise_refusals([])
    refusals = check_build(attrs.evolve(FILE, survive=(Fault.DISK_LOSS, Fault.HOST_LOSS)))
    with pytest.raises(RefusedError) as caught:
        raise_refusals(refusals)
    assert len(str(caught.value).splitlines()) == 2
    assert exit_code(caught.value) == 3


def test_strength_of_flush_policies_is_a_partial_order() -> None:
    by_messages, by_bytes = AsyncFlush(max_messages=1), AsyncFlush(max_bytes=1)
    assert not at_least_as_strong(by_messages, by_bytes)
    assert not at_least_as_strong(by_bytes, by_messages)
    policies = (SyncFlush(), BOUNDS, by_messages, by_bytes, NoFlush())
    for policy in policies:
        assert at_least_as_strong(policy, policy)
        assert at_least_as_strong(SyncFlush(), policy)
        assert at_least_as_strong(policy, NoFlush())
