"""Stories of G04, G05, G07 and G15: was what was read sent, once, and never rejected."""

from __future__ import annotations

import attrs

from checker_stories._story import OTHER, Story, bad, good
from mqcore_conformance.histories import FetchAnswered
from mqcore_conformance.verdicts import Anomaly

PHANTOM, INCONSISTENT = Anomaly.PHANTOM, Anomaly.INCONSISTENT_OFFSET
ABORTED, DUPLICATE = Anomaly.ABORTED_READ, Anomaly.DUPLICATE


def _unknown(*sends: str) -> Story:
    story = Story("none")
    for name in sends:
        story.invoke(name).end(name, "unknown")
    return story


# ---- G04 ---------------------------------------------------------------------------------------------------------


@bad("G04", PHANTOM)
def nobody_sent_it() -> Story:
    return Story().drain((0, 1, ["x"]))


@bad("G04", PHANTOM)
def only_a_consumer_saw_what_nobody_sent() -> Story:
    return Story("none").fetch("r", 0, (0, 1, ["x"])).restart().drain(end=0)


@bad("G04", PHANTOM)
def the_second_message_of_a_batch_was_never_sent() -> Story:
    return _unknown("a").drain((0, 1, ["a", "x"]))


@bad("G04", PHANTOM)
def it_was_sent_to_another_partition() -> Story:
    return _unknown("a").drain((0, 1, ["a"]), partition=OTHER)


@bad("G04", PHANTOM)
def in_its_own_partition_and_in_another() -> Story:
    return Story().store("a", 0).drain((0, 1, ["a"])).drain((0, 1, ["a"]), partition=OTHER)


@bad("G04", PHANTOM)
def read_before_it_was_sent() -> Story:
    return Story("none").fetch("r", 0, (0, 1, ["a"])).send("a", 0, "page-cache").drain((0, 1, ["a"]))


@bad("G04", PHANTOM)
def what_nobody_sent_is_there_twice() -> Story:
    return Story().drain((0, 1, ["x", "x"]))


@good
def an_unknown_send_may_be_there() -> Story:
    return _unknown("a").drain((0, 1, ["a"]))


@good
def a_send_without_a_reply_may_be_there() -> Story:
    return Story("none").invoke("a", one_way=True).drain((0, 1, ["a"]))


# ---- G05 ---------------------------------------------------------------------------------------------------------


@bad("G05", INCONSISTENT)
def two_readers_see_different_messages() -> Story:
    return _unknown("a", "b").fetch("c", 0, (0, 1, ["a"])).fetch("d", 0, (0, 1, ["b"])).restart().drain(end=0)


@bad("G05", INCONSISTENT)
def an_offset_holds_something_else_after_a_crash() -> Story:
    return _unknown("a", "b").fetch("c", 0, (0, 1, ["a"])).restart().drain((0, 1, ["b"]))


@bad("G05", INCONSISTENT)
def the_second_message_of_a_batch_is_another() -> Story:
    story = Story("none").invoke("a", "a1", "a2", "a3").end("a", "unknown").fetch("c", 0, (0, 1, ["a1", "a2"]))
    return story.restart().drain((0, 1, ["a1", "a3"]))


@bad("G05", INCONSISTENT)
def two_receipts_name_one_offset() -> Story:
    return Story("none").send("a", 0, "page-cache").send("b", 0, "page-cache").restart().drain(end=0)


@bad("G05", INCONSISTENT, "G01")
def the_receipt_names_an_offset_that_holds_another() -> Story:
    story = Story().invoke("b").end("b", "unknown").send("a", 0)
    return story.drain((0, 1, ["b"]))


@good
def another_epoch_may_hold_another() -> Story:
    story = _unknown("a", "b").fetch("c", 0, (0, 1, ["a"])).restart()
    return story.drain((0, 2, ["b"]))


@good
def another_partition_may_hold_another() -> Story:
    return (
        Story().store("a", 0).store("b", 0, partition=OTHER).drain((0, 1, ["a"])).drain((0, 1, ["b"]), partition=OTHER)
    )


@good
def two_readers_see_the_same() -> Story:
    return Story().store("a", 0).fetch("c", 0, (0, 1, ["a"])).fetch("d", 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def a_duplicates_receipt_states_the_epoch_of_the_original() -> Story:
    story = Story("none").invoke("a", idempotent=True).end("a", "unknown").invoke("b").end("b", "unknown")
    story.restart("process-kill").invoke("a", attempt=2, idempotent=True)
    story.ack("a", 0, "page-cache", attempt=2, duplicate=True, epoch=1).fetch("c", 0, (0, 1, ["a"]))
    return story.drain((0, 1, ["a"]))


# ---- G07 ---------------------------------------------------------------------------------------------------------


@bad("G07", ABORTED)
def drained_after_it_was_rejected() -> Story:
    return Story().invoke("a").end("a", "rejected", code="batch-too-large").drain((0, 1, ["a"]))


@bad("G07", ABORTED)
def read_after_it_was_rejected_and_gone_again() -> Story:
    story = Story("none").invoke("a").end("a", "rejected", code="batch-too-large").fetch("r", 0, (0, 1, ["a"]))
    return story.restart().drain(end=0)


@bad("G07", ABORTED)
def read_before_it_was_rejected() -> Story:
    story = Story("none").invoke("a").fetch("r", 0, (0, 1, ["a"])).end("a", "rejected", code="batch-too-large")
    return story.drain((0, 1, ["a"]))


@bad("G07", ABORTED)
def rejected_twice_and_drained() -> Story:
    story = Story().invoke("a").end("a", "rejected", code="batch-too-large")
    story.invoke("a", attempt=2).end("a", "rejected", attempt=2, code="batch-too-large")
    return story.drain((0, 1, ["a"]))


@good
def a_rejected_retry_of_an_unknown_attempt_may_be_there() -> Story:
    story = Story().invoke("a").end("a", "unknown").invoke("a", attempt=2).end("a", "rejected", attempt=2)
    return story.drain((0, 1, ["a"]))


@good
def a_retry_of_a_rejected_attempt_may_be_there() -> Story:
    story = Story().invoke("a").end("a", "rejected", code="batch-too-large").invoke("a", attempt=2)
    return story.append(0, 1).flush(1).ack("a", 0, attempt=2).drain((0, 1, ["a"]))


@good
def an_attempt_that_never_ended_may_be_there() -> Story:
    story = Story().invoke("a").end("a", "rejected", code="batch-too-large").invoke("a", attempt=2)
    return story.drain((0, 1, ["a"]))


# ---- G15 ---------------------------------------------------------------------------------------------------------


@bad("G15", DUPLICATE)
def twice_in_the_log_after_one_attempt() -> Story:
    return Story().send("a", 0).drain((0, 1, ["a", "a"]))


@bad("G15", DUPLICATE)
def an_idempotent_producers_retry_is_there_twice() -> Story:
    story = Story().invoke("a", idempotent=True).end("a", "unknown").invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 1, attempt=2).drain((0, 1, ["a", "a"]))


@bad("G15", DUPLICATE)
def three_times_after_two_attempts() -> Story:
    story = Story().invoke("a").end("a", "unknown").invoke("a", attempt=2).ack("a", 2, attempt=2)
    return story.drain((0, 1, ["a", "a", "a"]))


@bad("G15", DUPLICATE)
def a_rejected_attempt_explains_no_duplicate() -> Story:
    story = Story().invoke("a").end("a", "rejected", code="batch-too-large").invoke("a", attempt=2)
    return story.ack("a", 1, attempt=2).drain((0, 1, ["a", "a"]))


@bad("G15", DUPLICATE)
def twice_in_the_second_partition() -> Story:
    story = Story().store("b", 0).store("a", 0, partition=OTHER).drain((0, 1, ["b"]))
    return story.drain((0, 1, ["a", "a"]), partition=OTHER)


@good
def a_retry_of_an_unknown_outcome_may_be_there_twice() -> Story:
    story = Story().invoke("a").end("a", "unknown").invoke("a", attempt=2).ack("a", 1, attempt=2)
    return story.drain((0, 1, ["a", "a"]))


@good
def an_attempt_that_never_ended_explains_a_duplicate() -> Story:
    story = Story().invoke("a").invoke("a", attempt=2).ack("a", 1, attempt=2)
    return story.drain((0, 1, ["a", "a"]))


@good
def two_fetches_of_the_drain_follow_each_other() -> Story:
    story = Story().store("a", 0).store("b", 1).fetch("drain", 0, (0, 1, ["a"])).drain((1, 1, ["b"]), start=0)
    read = story.events[-2]
    assert isinstance(read, FetchAnswered)
    story.events[-2] = attrs.evolve(read, offset=1)
    return story
