"""Stories of G06 and G08: order and stability of what consumers see."""

from __future__ import annotations

from checker_stories._story import BATCH_BYTES, OTHER, PARTITION, Story, bad, good
from mqcore_conformance.histories import Appended, Started
from mqcore_conformance.verdicts import Anomaly

BACK, SKIPPED, UNSTABLE = Anomaly.NONMONOTONIC_POLL, Anomaly.SKIPPED_POLL, Anomaly.UNSTABLE_READ


def _abc(*, retention: bool = False) -> Story:
    return Story(retention=retention).store("a", 0).store("b", 1).store("c", 2)


def _drained(story: Story) -> Story:
    return story.drain((0, 1, ["a", "b", "c"]))


# ---- G06 ---------------------------------------------------------------------------------------------------------


@bad("G06", BACK)
def a_reader_is_given_old_messages_again() -> Story:
    return _drained(_abc().fetch("r", 0, (0, 1, ["a", "b"])).fetch("r", 2, (0, 1, ["a"])))


@bad("G06", BACK)
def a_reader_is_given_the_last_message_again() -> Story:
    return _drained(_abc().fetch("r", 0, (0, 1, ["a", "b"])).fetch("r", 2, (1, 1, ["b"])))


@bad("G06", BACK)
def old_messages_within_one_answer() -> Story:
    return _drained(_abc().fetch("r", 0, (0, 1, ["a"]), (1, 1, ["b"]), (1, 1, ["b"])))


@bad("G06", BACK)
def the_next_position_lies_behind_what_was_given() -> Story:
    return _drained(_abc().fetch("r", 0, (0, 1, ["a", "b"]), next_offset=1))


@bad("G06", SKIPPED)
def a_message_is_passed_over() -> Story:
    return _drained(_abc().fetch("r", 0, (0, 1, ["a"])).fetch("r", 1, (2, 1, ["c"])))


@bad("G06", SKIPPED)
def a_message_is_passed_over_within_one_answer() -> Story:
    return _drained(_abc().fetch("r", 0, (0, 1, ["a"]), (2, 1, ["c"])))


@bad("G06", SKIPPED)
def a_message_is_passed_over_after_a_seek() -> Story:
    story = _abc().fetch("r", 0, (0, 1, ["a"])).seek("r", 1).fetch("r", 1, (2, 1, ["c"]))
    return _drained(story)


@bad("G06", SKIPPED)
def the_second_reader_is_given_too_little() -> Story:
    story = _abc().fetch("q", 0, (0, 1, ["a", "b", "c"]))
    return _drained(story.fetch("r", 0, (0, 1, ["a"])).fetch("r", 1, (2, 1, ["c"])))


def _read_then_lost() -> Story:
    """A reader has read ``a``, which a power cut takes; ``b`` and ``c`` are there instead."""
    story = Story("none").send("a", 0, "page-cache").fetch("r", 0, (0, 1, ["a"])).restart()
    return story.send("b", 0, "page-cache").send("c", 1, "page-cache")


@bad("G06", SKIPPED)
def a_loss_is_not_reported_to_who_had_read_it() -> Story:
    return _read_then_lost().fetch("r", 1, (1, 2, ["c"])).drain((0, 2, ["b", "c"]))


@bad("G06", SKIPPED)
def the_divergence_point_is_too_late() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").fetch("r", 0, (0, 1, ["a", "b"]))
    story.restart().send("c", 0, "page-cache").send("d", 1, "page-cache")
    story.refuse("r", 2, "diverged", point=1).seek("r", 1, "diverged")
    return story.fetch("r", 1, (1, 2, ["d"])).drain((0, 2, ["c", "d"]))


@bad("G06", BACK)
def a_reader_is_sent_back_although_nothing_was_lost() -> Story:
    story = _abc().fetch("r", 0, (0, 1, ["a", "b", "c"])).refuse("r", 3, "diverged", point=0)
    return _drained(story.seek("r", 0, "diverged").fetch("r", 0, (0, 1, ["a", "b", "c"])))


@bad("G06", BACK)
def the_divergence_point_is_too_early() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").fetch("r", 0, (0, 1, ["a", "b"]))
    story.restart().send("c", 1, "page-cache").refuse("r", 2, "diverged", point=0).seek("r", 0, "diverged")
    return story.drain((0, 1, ["a"]), (1, 2, ["c"]))


def _sent_back_by_another_node(story: Story, *, is_last: bool) -> Story:
    """What was read up to offset 2 is told to part at 1 by n2, which reigns under 2; the final log has it."""
    story.fetch("r", 0, (0, 1, ["a", "b"])).add(Started, node="n2", life=1, identity="m", epoch=2)
    story.refuse("r", 2, "diverged", point=1, node="n2", life=1).seek("r", 1, "diverged")
    if not is_last:
        story.add(Started, life=1, identity="n", epoch=3)
    return story.fetch("r", 1, (1, 1, ["b"])).drain((0, 1, ["a", "b"]))


@good
def a_reader_is_sent_back_by_a_reign_that_never_had_what_the_next_one_has_again() -> Story:
    return _sent_back_by_another_node(Story("none").store("a", 0).store("b", 1), is_last=False)


@bad("G06", BACK)
def a_reader_is_sent_back_by_a_reign_that_had_what_it_read() -> Story:
    story = Story("none").store("a", 0).store("b", 1)
    for offset in range(2):
        at = {"position": offset * BATCH_BYTES, "end_position": (offset + 1) * BATCH_BYTES}
        at |= {"base_offset": offset, "next_offset": offset + 1}
        story.add(Appended, node="n2", life=1, partition=PARTITION, epoch=1, **at)
    return _sent_back_by_another_node(story, is_last=False)


@good
def a_reader_is_sent_back_by_a_reign_that_another_one_followed_where_no_storage_is_recorded() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache")
    return _sent_back_by_another_node(story, is_last=False)


@bad("G06", BACK)
def a_reader_is_sent_back_by_the_last_reign_where_no_storage_is_recorded() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache")
    return _sent_back_by_another_node(story, is_last=True)


@bad("G06", SKIPPED)
def a_reader_is_sent_on_as_if_something_was_lost() -> Story:
    story = _abc().fetch("r", 0, (0, 1, ["a"])).refuse("r", 1, "diverged", point=2).seek("r", 2, "diverged")
    return _drained(story.fetch("r", 2, (2, 1, ["c"])))


@bad("G06", SKIPPED)
def a_reader_is_sent_to_a_start_that_never_moved() -> Story:
    story = _abc().fetch("r", 0, (0, 1, ["a"])).refuse("r", 1, "below-start", point=2).seek("r", 2, "below-start")
    return _drained(story.fetch("r", 2, (2, 1, ["c"])))


@good
def a_reader_is_sent_to_the_start_that_retention_moved() -> Story:
    story = _abc(retention=True).fetch("r", 0, (0, 1, ["a"])).refuse("r", 1, "below-start", point=2)
    return story.seek("r", 2, "below-start").fetch("r", 2, (2, 1, ["c"])).drain((2, 1, ["c"]), start=2)


@good
def what_was_lost_is_sent_again_to_where_it_was() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").fetch("r", 0, (0, 1, ["a", "b"]))
    story.restart().invoke("b", attempt=2).ack("b", 1, "page-cache", attempt=2)
    story.refuse("r", 2, "diverged", point=1).seek("r", 1, "diverged").fetch("r", 1, (1, 2, ["b"]))
    return story.drain((0, 1, ["a"]), (1, 2, ["b"]))


@good
def a_seek_may_go_anywhere() -> Story:
    story = _abc().fetch("r", 0, (0, 1, ["a", "b"])).seek("r", 0).fetch("r", 0, (0, 1, ["a", "b"]))
    return _drained(story.seek("r", 2).fetch("r", 2, (2, 1, ["c"])))


@good
def a_reader_may_begin_within_a_batch() -> Story:
    return _drained(_abc().fetch("r", 1, (1, 1, ["b", "c"])))


@good
def readers_do_not_depend_on_each_other() -> Story:
    story = _abc().fetch("q", 0, (0, 1, ["a", "b"])).fetch("r", 0, (0, 1, ["a"]))
    return _drained(story.fetch("q", 2, (2, 1, ["c"])).fetch("r", 1, (1, 1, ["b"])))


@good
def partitions_do_not_depend_on_each_other() -> Story:
    story = Story().store("a", 0).store("b", 0, partition=OTHER).fetch("r", 0, (0, 1, ["a"]))
    return (
        story.fetch("r", 0, (0, 1, ["b"]), partition=OTHER).drain((0, 1, ["a"])).drain((0, 1, ["b"]), partition=OTHER)
    )


@good
def a_loss_is_reported_to_who_had_read_it() -> Story:
    story = _read_then_lost().refuse("r", 1, "diverged", point=0).seek("r", 0, "diverged")
    return story.fetch("r", 0, (0, 2, ["b", "c"])).drain((0, 2, ["b", "c"]))


@good
def an_answer_of_the_same_life_cannot_know_of_the_loss() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache")
    story.fetch("r", 0, (0, 1, ["a"])).fetch("r", 1, (1, 1, ["b"])).restart()
    return story.drain(end=0)


@good
def what_retention_took_was_not_lost() -> Story:
    story = _abc(retention=True).fetch("r", 0, (0, 1, ["a"])).restart().fetch("r", 1, (1, 1, ["b"]))
    return story.drain((1, 1, ["b", "c"]), start=1)


@good
def nobody_knows_what_is_left_when_nobody_drained() -> Story:
    story = Story("none").invoke("a").end("a", "unknown").invoke("b").end("b", "unknown")
    return story.fetch("r", 0, (0, 1, ["a"])).restart().fetch("r", 1, (1, 2, ["b"]))


# ---- G08 ---------------------------------------------------------------------------------------------------------


@bad("G08", UNSTABLE)
def what_was_read_is_gone() -> Story:
    story = Story().invoke("a").end("a", "unknown").fetch("r", 0, (0, 1, ["a"])).restart()
    return story.drain(end=0)


@bad("G08", UNSTABLE)
def what_was_read_is_gone_after_a_kill() -> Story:
    story = Story("none").invoke("a").end("a", "unknown").fetch("r", 0, (0, 1, ["a"])).restart("process-kill")
    return story.drain(end=0)


@bad("G08", UNSTABLE)
def the_second_message_read_is_gone() -> Story:
    story = Story().invoke("a", "a1", "a2").end("a", "unknown").fetch("r", 0, (0, 1, ["a1", "a2"])).restart()
    return story.drain((0, 1, ["a1"]))


@bad("G08", UNSTABLE)
def what_was_read_was_not_flushed() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).fetch("r", 0, (0, 1, ["a"])).flush(1).ack("a", 0)
    return story.drain((0, 1, ["a"]))


@bad("G08", UNSTABLE)
def one_message_more_than_was_flushed() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).flush(1).ack("a", 0).invoke("b").append(1, 2)
    return story.fetch("r", 0, (0, 1, ["a", "b"])).flush(2).ack("b", 1).drain((0, 1, ["a", "b"]))


@bad("G08", UNSTABLE)
def a_stable_topic_shows_what_was_not_flushed() -> Story:
    story = Story("async(max_messages=9)", visible="stable").append(0, 0).invoke("a").append(0, 1)
    story.ack("a", 0, "page-cache").fetch("r", 0, (0, 1, ["a"])).flush(1)
    return story.drain((0, 1, ["a"]))


@bad("G08", UNSTABLE)
def a_flush_that_failed_makes_nothing_visible() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).fetch("r", 0, (0, 1, ["a"])).flush(1, failed=True)
    return story.end("a", "unknown").drain((0, 1, ["a"]))


@good
def a_power_cut_may_take_what_the_policy_does_not_protect() -> Story:
    story = Story("none").invoke("a").end("a", "unknown").fetch("r", 0, (0, 1, ["a"])).restart()
    return story.drain(end=0)


@good
def what_recovery_found_was_flushed_by_it() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).end("a", "unknown").restart("process-kill")
    return story.append(1, 1).fetch("r", 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def nothing_was_appended_by_the_life_that_serves_it() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).end("a", "unknown").restart("process-kill")
    return story.fetch("r", 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def exactly_what_was_flushed_is_read() -> Story:
    return _abc().fetch("r", 0, (0, 1, ["a", "b", "c"])).drain((0, 1, ["a", "b", "c"]))


@good
def what_was_read_is_reported_as_damaged() -> Story:
    story = Story().store("a", 0).store("b", 1).fetch("r", 0, (0, 1, ["a", "b"])).rot(0, 1)
    return story.refuse("drain", 0, "damaged", point=0, until=1).drain((1, 1, ["b"]), start=0)


@good
def an_append_is_a_flush() -> Story:
    story = Story(append="disk").append(0, 0).invoke("a").append(0, 1).ack("a", 0)
    return story.fetch("r", 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def what_was_read_lies_below_the_start() -> Story:
    return _abc(retention=True).fetch("r", 0, (0, 1, ["a", "b"])).restart().drain((2, 1, ["c"]), start=2)


@bad("G08", UNSTABLE)
def flushed_before_the_flush_that_failed_read_and_gone() -> Story:
    story = Story("none").append(0, 0).invoke("a").append(0, 1).flush(1).end("a", "unknown")
    story.fetch("r", 0, (0, 1, ["a"])).fault("flush-error").restart("process-kill")
    return story.drain(end=0)


@good
def a_failed_flush_may_take_what_was_read_under_no_policy() -> Story:
    story = Story("none").append(0, 0).invoke("a").append(0, 1).end("a", "unknown")
    story.fetch("r", 0, (0, 1, ["a"])).fault("flush-error").restart("process-kill")
    return story.drain(end=0)


@good
def what_recovery_found_is_read_before_the_first_append() -> Story:
    story = Story().append(0, 0).invoke("a").append(0, 1).end("a", "unknown").restart("process-kill")
    return story.fetch("r", 0, (0, 1, ["a"])).append(1, 1).drain((0, 1, ["a"]))
