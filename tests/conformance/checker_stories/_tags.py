"""Stories of readers that name tags (G06, G08, G13): what is passed over for them, and how far they are told it was."""

from __future__ import annotations

from typing import Any

from checker_stories._story import Batch, Story, bad, good
from mqcore_conformance.verdicts import Anomaly

BACK, SKIPPED = Anomaly.NONMONOTONIC_POLL, Anomaly.SKIPPED_POLL


def _told(offset: int, *batches: Batch, tags: tuple[str, ...] = ("x",), **fields: Any) -> Story:
    """Messages a (x), b (none), c (y) and d (x), and one answer to a reader that named ``tags``."""
    return _drained(_asked(_stored(), offset, *batches, tags=tags, **fields))


def _stored() -> Story:
    story = Story().store("a", 0, tags=("x",)).store("b", 1, tags=("",))
    return story.store("c", 2, tags=("y",)).store("d", 3, tags=("x",))


def _asked(story: Story, offset: int, *batches: Batch, tags: tuple[str, ...] = ("x",), **fields: Any) -> Story:
    given = {"next_offset": 4, "committed_offset": 4, "next_epoch": 1, **fields}
    return story.fetch("r", offset, *batches, tags=tags, **given)


def _drained(story: Story) -> Story:
    return story.drain((0, 1, ["a", "b", "c", "d"]))


@good
def a_reader_by_tags_is_given_what_it_named() -> Story:
    return _told(0, (0, 1, ["a"]), (3, 1, ["d"]))


@good
def a_reader_by_tags_is_given_whole_batches() -> Story:
    return _told(0, (0, 1, ["a", "b"]), (2, 1, ["c", "d"]))


@good
def a_reader_by_two_tags_is_given_both() -> Story:
    return _told(0, (0, 1, ["a"]), (2, 1, ["c", "d"]), tags=("x", "y"))


@good
def a_reader_by_tags_stands_at_the_end_and_waits() -> Story:
    return _drained(_asked(_asked(_stored(), 0, tags=("z",)), 4, tags=("z",)))


@good
def a_reader_of_everything_is_answered_with_nothing_below_what_is_committed() -> Story:
    return _told(0, tags=(), next_offset=0, next_epoch=0)


@good
def a_position_of_another_reign_says_nothing_of_the_final_log() -> Story:
    return _told(0, (0, 1, ["a"]), next_epoch=2)


@good
def a_position_past_the_final_log_says_nothing_of_it() -> Story:
    return _told(0, (0, 1, ["a"]), next_offset=5, committed_offset=5)


@good
def what_is_read_later_was_not_passed_over() -> Story:
    return _drained(_asked(_asked(_stored(), 0, (0, 1, ["a"]), next_offset=3), 3, (3, 1, ["d"])))


@bad("G06", SKIPPED)
def a_message_with_the_tag_is_passed_over_first() -> Story:
    return _told(0, (3, 1, ["d"]))


@bad("G06", SKIPPED)
def a_message_with_the_tag_is_passed_over_last() -> Story:
    return _told(0, (0, 1, ["a"]))


@bad("G06", SKIPPED)
def a_message_with_one_of_the_tags_is_passed_over_between() -> Story:
    return _told(0, (0, 1, ["a"]), (3, 1, ["d"]), tags=("y", "x"))


@bad("G06", SKIPPED)
def nothing_is_given_and_a_message_with_the_tag_passed_over() -> Story:
    return _told(1)


@bad("G06", BACK)
def a_reader_by_tags_is_given_what_it_was_told_to_have_passed() -> Story:
    story = _asked(_stored(), 0, tags=("z",), next_offset=3)
    return _drained(_asked(story, 3, (1, 1, ["b"]), tags=("z",), next_offset=3))


@good
def a_reader_by_tags_stays_where_it_is_at_a_replica_that_has_less() -> Story:
    story = _asked(_stored(), 0, (0, 1, ["a"]), (3, 1, ["d"]))
    return _drained(_asked(story, 4, committed_offset=3))


@bad("G08", Anomaly.UNSTABLE_READ)
def a_reader_by_tags_is_told_to_have_passed_what_is_not_committed() -> Story:
    return _told(0, tags=("z",), committed_offset=3)


@bad("G13", Anomaly.NO_PROGRESS)
def a_reader_by_tags_is_given_neither_a_message_nor_a_position() -> Story:
    return _told(0, tags=("z",), next_offset=0)
