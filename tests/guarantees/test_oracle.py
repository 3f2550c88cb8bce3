"""Section 2 of the guarantees: what must survive, and what may."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.guarantees import (
    AsyncReplication,
    Fault,
    FaultEvent,
    HeldCopy,
    Level,
    NoReplication,
    Promotion,
    SendOutcome,
    Sent,
    SentReceipt,
    SyncReplication,
    may_survive,
    must_survive,
    survives,
)

pytestmark = pytest.mark.quick

NODES = ("a", "b", "c")
REPLICATIONS = (NoReplication(), AsyncReplication(), SyncReplication())
KILL, POWER, DISK, HOST = Fault.PROCESS_KILL, Fault.NODE_POWER_CUT, Fault.DISK_LOSS, Fault.HOST_LOSS


def acknowledged(*copies: HeldCopy, replication: object = NoReplication(), below: bool = False) -> Sent:
    receipt = SentReceipt(copies=copies, replication=replication)  # type: ignore[arg-type]
    return Sent(outcome=SendOutcome.ACKNOWLEDGED, receipt=receipt, below_log_start=below)


def alone(level: Level, replication: object = NoReplication()) -> Sent:
    return acknowledged(HeldCopy(node="a", level=level), replication=replication)


def test_g01_the_level_of_the_copy_decides_as_the_table_of_section_1_says() -> None:
    table = {
        # process killed, power cut, member disk lost, node lost
        Level.NONE: (False, False, False, False),
        Level.MEMORY: (False, False, True, False),
        Level.PAGE_CACHE: (True, False, False, False),
        Level.DISK: (True, True, False, False),
        Level.MIRROR: (True, True, True, False),
    }
    for level, row in table.items():
        for fault, kept in zip((KILL, POWER, DISK, HOST), row, strict=True):
            assert survives(level, fault) is kept
            assert must_survive(alone(level), [FaultEvent(fault, "a")]) is kept
        assert survives(level, Fault.POWER_CUT) is survives(level, POWER)


def test_g01_a_copy_at_level_none_is_nowhere_even_without_a_fault() -> None:
    assert not must_survive(alone(Level.NONE), [])
    assert must_survive(acknowledged(HeldCopy(node="a", level=Level.NONE), HeldCopy(node="b", level=Level.MEMORY)), [])


def test_g01_faults_add_up() -> None:
    events = [FaultEvent(KILL, "a"), FaultEvent(DISK, "a")]
    assert not must_survive(alone(Level.MEMORY), events)
    assert must_survive(alone(Level.MIRROR), events)


def test_g01_a_fault_elsewhere_takes_nothing() -> None:
    assert must_survive(alone(Level.MEMORY), [FaultEvent(HOST, "b")])


def test_nothing_must_survive_that_was_not_acknowledged_or_is_below_the_logs_start() -> None:
    for outcome in (SendOutcome.REJECTED, SendOutcome.UNKNOWN):
        assert not must_survive(Sent(outcome=outcome), [])
    assert must_survive(alone(Level.DISK), [])
    assert not must_survive(acknowledged(HeldCopy(node="a", level=Level.DISK), below=True), [])


def test_g07_what_was_rejected_may_not_survive_and_all_else_may() -> None:
    assert not may_survive(Sent(outcome=SendOutcome.REJECTED))
    assert may_survive(Sent(outcome=SendOutcome.UNKNOWN))
    assert may_survive(alone(Level.MEMORY))


def test_a_receipt_belongs_to_an_acknowledgement_and_names_a_copy() -> None:
    with pytest.raises(ValueError, match="exactly when"):
        Sent(outcome=SendOutcome.ACKNOWLEDGED)
    with pytest.raises(ValueError, match="exactly when"):
        Sent(outcome=SendOutcome.REJECTED, receipt=SentReceipt(copies=(HeldCopy(node="a", level=Level.DISK),)))
    with pytest.raises(ValueError, match="Length"):
        SentReceipt(copies=())
    with pytest.raises(ValueError, match="reports at disk"):
        HeldCopy(node="a", level=Level.MEMORY, reported=Level.DISK)


def test_without_replication_a_promotion_counts_as_the_loss_of_the_old_primary_too() -> None:
    assert not must_survive(alone(Level.DISK), [Promotion("b")])
    assert must_survive(alone(Level.DISK), [Promotion("a")])


def test_under_asynchronous_replication_a_promotion_counts_as_the_loss_of_the_old_primary() -> None:
    sent = alone(Level.DISK, AsyncReplication())
    assert not must_survive(sent, [Promotion("b")])
    assert must_survive(sent, [Promotion("a")])
    assert not must_survive(sent, [FaultEvent(HOST, "a")])


def test_under_synchronous_replication_one_copy_left_is_enough_and_a_promotion_takes_nothing() -> None:
    replication = SyncReplication(copies=2, level=Level.MEMORY)
    sent = acknowledged(*(HeldCopy(node=n, level=Level.MEMORY) for n in "ab"), replication=replication)
    assert must_survive(sent, [FaultEvent(HOST, "a"), Promotion("b")])
    assert not must_survive(sent, [FaultEvent(KILL, "a"), FaultEvent(KILL, "b")])


def test_r2_a_node_that_lost_anything_it_reported_is_barred_though_this_batch_was_flushed() -> None:
    copy = HeldCopy(node="a", level=Level.DISK, reported=Level.PAGE_CACHE)
    sent = acknowledged(copy, replication=SyncReplication())
    assert not must_survive(sent, [FaultEvent(POWER, "a")])
    assert must_survive(sent, [FaultEvent(KILL, "a")])
    flushed = acknowledged(HeldCopy(node="a", level=Level.DISK), replication=SyncReplication(level=Level.DISK))
    assert must_survive(flushed, [FaultEvent(POWER, "a")])


copies = st.lists(
    st.builds(
        lambda node, levels: HeldCopy(node=node, level=max(levels), reported=min(levels)),
        st.sampled_from(NODES),
        st.tuples(st.sampled_from(Level), st.sampled_from(Level)),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda copy: copy.node,
).map(tuple)
events = st.lists(
    st.one_of(
        st.builds(FaultEvent, st.sampled_from(Fault), st.sampled_from(NODES)),
        st.builds(Promotion, st.sampled_from(NODES)),
    ),
    max_size=4,
).map(tuple)
quick = settings(deadline=None, max_examples=150)


@quick
@given(copies, events, st.sampled_from(REPLICATIONS), events)
def test_more_faults_never_save_a_batch(
    held: tuple[HeldCopy, ...], some: tuple, replication: object, more: tuple
) -> None:  # type: ignore[type-arg]
    sent = acknowledged(*held, replication=replication)
    assert not must_survive(sent, some + more) or must_survive(sent, some)


@quick
@given(copies, events, st.sampled_from(REPLICATIONS))
def test_one_more_copy_never_loses_a_batch(held: tuple[HeldCopy, ...], faults: tuple, replication: object) -> None:  # type: ignore[type-arg]
    whole = acknowledged(*held, replication=replication)
    for copy in held:
        assert not must_survive(acknowledged(copy, replication=replication), faults) or must_survive(whole, faults)


@quick
@given(copies, events, st.sampled_from(REPLICATIONS), st.data())
def test_the_durable_levels_are_in_order(
    held: tuple[HeldCopy, ...], faults: tuple, replication: object, data: st.DataObject
) -> None:  # type: ignore[type-arg]
    """From page cache up a higher level loses nothing that a lower one keeps (memory alone outlives a disk)."""
    raised = tuple(
        copy
        if copy.reported < Level.PAGE_CACHE
        else HeldCopy(
            node=copy.node,
            level=data.draw(st.sampled_from([v for v in Level if v >= copy.level])),
            reported=copy.reported,
        )
        for copy in held
    )
    before, after = acknowledged(*held, replication=replication), acknowledged(*raised, replication=replication)
    assert not must_survive(before, faults) or must_survive(after, faults)


def test_levels_above_memory_survive_ever_more() -> None:
    for lower, higher in itertools.pairwise((Level.PAGE_CACHE, Level.DISK, Level.MIRROR)):
        for fault in Fault:
            assert survives(higher, fault) or not survives(lower, fault)
