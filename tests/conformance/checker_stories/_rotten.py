"""Stories of sets in whose copies bits rotted: what another node has whole has to be had from there (G12, G10)."""

from __future__ import annotations

from checker_stories._story import BATCH_BYTES, OTHER, PARTITION, Story, bad, good
from mqcore_conformance.histories import LogHeld, Started, StatedCopy
from mqcore_conformance.verdicts import Anomaly

SYNC = "sync(copies=2, level=disk)"


def _acknowledged_by_two() -> Story:
    """Two nodes have a message on their disks."""
    story = Story(replication=SYNC).add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a")
    return story.ack("a", 0, copies=tuple(StatedCopy(node=f"n{at}", incarnation=1, level="disk") for at in (1, 2)))


def _two_acknowledged_by_two() -> Story:
    """Two nodes have two messages on their disks, each in a batch of its own."""
    story = _acknowledged_by_two().invoke("b")
    return story.ack("b", 1, copies=tuple(StatedCopy(node=f"n{at}", incarnation=1, level="disk") for at in (1, 2)))


def _rot(story: Story, *nodes: str, offset: int = 0, partition: str = PARTITION) -> Story:
    for node in nodes:
        story.fault("rot", node=node, life=1, hit=1, partition=partition, first_offset=offset, next_offset=offset + 1)
    return story


def _reported(story: Story) -> Story:
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain(end=1, start=0)


@bad("G12", Anomaly.SILENT_DAMAGE)
def what_rotted_on_one_node_is_reported_although_the_other_has_it_whole() -> Story:
    return _reported(_rot(_acknowledged_by_two(), "n1"))


@bad("G12", Anomaly.SILENT_DAMAGE)
def what_rotted_on_one_node_is_reported_although_on_the_other_only_the_next_message_rotted() -> Story:
    story = _rot(_rot(_two_acknowledged_by_two(), "n1"), "n2", offset=1)
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain((1, 1, ["b"]), start=0)


@bad("G12", Anomaly.SILENT_DAMAGE)
def what_rotted_on_one_node_is_reported_although_on_the_other_only_the_message_before_rotted() -> Story:
    story = _rot(_rot(_two_acknowledged_by_two(), "n1", offset=1), "n2")
    return story.refuse("drain", 1, "damaged", point=1, until=2).drain((0, 1, ["a"]), end=2)


@bad("G12", Anomaly.SILENT_DAMAGE)
def what_rotted_on_one_node_is_reported_although_on_the_other_another_partition_rotted() -> Story:
    return _reported(_rot(_rot(_acknowledged_by_two(), "n1"), "n2", partition=OTHER))


@good
def what_rotted_on_every_node_is_reported() -> Story:
    return _reported(_rot(_acknowledged_by_two(), "n1", "n2"))


@good
def what_rotted_on_one_node_is_there() -> Story:
    return _rot(_acknowledged_by_two(), "n1").drain((0, 1, ["a"]))


@good
def what_rotted_on_every_node_need_not_be_kept_aside() -> Story:
    story = _reported(_rot(_acknowledged_by_two(), "n1", "n2"))
    for node in ("n1", "n2"):
        story.add(LogHeld, node=node, life=1, partition=PARTITION, content=f"positions 0 to {BATCH_BYTES}")
    return story
