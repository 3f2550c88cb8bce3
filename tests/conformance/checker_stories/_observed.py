"""Stories of G13, G17, G18 and G20: what the recorder itself measured or asked."""

from __future__ import annotations

from checker_stories._story import OTHER, PARTITION, Story, bad, good
from mqcore_conformance.histories import LivenessObserved, LogRecovered, Probed
from mqcore_conformance.verdicts import Anomaly

BOUND_US = 1_000


# ---- G13 ---------------------------------------------------------------------------------------------------------


@bad("G13", Anomaly.NO_PROGRESS)
def it_never_happens() -> Story:
    return Story().add(LivenessObserved, what="a send", took_us=-1, bound_us=BOUND_US, reason="storage-stopped")


@bad("G13", Anomaly.NO_PROGRESS)
def it_takes_too_long() -> Story:
    return Story().add(LivenessObserved, what="a drain", took_us=BOUND_US + 1, bound_us=BOUND_US)


@bad("G13", Anomaly.NO_PROGRESS)
def the_second_one_takes_too_long() -> Story:
    story = Story().add(LivenessObserved, what="a send", took_us=1, bound_us=BOUND_US)
    return story.add(LivenessObserved, what="a drain", took_us=2 * BOUND_US, bound_us=BOUND_US)


@good
def it_takes_as_long_as_it_may() -> Story:
    return Story().add(LivenessObserved, what="a send", took_us=BOUND_US, bound_us=BOUND_US)


@good
def it_takes_no_time() -> Story:
    return Story().add(LivenessObserved, what="a send", took_us=0, bound_us=BOUND_US)


# ---- G17 ---------------------------------------------------------------------------------------------------------


def _recovered(*found: tuple[str, str, str, str]) -> Story:
    story = Story()
    for group, way, partition, content in found:
        story.add(LogRecovered, group=group, way=way, partition=partition, content=content)
    return story


@bad("G17", Anomaly.UNREPEATABLE_RECOVERY)
def recovering_twice_gives_something_else() -> Story:
    return _recovered(("1", "once", PARTITION, "a"), ("1", "twice", PARTITION, "b"))


@bad("G17", Anomaly.UNREPEATABLE_RECOVERY)
def the_third_recovery_gives_something_else() -> Story:
    return _recovered(
        ("1", "once", PARTITION, "a"), ("1", "twice", PARTITION, "a"), ("1", "after a crash in it", PARTITION, "b")
    )


@bad("G17", Anomaly.UNREPEATABLE_RECOVERY)
def only_the_second_log_differs() -> Story:
    first = (("1", "once", PARTITION, "a"), ("1", "once", OTHER, "b"))
    return _recovered(*first, ("1", "twice", PARTITION, "a"), ("1", "twice", OTHER, ""))


@good
def recovering_twice_gives_the_same() -> Story:
    return _recovered(("1", "once", PARTITION, "a"), ("1", "twice", PARTITION, "a"))


@good
def other_disks_and_other_logs_differ() -> Story:
    return _recovered(("1", "once", PARTITION, "a"), ("1", "once", OTHER, "b"), ("2", "once", PARTITION, "c"))


# ---- G18, G20 ----------------------------------------------------------------------------------------------------


@bad("G18", Anomaly.NOT_REFUSED)
def an_unknown_option_is_taken() -> Story:
    story = Story().add(Probed, clause="G18", question="an option", holds=True)
    return story.add(Probed, clause="G18", question="an unknown option", holds=False, observed="taken")


@bad("G20", Anomaly.UNBOUNDED_RESOURCE)
def a_slow_reader_costs_more_and_more() -> Story:
    story = Story().add(Probed, clause="G20", question="a fast reader", holds=True)
    return story.add(Probed, clause="G20", question="a slow reader", holds=False, observed="it grows")


@bad("G20", Anomaly.UNBOUNDED_RESOURCE, "G07")
def what_a_full_broker_rejected_is_read() -> Story:
    story = Story().invoke("a").end("a", "rejected", code="storage-full")
    return story.drain((0, 1, ["a"]))


@good
def what_a_full_broker_rejected_is_taken_later() -> Story:
    story = Story().invoke("a").end("a", "rejected", code="storage-full").invoke("a", attempt=2)
    return story.append(0, 1).flush(1).ack("a", 0, attempt=2).drain((0, 1, ["a"]))


@good
def a_full_broker_rejects_the_retry_of_what_it_has() -> Story:
    story = Story().invoke("a").end("a", "unknown").invoke("a", attempt=2)
    return story.end("a", "rejected", attempt=2, code="storage-full").drain((0, 1, ["a"]))


@good
def whatever_was_asked_holds() -> Story:
    story = Story().add(Probed, clause="G18", question="an unknown option", holds=True, observed="refused")
    return story.add(Probed, clause="G20", question="a slow reader", holds=True)
