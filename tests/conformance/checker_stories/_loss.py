"""Stories of G01, G02 and G03: what was acknowledged and is not there."""

from __future__ import annotations

from checker_stories._story import OTHER, Story, bad, good
from mqcore_conformance.histories import REFUSES_TO_START, Probed
from mqcore_conformance.verdicts import Anomaly

LOST, HOLE, UNBOUNDED = Anomaly.LOST_WRITE, Anomaly.HOLE, Anomaly.UNBOUNDED_LOSS


# ---- G01 ---------------------------------------------------------------------------------------------------------


@bad("G01", LOST)
def lost_after_a_power_cut() -> Story:
    return Story().send("a", 0).restart().drain(end=0)


@bad("G01", LOST)
def lost_without_any_fault() -> Story:
    return Story("none", "memory", "memory").send("a", 0, "memory").drain(end=0)


@bad("G01", LOST)
def lost_in_one_of_two_partitions() -> Story:
    story = Story().send("a", 0).invoke("b", partition=OTHER).ack("b", 0).restart()
    return story.drain((0, 1, ["a"])).drain(end=0, partition=OTHER)


@bad("G01", LOST)
def another_message_in_its_place() -> Story:
    return Story().send("a", 0).restart().send("b", 0).drain((0, 2, ["b"]))


@bad("G01", LOST)
def one_message_of_a_batch_is_lost() -> Story:
    return Story().invoke("a", "a1", "a2").ack("a", 0).restart().drain((0, 1, ["a1"]))


@bad("G01", LOST)
def the_page_cache_survives_a_kill() -> Story:
    return Story("none").send("a", 0, "page-cache").restart("process-kill").drain(end=0)


@bad("G01", LOST)
def the_page_cache_survives_a_stop() -> Story:
    return Story("none").send("a", 0, "page-cache").restart("stop").drain(end=0)


@bad("G01", LOST)
def a_power_cut_before_it_excuses_nothing() -> Story:
    story = Story("none").restart().send("a", 0, "page-cache").restart("process-kill")
    return story.drain(end=0)


@bad("G01", LOST)
def a_power_cut_after_the_drain_excuses_nothing() -> Story:
    return Story("none").send("a", 0, "page-cache").restart("process-kill").drain(end=0).restart()


@bad("G01", LOST)
def never_drained() -> Story:
    return Story().send("a", 0)


@bad("G01", LOST)
def lost_at_the_start_of_the_log() -> Story:
    return Story(retention=True).send("a", 0).send("b", 1).restart().drain(start=1, end=1)


@bad("G01", LOST, "G02")
def a_start_that_no_retention_moved() -> Story:
    return Story().send("a", 0).send("b", 1).drain((1, 1, ["b"]), start=1)


@bad("G01", LOST)
def a_duplicates_receipt_counts() -> Story:
    story = Story().invoke("a", idempotent=True).end("a", "unknown").invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 0, attempt=2, duplicate=True).restart().drain(end=0)


@bad("G01", LOST)
def flushed_before_the_flush_that_failed() -> Story:
    story = Story("none").append(0, 0).invoke("a").append(0, 1).flush(1).ack("a", 0, "page-cache")
    return story.fault("flush-error").restart("process-kill").append(0, 0).drain(end=0)


@good
def the_page_cache_does_not_survive_a_power_cut() -> Story:
    return Story("none").send("a", 0, "page-cache").restart().drain(end=0)


@good
def a_power_cut_in_a_later_life_takes_the_page_cache() -> Story:
    return Story("none").send("a", 0, "page-cache").restart("process-kill").restart().drain(end=0)


@good
def the_heap_does_not_survive_a_kill() -> Story:
    return Story("none", "memory", "memory").send("a", 0, "memory").restart("process-kill").drain(end=0)


@good
def the_heap_does_not_survive_a_stop() -> Story:
    return Story("none", "memory", "memory").send("a", 0, "memory").restart("stop").drain(end=0)


@good
def retention_takes_what_lies_below_the_start() -> Story:
    return Story(retention=True).send("a", 0).send("b", 1).drain((1, 1, ["b"]), start=1)


@good
def an_unknown_outcome_is_not_a_loss() -> Story:
    return Story().invoke("a").end("a", "unknown").restart().drain(end=0)


@good
def a_rejected_send_is_not_a_loss() -> Story:
    return Story().invoke("a").end("a", "rejected", code="batch-too-large").drain(end=0)


@good
def a_failed_flush_may_take_what_was_not_flushed() -> Story:
    story = Story("none").append(0, 0).invoke("a").append(0, 1).ack("a", 0, "page-cache")
    return story.fault("flush-error").restart("process-kill").drain(end=0)


@bad("G01", LOST)
def a_failed_flush_excuses_no_loss_of_what_was_on_disk() -> Story:
    return Story().append(0, 0).store("a", 0).fault("flush-error").restart("process-kill").drain(end=0)


@bad("G01", LOST)
def lost_in_a_kill_counts_towards_no_bound() -> Story:
    story = Story("async(max_messages=1)").send("a", 0, "page-cache").send("b", 1, "page-cache")
    return story.restart("process-kill").drain(end=0)


# ---- G02 ---------------------------------------------------------------------------------------------------------


@bad("G02", HOLE)
def a_later_message_of_the_epoch_survives() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").restart()
    return story.send("c", 0, "page-cache").drain((0, 2, ["c"]), (1, 1, ["b"]))


@bad("G02", HOLE)
def what_a_reader_saw_is_missing_below_a_survivor() -> Story:
    story = Story("none").invoke("a").end("a", "unknown").invoke("b").end("b", "unknown")
    story.fetch("c", 0, (0, 1, ["a"])).restart().invoke("d").end("d", "unknown")
    return story.drain((0, 2, ["d"]), (1, 1, ["b"]))


@bad("G02", HOLE)
def a_hole_in_the_drain() -> Story:
    story = Story("none").invoke("a", "a1", "a2", "a3").end("a", "unknown")
    return story.drain((0, 1, ["a1"]), (2, 1, ["a3"]))


@bad("G02", HOLE)
def a_hole_of_one_offset_at_the_start() -> Story:
    return Story("none").invoke("a", "a1", "a2").end("a", "unknown").drain((1, 1, ["a2"]), start=0)


@bad("G02", HOLE)
def a_hole_at_the_end() -> Story:
    return Story("none").invoke("a", "a1", "a2").end("a", "unknown").drain((0, 1, ["a1"]), end=2)


@good
def a_lost_suffix_is_allowed() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").restart()
    return story.drain((0, 1, ["a"]))


@good
def a_lost_suffix_below_the_next_epoch_is_allowed() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").restart()
    return story.send("c", 1, "page-cache").drain((0, 1, ["a"]), (1, 2, ["c"]))


@good
def a_hole_that_is_reported() -> Story:
    story = Story("none").invoke("a", "a1", "a2", "a3").end("a", "unknown")
    story.rot(1, 2).refuse("drain", 1, "damaged", point=1, until=2)
    return story.drain((0, 1, ["a1"]), (2, 1, ["a3"]))


@bad("G02", HOLE)
def a_hole_that_goes_on_behind_the_damage() -> Story:
    story = Story("none").invoke("a", "a1", "a2", "a3", "a4").end("a", "unknown")
    story.rot(1, 2).refuse("drain", 1, "damaged", point=1, until=2)
    return story.drain((0, 1, ["a1"]), (3, 1, ["a4"]))


@good
def the_offset_in_the_receipt_of_a_duplicate_is_of_an_earlier_epoch() -> Story:
    story = Story("none").invoke("a", idempotent=True).end("a", "unknown").restart("process-kill")
    story.invoke("a", attempt=2, idempotent=True).ack("a", 0, "page-cache", attempt=2, duplicate=True, epoch=1)
    return story.send("b", 1, "page-cache").drain((0, 1, ["a"]), (1, 2, ["b"]))


# ---- G03 ---------------------------------------------------------------------------------------------------------


def _three_lost(policy: str, **fields: object) -> Story:
    story = Story(policy, **fields)  # type: ignore[arg-type]
    for offset, name in enumerate("abc"):
        story.send(name, offset, "page-cache")
    return story.restart().drain(end=0)


@bad("G03", UNBOUNDED)
def more_messages_lost_than_the_bound() -> Story:
    return _three_lost("async(max_messages=2)")


@bad("G03", UNBOUNDED)
def more_bytes_lost_than_the_bound() -> Story:
    return _three_lost("async(max_bytes=299 B)")


@bad("G03", UNBOUNDED)
def acknowledged_over_a_longer_span_than_the_bound() -> Story:
    return _three_lost("async(max_interval=2 ms)")


@bad("G03", UNBOUNDED)
def more_bytes_lost_than_the_broker_may() -> Story:
    story = Story("async(max_messages=5)", total_bytes_max=199).send("a", 0, "page-cache")
    story.invoke("b", partition=OTHER).ack("b", 0, "page-cache").restart()
    return story.drain(end=0).drain(end=0, partition=OTHER)


@good
def as_many_messages_lost_as_the_bound_allows() -> Story:
    return _three_lost("async(max_messages=3)")


@good
def as_many_bytes_lost_as_the_bound_allows() -> Story:
    return _three_lost("async(max_bytes=300 B)")


@good
def acknowledged_within_the_span() -> Story:
    return _three_lost("async(max_interval=3 ms)")


@good
def as_many_bytes_lost_as_the_broker_may() -> Story:
    return _three_lost("async(max_messages=5)", total_bytes_max=300)


@good
def each_power_cut_has_its_own_bound() -> Story:
    story = Story("async(max_messages=1)").send("a", 0, "page-cache").restart()
    return story.send("b", 0, "page-cache").restart().drain(end=0)


@good
def each_partition_has_its_own_bound() -> Story:
    story = Story("async(max_messages=1)").send("a", 0, "page-cache")
    story.invoke("b", partition=OTHER).ack("b", 0, "page-cache").restart()
    return story.drain(end=0).drain(end=0, partition=OTHER)


@good
def a_send_under_no_policy_has_no_bound() -> Story:
    story = Story("async(max_messages=1)", weakest="none")
    for offset, name in enumerate("ab"):
        story.invoke(name, policy="none").ack(name, offset, "page-cache")
    return story.restart().drain(end=0)


@good
def what_is_drained_is_not_lost() -> Story:
    story = Story("async(max_messages=1)")
    for offset, name in enumerate("abc"):
        story.send(name, offset, "page-cache")
    return story.restart().drain((0, 1, ["a", "b"]))


@bad("G03", UNBOUNDED)
def a_failed_flush_may_take_no_more_than_the_bound() -> Story:
    story = Story("async(max_messages=1)").append(0, 0)
    for offset, name in enumerate("ab"):
        story.invoke(name).append(offset, offset + 1).ack(name, offset, "page-cache")
    return story.fault("flush-error").restart("process-kill").drain(end=0)


@bad("G03", UNBOUNDED)
def another_question_that_holds_excuses_nothing() -> Story:
    return _three_lost("async(max_messages=2)").add(Probed, clause="G18", question="an option", holds=True)


@good
def a_broker_that_refuses_to_start_loses_nothing_silently() -> Story:
    story = Story("async(max_messages=1)")
    for offset, name in enumerate("abc"):
        story.send(name, offset, "page-cache")
    story.fault("power-cut").fault("rot", hit=1)
    return story.add(Probed, clause="G12", question=REFUSES_TO_START, holds=True)


@bad("G01", LOST)
def a_fault_of_a_member_that_met_nothing_takes_nothing() -> Story:
    return Story().send("a", 0, "disk").fault("member-lost", hit=0).drain()


@good
def a_member_that_was_lost_may_take_what_one_disk_holds() -> Story:
    return Story().send("a", 0, "disk").fault("member-lost", hit=1).drain()
