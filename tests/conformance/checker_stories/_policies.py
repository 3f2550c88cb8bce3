"""Stories of policies that change while a topic is used: what may have been in force decides."""

from __future__ import annotations

from checker_stories._story import Story, bad, good
from mqcore_conformance.verdicts import Anomaly

UNJUSTIFIED, UNSTABLE, UNBOUNDED = Anomaly.UNJUSTIFIED_RECEIPT, Anomaly.UNSTABLE_READ, Anomaly.UNBOUNDED_LOSS


def _answered(story: Story) -> Story:
    """A send under the topic's policy is answered at the level of an append."""
    return story.send("a", 0, "page-cache").drain((0, 1, ["a"]))


# ---- what a receipt has to state (G14) ---------------------------------------------------------------------------


@bad("G14", UNJUSTIFIED)
def the_topic_has_become_synchronous() -> Story:
    return _answered(Story("none").alter(flush="sync"))


@bad("G14", UNJUSTIFIED)
def the_topic_was_to_become_weaker_and_was_refused() -> Story:
    return _answered(Story("sync").alter("refused", flush="none"))


@bad("G14", UNJUSTIFIED)
def the_topic_is_back_at_its_default() -> Story:
    return _answered(Story("sync").alter(flush="none").alter(flush=""))


@bad("G14", UNJUSTIFIED)
def another_topic_has_become_weaker() -> Story:
    return _answered(Story("sync").alter(flush="none", topic="u"))


@bad("G14", UNJUSTIFIED)
def only_what_consumers_see_has_changed() -> Story:
    return _answered(Story("sync").alter(visible="stable"))


@bad("G14", UNJUSTIFIED)
def the_change_was_asked_for_after_the_answer() -> Story:
    return Story("sync").send("a", 0, "page-cache").alter(flush="none").drain((0, 1, ["a"]))


@good
def the_topic_has_become_weaker() -> Story:
    return _answered(Story("sync").alter(flush="none"))


@good
def this_very_topic_has_become_weaker() -> Story:
    return _answered(Story("sync").alter(flush="none", topic="t@1"))


@good
def the_topic_may_have_become_weaker() -> Story:
    return _answered(Story("sync").alter("unknown", flush="none"))


@good
def answered_while_the_change_was_under_way() -> Story:
    story = Story("sync")
    asked_at = len(story.events)
    return story.send("a", 0, "page-cache").alter(flush="none", asked_at=asked_at).drain((0, 1, ["a"]))


@good
def sent_before_the_topic_became_synchronous() -> Story:
    return Story("none").invoke("a").alter(flush="sync").ack("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def a_default_that_is_weak_is_in_force_again() -> Story:
    return _answered(Story("none").alter(flush="sync").alter(flush=""))


# ---- what consumers may see (G08) --------------------------------------------------------------------------------


def _read_unflushed(story: Story) -> Story:
    story.append(0, 0).invoke("a").append(0, 1).fetch("r", 0, (0, 1, ["a"])).flush(1)
    return story.end("a", "unknown").drain((0, 1, ["a"]))


@bad("G08", UNSTABLE)
def the_topic_has_come_to_show_flushed_messages_only() -> Story:
    return _read_unflushed(Story("none").alter(visible="stable"))


@bad("G08", UNSTABLE)
def the_topic_shows_flushed_messages_only_as_by_default() -> Story:
    return _read_unflushed(Story("async(max_messages=9)", visible="stable").alter(flush="none").alter(flush=""))


@good
def the_topic_shows_everything_again() -> Story:
    return _read_unflushed(Story("none", visible="stable").alter(visible="committed"))


@good
def an_empty_text_is_what_shows_committed_messages() -> Story:
    return _read_unflushed(Story("none").alter(visible="stable").alter(visible=""))


@good
def sent_before_the_topic_came_to_show_flushed_messages_only() -> Story:
    story = Story("none").append(0, 0).invoke("a").append(0, 1).alter(visible="stable")
    return story.fetch("r", 0, (0, 1, ["a"])).flush(1).end("a", "unknown").drain((0, 1, ["a"]))


# ---- what may be lost (G03) --------------------------------------------------------------------------------------


def _lost(story: Story, count: int, policy: str = "topic") -> Story:
    for number in range(count):
        story.invoke(f"a{number}", policy=policy).ack(f"a{number}", number, "page-cache")
    return story.restart().drain(end=0)


@bad("G03", UNBOUNDED)
def more_than_the_weakest_send_may_lose() -> Story:
    return _lost(Story(weakest="async(max_messages=1)"), 2, "async")


@bad("G03", UNBOUNDED)
def more_than_the_new_bound_is_lost() -> Story:
    return _lost(Story("async(max_messages=9)").alter(flush="async(max_messages=1)"), 2)


@bad("G03", UNBOUNDED)
def more_than_a_weakest_send_that_was_set_later() -> Story:
    return _lost(Story().alter(weakest_send="async(max_messages=1)"), 2, "async")


@good
def as_much_as_the_weakest_send_may_lose() -> Story:
    return _lost(Story(weakest="async(max_messages=2)"), 2, "async")


@good
def as_much_as_the_wider_of_two_bounds_that_may_be_in_force() -> Story:
    return _lost(Story("async(max_messages=1)").alter("unknown", flush="async(max_messages=2)"), 2)


@good
def one_of_two_policies_that_may_be_in_force_has_no_bound_in_messages() -> Story:
    return _lost(Story("async(max_messages=1)").alter("unknown", flush="async(max_bytes=1 KiB)"), 2)


@good
def one_of_two_policies_that_may_be_in_force_has_no_bound_at_all() -> Story:
    return _lost(Story("async(max_messages=1)").alter("unknown", flush="none"), 2)
