"""Stories of sets: reigns that follow each other, and what every node holds in the end."""

from __future__ import annotations

from checker_stories._story import PARTITION, Story, bad, good
from mqcore_conformance.histories import LogHeld, Started, StatedCopy
from mqcore_conformance.verdicts import Anomaly

BOTH = tuple(StatedCopy(node=node, incarnation=1, level="page-cache") for node in ("n1", "n2"))


def _reigns(epoch: int, story: Story | None = None, node: str = "n2") -> Story:
    """Another node reigns under ``epoch``."""
    return (story or Story("none")).add(Started, node=node, life=1, identity="m", epoch=epoch)


def _held(story: Story, *contents: str, partition: str = PARTITION) -> Story:
    for number, content in enumerate(contents, 1):
        story.add(LogHeld, node=f"n{number}", life=1, partition=partition, content=content)
    return story


@bad("G09", Anomaly.TWO_WRITERS)
def two_nodes_reign_under_one_epoch() -> Story:
    return _reigns(1)


@bad("G09", Anomaly.TWO_WRITERS)
def an_epoch_is_used_again_after_another_one() -> Story:
    return _reigns(1, _reigns(2, node="n3"))


@bad("G09", Anomaly.TWO_WRITERS, "G01")
def an_old_reign_acknowledges_what_the_newer_one_does_not_have() -> Story:
    return (
        _reigns(2, Story("none").add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a"))
        .ack("a", 0, "page-cache", copies=BOTH)
        .drain()
    )


@bad("G09", Anomaly.TWO_WRITERS, "G01", "G02")
def an_old_reign_acknowledges_the_second_of_two_messages_that_the_newer_one_lacks() -> Story:
    story = Story("none").add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a", "a1", "a2")
    return _reigns(2, story).ack("a", 0, "page-cache", copies=BOTH).drain((0, 1, ["a1"]), end=2)


@good
def a_reply_that_is_read_after_the_newer_reign_began_and_that_it_has() -> Story:
    story = Story("none").add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a")
    return _reigns(2, story).ack("a", 0, "page-cache", copies=BOTH).drain((0, 1, ["a"]))


@good
def an_old_reign_acknowledged_at_one_node_what_its_power_cut_may_take() -> Story:
    one = (StatedCopy(node="n1", incarnation=1, level="page-cache"),)
    story = Story("none").add(Started, node="n2", life=1, identity="m", epoch=0).invoke("a")
    return _reigns(2, story).ack("a", 0, "page-cache", copies=one).fault("power-cut").drain()


@good
def two_logs_of_which_one_is_named_by_each_node_in_another_order() -> Story:
    story = Story()
    for number, partition in ((1, PARTITION), (2, "t@1/1"), (2, PARTITION), (1, "t@1/1")):
        story.add(LogHeld, node=f"n{number}", life=1, partition=partition, content=partition)
    return story


@good
def one_life_that_reigns_again_under_a_greater_epoch() -> Story:
    return Story("none").add(Started, life=1, identity="n", epoch=3)


@bad("G10", Anomaly.DIVERGED)
def a_replica_holds_other_bytes() -> Story:
    return _held(Story(), "one", "one", "other")


@bad("G10", Anomaly.DIVERGED)
def the_primary_holds_other_bytes() -> Story:
    return _held(Story(), "other", "one")


@bad("G10", Anomaly.DIVERGED)
def a_replica_has_no_copy_of_a_log() -> Story:
    return _held(_held(Story(), "one", "one"), "two", partition="t@1/1")


@bad("G10", Anomaly.DIVERGED)
def only_the_second_of_two_logs_differs() -> Story:
    return _held(_held(Story(), "one", "one"), "two", "three", partition="t@1/1")


@good
def two_nodes_hold_the_only_log() -> Story:
    return _held(Story(), "one", "one")


@good
def all_nodes_hold_the_same() -> Story:
    return _held(_held(Story(), "one", "one", "one"), "two", "two", "two", partition="t@1/1")
