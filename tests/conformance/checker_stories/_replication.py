"""Stories of replication policies: how many copies a receipt states, what a failover may take, what replicas show."""

from __future__ import annotations

from checker_stories._story import BATCH_BYTES, LEASE_MS, PARTITION, Batch, Story, bad, good
from mqcore_conformance.histories import Appended, LogHeld, Phase, SideFileHeld, Started, StatedCopy
from mqcore_conformance.verdicts import Anomaly

SYNC = "sync(copies=2, level=page-cache)"
THROTTLED = "async(max_delay=3 ms, on_exceeded=throttle)"
REPORTED = "async(max_delay=3 ms, on_exceeded=report)"


def _set_of(replication: str, flush: str = "none", **fields: str) -> Story:
    """Two nodes, of which the first one reigns under epoch 1."""
    return Story(flush, replication=replication, **fields).add(Started, node="n2", life=1, identity="m", epoch=0)


def _copies(*levels: str) -> tuple[StatedCopy, ...]:
    return tuple(StatedCopy(node=f"n{at}", incarnation=1, level=level) for at, level in enumerate(levels, 1))


def _next_reign(story: Story, epoch: int = 2, node: str = "n2") -> Story:
    return story.add(Started, node=node, life=1, identity="m", epoch=epoch)


def _holds(story: Story, node: str, base: int, until: int, epoch: int = 1) -> Story:
    return story.add(
        Appended, node=node, life=1, partition=PARTITION, position=base * BATCH_BYTES, end_position=until * BATCH_BYTES,
        base_offset=base, next_offset=until, epoch=epoch,
    )  # fmt: skip


def _idle(story: Story, ms: int) -> Story:
    """Time goes on."""
    for _ in range(ms):
        story.add(Phase, name="safety")
    return story


def _at_replica(story: Story, offset: int, *batches: Batch, age_ms: int = 0, committed: int = 1) -> Story:
    return story.fetch("r", offset, *batches, node="n2", life=1, known_age_ms=age_ms, committed_offset=committed)


# ---- receipts ----------------------------------------------------------------------------------------------------


@bad("G14", Anomaly.UNJUSTIFIED_RECEIPT)
def one_copy_under_a_policy_that_asks_for_two() -> Story:
    return _set_of(SYNC).invoke("a").ack("a", 0, "page-cache", copies=_copies("page-cache")).drain((0, 1, ["a"]))


@bad("G14", Anomaly.UNJUSTIFIED_RECEIPT)
def a_member_of_the_set_that_has_it_in_memory_only() -> Story:
    return _set_of(SYNC).invoke("a").ack("a", 0, "memory", copies=_copies("page-cache", "memory")).drain((0, 1, ["a"]))


@good
def two_copies_under_a_policy_that_asks_for_two() -> Story:
    copies = _copies("page-cache", "page-cache")
    return _set_of(SYNC).invoke("a").ack("a", 0, "page-cache", copies=copies).drain((0, 1, ["a"]))


@good
def one_copy_under_a_policy_that_does_not_wait() -> Story:
    return _set_of(THROTTLED).send("a", 0, "page-cache").drain((0, 1, ["a"]))


# ---- reigns ------------------------------------------------------------------------------------------------------


@bad("G09", Anomaly.TWO_WRITERS)
def an_old_reign_acknowledges_what_was_sent_after_the_newer_one_began() -> Story:
    return _next_reign(_set_of(REPORTED)).send("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def an_old_reign_acknowledges_what_was_sent_before_the_newer_one_began() -> Story:
    return _next_reign(_set_of(REPORTED).invoke("a")).ack("a", 0, "page-cache").drain((0, 1, ["a"]))


@good
def a_retry_is_answered_with_the_epoch_of_the_batch_that_it_repeats() -> Story:
    story = _next_reign(_set_of(REPORTED)).invoke("a")
    return story.ack("a", 0, "page-cache", node="n2", life=1, epoch=1, duplicate=True).drain((0, 1, ["a"]))


@good
def a_life_that_reigned_before_answers_a_retry_of_what_its_earlier_reign_appended() -> Story:
    story = _next_reign(_next_reign(_set_of(REPORTED)), 3, "n1").invoke("a")
    return story.ack("a", 0, "page-cache", duplicate=True).drain((0, 1, ["a"]))


@bad("G09", Anomaly.TWO_WRITERS)
def an_old_reign_answers_a_retry_that_was_sent_after_the_newer_one_began() -> Story:
    return _next_reign(_set_of(REPORTED)).invoke("a").ack("a", 0, "page-cache", duplicate=True).drain((0, 1, ["a"]))


@good
def an_old_reign_acknowledged_what_power_cuts_of_both_nodes_may_take() -> Story:
    story = _next_reign(_set_of(SYNC).invoke("a"))
    story.ack("a", 0, "page-cache", copies=_copies("page-cache", "page-cache"))
    return story.fault("power-cut").fault("power-cut", node="n2").drain()


@bad("G01", Anomaly.LOST_WRITE)
def the_same_node_reigned_anew_before_its_receipt_for_one_copy_arrived() -> Story:
    return _next_reign(_set_of(REPORTED).invoke("a"), node="n1").ack("a", 0, "page-cache").drain()


# ---- what a failover may take ------------------------------------------------------------------------------------


@good
def what_no_replica_had_is_lost_with_a_failover() -> Story:
    return _next_reign(_set_of(REPORTED).send("a", 0, "page-cache")).drain()


@good
def a_topic_that_is_not_replicated_loses_it_with_a_failover_too() -> Story:
    return _next_reign(_set_of("none").send("a", 0, "page-cache")).drain()


@bad("G01", Anomaly.LOST_WRITE)
def a_replica_that_serves_is_no_failover() -> Story:
    return _set_of(REPORTED).send("a", 0, "page-cache").drain()


@bad("G01", Anomaly.LOST_WRITE)
def the_same_node_reigns_again() -> Story:
    return _next_reign(_set_of(REPORTED).send("a", 0, "page-cache"), node="n1").drain()


@bad("G01", Anomaly.LOST_WRITE)
def a_failover_takes_nothing_that_two_nodes_had() -> Story:
    story = _set_of(SYNC).invoke("a").ack("a", 0, "page-cache", copies=_copies("page-cache", "page-cache"))
    return _next_reign(story).drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_failover_takes_what_was_acknowledged_over_more_than_the_delay() -> Story:
    story = _set_of(THROTTLED).send("a", 0, "page-cache")
    return _next_reign(_idle(story, 4).send("b", 1, "page-cache")).drain()


@good
def a_failover_takes_what_was_acknowledged_within_the_delay() -> Story:
    return _next_reign(_set_of(THROTTLED).send("a", 0, "page-cache").send("b", 1, "page-cache")).drain()


@good
def a_failover_takes_more_where_delays_are_only_reported() -> Story:
    story = _set_of(REPORTED).send("a", 0, "page-cache")
    return _next_reign(_idle(story, 4).send("b", 1, "page-cache")).drain()


@good
def two_failovers_take_what_was_acknowledged_within_the_delay_each() -> Story:
    story = _next_reign(_idle(_set_of(THROTTLED).send("a", 0, "page-cache"), 4))
    story.invoke("b").ack("b", 0, "page-cache", node="n2", life=1, epoch=2)
    return _next_reign(story, 3, "n1").drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_power_cut_without_a_failover_takes_more_than_the_flush_policy_lets_it() -> Story:
    story = _set_of(THROTTLED, "async(max_messages=1)").send("a", 0, "page-cache").send("b", 1, "page-cache")
    return story.restart("power-cut").drain()


def _struck(story: Story, *nodes: str, kind: str = "power-cut", epoch: int = 2) -> Story:
    """These nodes are struck at once, and another reign begins."""
    for node in nodes:
        story.fault(kind, node=node, life=1, hit=1)
    return _next_reign(story, epoch)


def _back(story: Story, node: str = "n1", identity: str = "n") -> Story:
    """A node serves again, and does not reign."""
    return story.add(Started, node=node, life=2, identity=identity, epoch=0)


def _over_more_than_the_delay(flush: str) -> Story:
    story = _idle(_set_of(THROTTLED, flush).send("a", 0, "page-cache"), 4)
    return story.send("b", 1, "page-cache")


@good
def a_power_cut_of_every_node_takes_what_none_of_them_ever_flushed() -> Story:
    return _struck(_over_more_than_the_delay("none"), "n1", "n2").drain()


@good
def a_power_cut_of_every_node_takes_what_an_earlier_reign_acknowledged_too() -> Story:
    return _struck(_struck(_over_more_than_the_delay("none"), "n1"), "n1", "n2", epoch=3).drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def power_cuts_of_one_node_after_the_other_take_nothing_that_each_got_again() -> Story:
    story = _back(_struck(_over_more_than_the_delay("none"), "n1"))
    return _struck(_next_reign(story, 3), "n2", epoch=4).drain()


@good
def a_power_cut_of_the_others_takes_what_a_node_that_is_down_since_its_own_never_got_again() -> Story:
    return _struck(_struck(_over_more_than_the_delay("none"), "n1"), "n2", epoch=3).drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_power_cut_before_it_was_acknowledged_takes_nothing_of_it() -> Story:
    story = _back(_set_of(THROTTLED, "none").fault("power-cut", node="n2", life=1, hit=1), "n2", "m")
    story = _idle(story.send("a", 0, "page-cache"), 4).send("b", 1, "page-cache")
    return _struck(story, "n1").drain()


@good
def a_power_cut_of_the_others_takes_what_a_node_that_is_back_had_no_reign_to_get_from() -> Story:
    return _struck(_back(_struck(_over_more_than_the_delay("none"), "n1")), "n2", epoch=3).drain()


@good
def a_power_cut_of_the_others_takes_what_a_node_that_was_killed_before_never_had() -> Story:
    story = _set_of(THROTTLED, "none").fault("process-kill", node="n2", life=1, hit=1)
    return _struck(_idle(story.send("a", 0, "page-cache"), 4).send("b", 1, "page-cache"), "n1").drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_node_that_was_killed_before_and_is_back_has_it() -> Story:
    story = _back(_set_of(THROTTLED, "none").fault("process-kill", node="n2", life=1, hit=1), "n2", "m")
    return _struck(_idle(story.send("a", 0, "page-cache"), 4).send("b", 1, "page-cache"), "n1").drain()


@good
def another_disk_takes_what_a_power_cut_does() -> Story:
    return _struck(_struck(_over_more_than_the_delay("none"), "n1", kind="emptied"), "n2", epoch=3).drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_kill_of_every_node_takes_no_more_than_the_delay_lets_it() -> Story:
    return _struck(_over_more_than_the_delay("none"), "n1", "n2", kind="process-kill").drain()


@good
def a_power_cut_of_every_node_takes_what_delay_and_flush_interval_let_it() -> Story:
    return _struck(_over_more_than_the_delay("async(max_interval=10 ms)"), "n1", "n2").drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_power_cut_of_one_node_takes_nothing_that_the_next_primary_had() -> Story:
    return _struck(_over_more_than_the_delay("none"), "n1").drain()


@bad("G03", Anomaly.UNBOUNDED_LOSS)
def a_power_cut_of_every_node_takes_no_more_than_delay_and_flush_interval_let_it() -> Story:
    return _struck(_over_more_than_the_delay("async(max_interval=1 ms)"), "n1", "n2").drain()


@good
def a_failover_is_not_bounded_by_the_flush_policy() -> Story:
    story = _set_of(THROTTLED, "async(max_messages=1)").send("a", 0, "page-cache").send("b", 1, "page-cache")
    return _next_reign(story).drain()


def _read_and_lost() -> Story:
    """A consumer has read two messages, of which the reign that follows may not have the second one."""
    story = _set_of(REPORTED).send("a", 0, "page-cache").send("b", 1, "page-cache")
    return _next_reign(story.fetch("c", 0, (0, 1, ["a", "b"])).invoke("x").invoke("y"))


@bad("G06", Anomaly.SKIPPED_POLL)
def the_next_primary_does_not_tell_a_reader_what_was_lost() -> Story:
    story = _read_and_lost()
    return story.fetch("c", 2, (2, 2, ["x"]), node="n2", life=1).drain((0, 1, ["a"]), (1, 2, ["y", "x"]))


@bad("G06", Anomaly.SKIPPED_POLL)
def the_next_life_does_not_tell_a_reader_what_was_lost_although_another_one_follows() -> Story:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").fetch("c", 0, (0, 1, ["a", "b"]))
    return story.restart().invoke("x").fetch("c", 2, (2, 2, ["x"])).restart().drain((0, 1, ["a"]))


@good
def a_primary_in_between_may_have_had_what_is_lost_later() -> Story:
    story = _read_and_lost().fetch("c", 2, (2, 2, ["x"]), node="n2", life=1)
    return _next_reign(story, 3, "n3").refuse("c", 3, "diverged", 1).seek("c", 1, "diverged").drain((0, 1, ["a"]))


# ---- what is kept aside ------------------------------------------------------------------------------------------


def _cut(*kept: str, node: str = "n1", kind: str = "process-kill") -> Story:
    story = _set_of(REPORTED).send("a", 0, "page-cache").fault(kind)
    story = _next_reign(story).drain().add(LogHeld, node="n1", life=1, partition=PARTITION, content="empty")
    return story.add(SideFileHeld, node=node, life=1, partition=PARTITION, messages=kept) if kept else story


@bad("G10", Anomaly.DISCARDED)
def what_is_cut_is_kept_nowhere() -> Story:
    return _cut()


@bad("G10", Anomaly.DISCARDED)
def something_else_is_kept_aside() -> Story:
    return _cut("b")


@bad("G10", Anomaly.DISCARDED)
def another_node_keeps_it_aside() -> Story:
    return _cut("a", node="n2")


@good
def what_is_cut_is_kept_aside() -> Story:
    return _cut("a")


@good
def what_was_not_drained_is_not_called_cut() -> Story:
    story = _next_reign(_set_of(REPORTED).send("a", 0, "page-cache"))
    return story.add(LogHeld, node="n1", life=1, partition=PARTITION, content="empty")


@good
def what_a_power_cut_may_have_taken_need_not_be_kept() -> Story:
    return _cut(kind="power-cut")


# ---- reads from replicas -----------------------------------------------------------------------------------------


@bad("G19", Anomaly.STALE_READ)
def a_replica_gives_what_lies_past_what_it_knows_to_be_committed() -> Story:
    return _at_replica(_set_of(REPORTED).send("a", 0, "page-cache"), 0, (0, 1, ["a"]), committed=0).drain((0, 1, ["a"]))


@bad("G19", Anomaly.STALE_READ)
def a_replica_gives_what_no_other_node_has() -> Story:
    story = _holds(_set_of(SYNC).invoke("a"), "n2", 0, 1)
    return _at_replica(story, 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@bad("G19", Anomaly.STALE_READ)
def a_replica_says_that_it_knows_what_it_was_not_told() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 101)
    return _at_replica(story, 0, committed=0).drain((0, 1, ["a"]))


@bad("G19", Anomaly.STALE_READ)
def a_replica_calls_its_knowledge_a_little_too_new() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 121)
    return _at_replica(story, 0, age_ms=10, committed=0).drain((0, 1, ["a"]))


@good
def a_replica_says_how_old_its_knowledge_is() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 121)
    return _at_replica(story, 0, age_ms=40, committed=0).drain((0, 1, ["a"]))


@good
def a_replica_says_what_it_knows_as_late_as_it_may() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 100)
    return _at_replica(story, 0, committed=0).drain((0, 1, ["a"]))


@good
def a_replica_knows_all_that_was_acknowledged_long_ago() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 101)
    return _at_replica(story, 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def a_replica_of_a_reign_that_has_just_begun_need_not_know_what_the_one_before_it_had() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 101)
    return _at_replica(_next_reign(story, 2, "n3"), 0, committed=0).drain((0, 1, ["a"]))


@bad("G19", Anomaly.STALE_READ)
def a_replica_does_not_know_what_the_reign_after_a_failover_acknowledged() -> Story:
    story = _next_reign(_set_of(REPORTED), 2, "n3").invoke("a")
    story = _idle(story.ack("a", 0, "page-cache", node="n3", life=1, epoch=2), LEASE_MS + 101)
    return _at_replica(story, 0, committed=0).drain((0, 1, ["a"]))


@good
def a_replica_gives_what_is_committed_where_appends_are_not_recorded() -> Story:
    story = _set_of(SYNC).invoke("a").ack("a", 0, "page-cache", copies=_copies("page-cache", "page-cache"))
    return _at_replica(story, 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def a_replica_gives_what_one_node_has_where_nothing_waits_for_it() -> Story:
    story = _holds(_set_of(REPORTED).invoke("a"), "n2", 0, 1)
    return _at_replica(story, 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def a_replica_that_was_told_of_it_within_a_lease() -> Story:
    return _at_replica(_set_of(REPORTED).send("a", 0, "page-cache"), 0, committed=0).drain((0, 1, ["a"]))


@good
def a_replica_need_not_know_what_was_lost_since() -> Story:
    story = _idle(_set_of(REPORTED).send("a", 0, "page-cache"), LEASE_MS + 101)
    return _next_reign(_at_replica(story, 0, committed=0), 2, "n3").drain()


@good
def a_replica_gives_what_two_nodes_have() -> Story:
    story = _holds(_holds(_set_of(SYNC).invoke("a"), "n1", 0, 1), "n2", 0, 1)
    return _at_replica(story, 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@good
def what_a_replica_gives_need_not_be_flushed_there() -> Story:
    story = _set_of("sync(copies=2, level=page-cache)", "sync").invoke("a")
    story = _holds(_holds(story, "n1", 0, 1), "n2", 0, 1)
    return _at_replica(story, 0, (0, 1, ["a"])).drain((0, 1, ["a"]))


@bad("G08", Anomaly.UNSTABLE_READ)
def what_a_replica_gave_is_lost_with_a_failover_of_a_set_that_waits() -> Story:
    story = _holds(_holds(_set_of(SYNC).invoke("a"), "n1", 0, 1), "n2", 0, 1)
    return _next_reign(_at_replica(story, 0, (0, 1, ["a"])), 2, "n3").drain()
