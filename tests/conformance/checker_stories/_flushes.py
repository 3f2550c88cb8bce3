"""Stories of G11, G12 and G14: what flushes, damage and receipts have to do with each other."""

from __future__ import annotations

from checker_stories._story import OTHER, PARTITION, Story, bad, good
from mqcore_conformance.histories import REFUSES_TO_START, Probed
from mqcore_conformance.verdicts import Anomaly

TRUSTED, UNJUSTIFIED = Anomaly.FAILED_FLUSH_TRUSTED, Anomaly.UNJUSTIFIED_RECEIPT
SILENT, INVENTED = Anomaly.SILENT_DAMAGE, Anomaly.INVENTED_DAMAGE


def _appended(policy: str = "sync", name: str = "a") -> Story:
    """A life that has appended one message."""
    return Story(policy).append(0, 0).invoke(name).append(0, 1)


# ---- G11 ---------------------------------------------------------------------------------------------------------


@bad("G11", TRUSTED)
def acknowledged_by_a_flush_after_the_one_that_failed() -> Story:
    return _appended().flush(1, failed=True).flush(1).ack("a", 0).drain((0, 1, ["a"]))


@bad("G11", TRUSTED)
def a_log_that_has_to_stop_goes_on() -> Story:
    story = Story("none").append(0, 0).flush(0, failed=True).invoke("a").append(0, 1).ack("a", 0, "page-cache")
    return story.drain((0, 1, ["a"]))


@bad("G11", TRUSTED)
def what_the_failed_flush_covered_is_served() -> Story:
    story = _appended("none").ack("a", 0, "page-cache").flush(1, failed=True).fetch("r", 0, (0, 1, ["a"]))
    return story.drain((0, 1, ["a"]))


@bad("G11", TRUSTED)
def the_second_failure_of_a_log_is_not_the_first() -> Story:
    story = Story("none").append(0, 0).flush(0, failed=True).invoke("a").append(0, 1).flush(1)
    return story.ack("a", 0, "page-cache").flush(1, failed=True).drain((0, 1, ["a"]))


@bad("G11", TRUSTED)
def the_device_does_not_have_what_a_later_flush_covered() -> Story:
    return _appended().fault("flush-error").flush(1, absent=((PARTITION, 0),)).ack("a", 0).drain((0, 1, ["a"]))


@good
def acknowledged_before_the_flush_that_failed() -> Story:
    return Story().append(0, 0).store("a", 0).flush(1, failed=True).drain((0, 1, ["a"]))


@good
def sent_before_the_failure_and_answered_at_the_level_of_an_append() -> Story:
    return _appended("none").flush(1, failed=True).ack("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def the_next_life_goes_on() -> Story:
    story = _appended().flush(1, failed=True).end("a", "unknown").restart("process-kill").append(1, 1)
    return story.store("b", 1).fetch("r", 0, (0, 1, ["a"]), (1, 2, ["b"])).drain((0, 1, ["a"]), (1, 2, ["b"]))


@good
def another_log_goes_on() -> Story:
    story = _appended().flush(1, failed=True).end("a", "unknown").append(0, 0, OTHER).store("b", 0, partition=OTHER)
    return story.drain((0, 1, ["a"])).drain((0, 1, ["b"]), partition=OTHER)


@good
def what_was_flushed_before_is_served() -> Story:
    story = Story().append(0, 0).store("a", 0).invoke("b").append(1, 2).flush(2, failed=True).end("b", "unknown")
    return story.fetch("r", 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def asked_before_the_failure_and_answered_after_it() -> Story:
    story = _appended("none").ack("a", 0, "page-cache")
    asked_at = len(story.events)
    story.flush(1, failed=True).fetch("r", 0, (0, 1, ["a"]), asked_at=asked_at)
    return story.drain((0, 1, ["a"]))


@good
def a_duplicate_of_what_was_flushed_before_is_answered() -> Story:
    story = Story().append(0, 0).invoke("a", idempotent=True).append(0, 1).flush(1).end("a", "unknown")
    story.flush(1, failed=True).invoke("a", attempt=2, idempotent=True).ack("a", 0, attempt=2, duplicate=True)
    return story.drain((0, 1, ["a"]))


@good
def a_reader_is_refused_after_the_failure() -> Story:
    story = _appended().flush(1, failed=True).end("a", "unknown").refuse("r", 0, "storage-stopped").fetch("r", 0)
    return story.drain((0, 1, ["a"]))


@bad("G11", TRUSTED)
def a_log_whose_flush_was_made_to_fail_goes_on() -> Story:
    return Story("none").fault("flush-error", detail=PARTITION).send("a", 0, "page-cache").drain((0, 1, ["a"]))


@bad("G11", TRUSTED)
def the_second_of_two_logs_goes_on() -> Story:
    story = Story("none").fault("flush-error", detail=OTHER).fault("flush-error", detail=PARTITION)
    return story.send("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def another_log_whose_flush_was_made_to_fail_stops() -> Story:
    return Story("none").fault("flush-error", detail=OTHER).send("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def sent_before_its_flush_was_made_to_fail() -> Story:
    story = Story("none").invoke("a").fault("flush-error", detail=PARTITION).ack("a", 0, "page-cache")
    return story.drain((0, 1, ["a"]))


@good
def a_duplicate_is_answered_by_a_log_that_has_stopped() -> Story:
    story = Story("none").invoke("a", idempotent=True).end("a", "unknown").fault("flush-error", detail=PARTITION)
    story.invoke("a", attempt=2, idempotent=True).ack("a", 0, "page-cache", attempt=2, duplicate=True)
    return story.drain((0, 1, ["a"]))


@good
def the_life_after_the_flush_that_was_made_to_fail_goes_on() -> Story:
    story = Story("none").fault("flush-error", detail=PARTITION).restart("process-kill")
    return story.send("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def a_log_that_was_made_slow_goes_on() -> Story:
    return Story("none").fault("stall", detail=PARTITION).send("a", 0, "page-cache").drain((0, 1, ["a"]))


# ---- G12 ---------------------------------------------------------------------------------------------------------


@bad("G12", SILENT, "G02")
def damage_is_not_reported() -> Story:
    return Story().send("a", 0).send("b", 1).rot(0, 1).drain((1, 1, ["b"]), start=0)


@bad("G12", SILENT)
def damage_cuts_the_log() -> Story:
    return Story().send("a", 0).send("b", 1).rot(1, 2).drain((0, 1, ["a"]), end=1)


@bad("G12", SILENT, "G02")
def the_reported_range_ends_too_soon() -> Story:
    story = Story().send("a", 0).send("b", 1).send("c", 2).rot(0, 2)
    story.refuse("drain", 0, "damaged", point=0, until=1)
    return story.drain((2, 1, ["c"]), start=0)


@bad("G12", SILENT)
def the_second_message_of_a_batch_is_damaged_silently() -> Story:
    return Story().invoke("a", "a1", "a2").ack("a", 0).rot(0, 2).drain((0, 1, ["a1"]), end=1)


@bad("G12", SILENT)
def corrupt_bytes_are_served() -> Story:
    return Story().add(Probed, clause="G12", question="r checks", holds=False, observed="body checksum")


@bad("G12", SILENT)
def it_starts_empty_instead_of_refusing() -> Story:
    return Story().send("a", 0).fault("rot", hit=1).restart("process-kill").drain(end=0)


@bad("G12", INVENTED, "G01", "G02")
def what_never_rotted_is_reported_as_damaged() -> Story:
    story = Story().send("a", 0).send("b", 1)
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain((1, 1, ["b"]), start=0)


@bad("G12", INVENTED)
def a_consumer_alone_is_told_of_damage_that_is_none() -> Story:
    story = Story("none").invoke("a").end("a", "unknown").refuse("r", 0, "damaged", point=0, until=1)
    return story.drain((0, 1, ["a"]))


@bad("G12", INVENTED, "G02")
def the_reported_range_goes_beyond_the_batch() -> Story:
    story = Story().send("a", 0).send("b", 1).send("c", 2).rot(0, 1)
    return story.refuse("drain", 0, "damaged", point=0, until=2).drain((2, 1, ["c"]), start=0)


@bad("G12", INVENTED, "G02")
def the_reported_range_begins_before_the_batch() -> Story:
    story = Story().send("a", 0).send("b", 1).send("c", 2).rot(1, 2)
    return story.refuse("drain", 0, "damaged", point=0, until=2).drain((2, 1, ["c"]), start=0)


@bad("G12", INVENTED, "G02")
def another_log_rotted() -> Story:
    story = Story().send("a", 0).send("b", 1).rot(0, 1, OTHER)
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain((1, 1, ["b"]), start=0)


@bad("G12", INVENTED)
def reported_before_it_rotted() -> Story:
    story = Story().send("a", 0).refuse("r", 0, "damaged", point=0, until=1).rot(0, 1)
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain(start=0, end=1)


@good
def damage_of_two_batches_is_reported_as_one_range() -> Story:
    story = Story().send("a", 0).send("b", 1).send("c", 2).rot(1, 2).rot(0, 1)
    return story.refuse("drain", 0, "damaged", point=0, until=2).drain((2, 1, ["c"]), start=0)


@good
def a_range_of_no_offsets_is_reported() -> Story:
    return Story().send("a", 0).refuse("r", 0, "damaged", point=0, until=0).drain((0, 1, ["a"]))


@good
def damage_is_reported_for_its_range() -> Story:
    story = Story().send("a", 0).send("b", 1).rot(0, 1)
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain((1, 1, ["b"]), start=0)


@good
def a_storage_that_keeps_nothing_says_that_it_is_not_there() -> Story:
    story = Story("none", "none", "none").send("a", 0, "none")
    return story.refuse("r", 0, "damaged", point=0, until=1)


@good
def the_broker_refuses_to_start_on_what_is_damaged() -> Story:
    story = Story().send("a", 0).fault("rot", hit=1).fault("process-kill")
    return story.add(Probed, clause="G12", question=REFUSES_TO_START, holds=True)


@good
def rot_that_hit_nothing_that_counts() -> Story:
    return Story().send("a", 0).rot(0, 1).drain((0, 1, ["a"]))


@good
def a_power_cut_took_it_and_not_the_rot() -> Story:
    return Story("none").send("a", 0, "page-cache").rot(0, 1).restart().drain(end=0)


# ---- G14 ---------------------------------------------------------------------------------------------------------


@bad("G14", UNJUSTIFIED)
def a_receipt_before_its_flush() -> Story:
    return _appended().ack("a", 0).flush(1).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_receipt_for_one_message_more_than_was_flushed() -> Story:
    story = Story().append(0, 0).invoke("a", "a1", "a2").append(0, 1).flush(1).append(1, 2).ack("a", 0)
    return story.drain((0, 1, ["a1", "a2"]))


@bad("G14", UNJUSTIFIED)
def a_receipt_before_its_append() -> Story:
    story = Story("none").append(0, 0).invoke("a").ack("a", 0, "page-cache").append(0, 1)
    return story.drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_level_that_the_storage_does_not_have() -> Story:
    return Story("none", "memory", "memory").send("a", 0, "disk").drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_receipt_under_another_epoch() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).flush(1)
    return story.ack("a", 0, epoch=7).drain((0, 7, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_duplicates_receipt_before_the_flush_of_the_original() -> Story:
    story = Story().append(0, 0).invoke("a", idempotent=True).append(0, 1).end("a", "unknown")
    story.invoke("a", attempt=2, idempotent=True).ack("a", 0, attempt=2, duplicate=True).flush(1)
    return story.drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def only_another_log_was_flushed() -> Story:
    story = _appended().append(0, 0, OTHER).append(0, 1, OTHER).flush(1, partition=OTHER).ack("a", 0).flush(1)
    return story.drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_flush_of_the_life_before_proves_nothing() -> Story:
    story = Story().append(0, 0).store("a", 0).restart("process-kill").append(1, 1).invoke("b").append(1, 2)
    return story.flush(1).ack("b", 1).flush(2).drain((0, 1, ["a"]), (1, 2, ["b"]))


@bad("G14", UNJUSTIFIED)
def a_synchronous_send_is_answered_at_the_level_of_an_append() -> Story:
    return Story().send("a", 0, "page-cache").drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_send_that_asks_for_sync_is_answered_at_the_level_of_an_append() -> Story:
    story = Story("async(max_messages=9)").invoke("a", policy="sync").ack("a", 0, "page-cache")
    return story.drain((0, 1, ["a"]))


@good
def receipts_after_what_justifies_them() -> Story:
    return Story().append(0, 0).store("a", 0).store("b", 1).drain((0, 1, ["a", "b"]))


@good
def a_duplicate_of_what_recovery_found() -> Story:
    story = Story().append(0, 0).invoke("a", idempotent=True).append(0, 1).end("a", "unknown")
    story.restart("process-kill").append(1, 1).invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 0, attempt=2, duplicate=True, epoch=1).drain((0, 1, ["a"]))


@good
def a_duplicate_of_an_append_that_the_kill_met() -> Story:
    story = Story().append(0, 0).invoke("a", idempotent=True).end("a", "unknown")
    story.restart("process-kill").append(1, 1).invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 0, attempt=2, duplicate=True, epoch=1).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_duplicates_receipt_states_the_present_epoch() -> Story:
    story = Story().append(0, 0).invoke("a", idempotent=True).append(0, 1).end("a", "unknown")
    story.restart("process-kill").append(1, 1).invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 0, attempt=2, duplicate=True).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_duplicates_receipt_states_a_later_epoch() -> Story:
    story = Story("none").invoke("a", idempotent=True).end("a", "unknown").invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 0, "page-cache", attempt=2, duplicate=True, epoch=7).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_receipt_under_an_earlier_epoch() -> Story:
    story = Story().append(0, 0).store("a", 0).restart("process-kill").append(1, 1)
    return story.invoke("b").append(1, 2).flush(2).ack("b", 1, epoch=1).drain((0, 1, ["a"]), (1, 2, ["b"]))


@good
def a_weaker_send_states_the_weaker_level() -> Story:
    story = Story(weakest="none").append(0, 0).invoke("a", policy="none").append(0, 1).ack("a", 0, "page-cache")
    return story.drain((0, 1, ["a"]))


@good
def a_flush_covers_the_first_of_two_appends() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).invoke("b").append(1, 2).flush(1).ack("a", 0)
    return story.flush(2).ack("b", 1).drain((0, 1, ["a", "b"]))


@good
def a_duplicate_is_answered_before_the_first_append_of_the_life_that_found_it() -> Story:
    story = Story().append(0, 0).invoke("a", idempotent=True).append(0, 1).end("a", "unknown")
    story.restart("process-kill").invoke("a", attempt=2, idempotent=True)
    return story.ack("a", 0, attempt=2, duplicate=True, epoch=1).append(1, 1).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def a_flush_of_the_life_before_is_told_late() -> Story:
    story = Story().append(0, 0).restart("process-kill").append(0, 0).invoke("a").append(0, 1)
    return story.flush(1, life=1).ack("a", 0).flush(1).drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def acknowledged_and_never_appended() -> Story:
    return Story("none").append(0, 0).invoke("a").ack("a", 0, "page-cache").drain((0, 1, ["a"]))


@bad("G14", UNJUSTIFIED)
def another_epoch_where_nobody_watches_the_storage() -> Story:
    return Story().invoke("a").ack("a", 0, epoch=7).drain((0, 7, ["a"]))


def _on_mirrors() -> Story:
    return Story("sync", "page-cache", "mirror").append(0, 0).invoke("a").append(0, 1)


@good
def a_receipt_at_the_level_to_which_an_array_has_fallen() -> Story:
    return _on_mirrors().flush(1, level="disk").ack("a", 0, "disk").drain((0, 1, ["a"]))


@good
def a_receipt_at_the_fallen_level_when_the_next_flush_has_ended() -> Story:
    story = _on_mirrors().flush(1, level="disk").invoke("b").append(1, 2).flush(2, level="mirror")
    return story.ack("a", 0, "disk").ack("b", 1, "mirror").drain((0, 1, ["a"]), (1, 1, ["b"]))


@bad("G14", UNJUSTIFIED)
def a_receipt_states_the_fallen_level_of_long_ago() -> Story:
    story = _on_mirrors().flush(1, level="disk").invoke("b").append(1, 2).flush(2, level="mirror").ack("b", 1, "mirror")
    story.invoke("c").append(2, 3).flush(3, level="mirror").ack("c", 2, "mirror").ack("a", 0, "disk")
    return story.drain((0, 1, ["a"]), (1, 1, ["b"]), (2, 1, ["c"]))
