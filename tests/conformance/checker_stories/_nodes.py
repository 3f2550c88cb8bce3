"""Stories of two nodes: what a receipt states of the second one, and what befalls the first."""

from __future__ import annotations

from checker_stories._story import BATCH_BYTES, PARTITION, Story, bad, good
from mqcore_conformance.histories import Appended, Flushed, Started, StatedCopy
from mqcore_conformance.verdicts import Anomaly

UNJUSTIFIED = Anomaly.UNJUSTIFIED_RECEIPT


def _copies(*levels: str) -> tuple[StatedCopy, ...]:
    return tuple(StatedCopy(node=f"n{at}", incarnation=1, level=level) for at, level in enumerate(levels, 1))


def _stored_on_both(*, flushed: bool = True) -> Story:
    """A message in the logs of both nodes, flushed on the first, and on the second too unless it is said otherwise."""
    story = Story().append(0, 0).add(Started, node="n2", life=1, identity="m", epoch=0)
    story.invoke("a").append(0, 1).flush(1)
    for base, until in ((0, 0), (0, 1)):
        story.add(
            Appended,
            node="n2",
            life=1,
            partition=PARTITION,
            position=base * BATCH_BYTES,
            end_position=until * BATCH_BYTES,
            base_offset=base,
            next_offset=until,
            epoch=1,
        )
    if flushed:
        story.add(Flushed, node="n2", life=1, ends=((PARTITION, BATCH_BYTES),))
    return story


@good
def a_receipt_of_two_copies_after_what_justifies_both() -> Story:
    return _stored_on_both().ack("a", 0, copies=_copies("disk", "disk")).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_copy_that_the_second_node_has_not_flushed() -> Story:
    return _stored_on_both(flushed=False).ack("a", 0, copies=_copies("disk", "disk")).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_copy_that_the_first_node_has_not_flushed_although_the_second_has() -> Story:
    story = Story().append(0, 0).add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a").append(0, 1)
    story.add(Flushed, node="n2", life=1, ends=((PARTITION, BATCH_BYTES),))
    return story.ack("a", 0).drain((0, 1, ["a"]))


def _found_by_the_second_life(begin: int, life: int = 2) -> Story:
    """The second node is killed in an append that is never recorded; its next life appends from ``begin`` on."""
    story = Story().append(0, 0).add(Started, node="n2", life=1, identity="m", epoch=0)
    story.invoke("a").append(0, 1).flush(1)
    if life > 1:
        story.add(Started, node="n2", life=life, identity="m", epoch=0)
    story.add(Flushed, node="n2", life=life, ends=((PARTITION, BATCH_BYTES),))
    story.ack("a", 0, copies=_copies("disk", "disk"))
    at, until = begin * BATCH_BYTES, (begin + 1) * BATCH_BYTES
    story.add(
        Appended, node="n2", life=life, partition=PARTITION, position=at, end_position=until,
        base_offset=begin, next_offset=begin + 1, epoch=1,
    )  # fmt: skip
    return story.drain((0, 1, ["a"]))


@good
def a_copy_that_the_recovery_of_a_replica_found() -> Story:
    return _found_by_the_second_life(1)


@bad("G14", UNJUSTIFIED)
def a_copy_that_the_next_append_of_a_replica_shows_not_to_have_been_there() -> Story:
    return _found_by_the_second_life(0)


@bad("G14", UNJUSTIFIED)
def a_copy_that_no_recovery_can_have_found() -> Story:
    return _found_by_the_second_life(1, life=1)


@bad("G14", UNJUSTIFIED)
def a_copy_on_a_node_that_never_served() -> Story:
    return Story().invoke("a").ack("a", 0, copies=_copies("disk", "disk")).drain((0, 1, ["a"]))


@bad("G01", Anomaly.LOST_WRITE)
def what_is_lost_with_one_node_is_still_held_by_the_other() -> Story:
    replication = "sync(copies=2, level=page-cache)"
    story = Story("none", replication=replication).add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a")
    story.ack("a", 0, "page-cache", copies=_copies("page-cache", "page-cache"))
    return story.restart("power-cut").drain()


@good
def what_both_nodes_lost_may_be_missing() -> Story:
    story = Story("none").add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a")
    story.ack("a", 0, "page-cache", copies=_copies("page-cache", "page-cache"))
    return story.fault("power-cut", node="n2", life=1).restart("power-cut").drain()


@bad("G01", Anomaly.LOST_WRITE)
def a_fault_of_another_node_excuses_nothing() -> Story:
    return Story("none").send("a", 0, "page-cache").fault("power-cut", node="n2").drain()
