"""Stories of G16, and of G15 for producers with a name: what brokers keep for clients beside messages."""

from __future__ import annotations

from checker_stories._story import PARTITION, Story, bad, good
from mqcore_conformance.histories import Completed, CursorCommitted, CursorSeen, Invoked, NameClaimed
from mqcore_conformance.verdicts import Anomaly

REWOUND, DIVERGED, TWO = Anomaly.NONMONOTONIC_POLL, Anomaly.DIVERGED, Anomaly.TWO_WRITERS
AGAIN = Anomaly.DUPLICATE


class Kept(Story):
    """A story with cursors of the group ``g`` and processes of the name ``n``."""

    def seen(self, offset: int, epoch: int = 1, status: str = "", group: str = "g") -> Kept:
        """A broker says where the group is; -1 for nowhere."""
        self.add(
            CursorSeen, life=self.life, process="m", group=group, partition=PARTITION, asked_at=len(self.events),
            offset=offset, epoch=epoch if offset >= 0 else 0, status=status,
        )  # fmt: skip
        return self

    def commit(
        self,
        offset: int,
        epoch: int = 1,
        outcome: str = "done",
        told: tuple[int, int] | None = None,
        *,
        is_diverged: bool = False,
    ) -> Kept:
        """A member commits; ``told`` is in force from then on, what was committed by default."""
        in_force = (told or (offset, epoch)) if outcome == "done" else (-1, 0)
        self.add(
            CursorCommitted, life=self.life, process="m", group="g", partition=PARTITION, asked_at=len(self.events),
            offset=offset, epoch=epoch, outcome=outcome, in_force=in_force[0], in_force_epoch=in_force[1],
            is_diverged=is_diverged,
        )  # fmt: skip
        return self

    def claim(self, process: str, epoch: int, name: str = "n", last: int = -1, since: int = 0) -> Kept:
        """A process is given a name that it asked for so many events ago, and told its ``last`` message; -1: none."""
        self.add(
            NameClaimed, life=self.life, process=process, name=name, partition=PARTITION,
            asked_at=len(self.events) - since, epoch=epoch, last=last,
        )  # fmt: skip
        return self

    def begin(self, process: str, send: str, attempt: int = 1) -> Kept:
        """A process of the name begins to send."""
        self.add(
            Invoked, process=process, send=send, attempt=attempt, partition=PARTITION, messages=(send,),
            size_bytes=100, idempotent=True,
        )  # fmt: skip
        return self

    def acked(
        self, process: str, send: str, offset: int, attempt: int = 1, *, duplicate: bool = False, flushed: bool = True
    ) -> Kept:
        """It is acknowledged, as it has to be."""
        if not duplicate:
            self.append(offset, offset + 1)
            if flushed:
                self.flush(offset + 1)
        self.add(
            Completed, life=self.life, process=process, send=send, attempt=attempt, outcome="acknowledged",
            offset=offset, epoch=self.life, level="disk" if flushed else "page-cache", duplicate=duplicate,
        )  # fmt: skip
        return self


def _stored(count: int) -> Kept:
    """A log of so many messages, all flushed."""
    story = Kept()
    for offset in range(count):
        story.store(f"m{offset}", offset)
    return story


def _lossy() -> Kept:
    """A log of two messages, neither of them flushed."""
    story = Kept("none")
    story.send("a", 0, "page-cache").send("b", 1, "page-cache")
    return story


def _drained(story: Story, count: int, epoch: int = 1) -> Kept:
    story.drain((0, epoch, [f"m{offset}" for offset in range(count)]))
    assert isinstance(story, Kept)
    return story


# ---- G16: nothing wrong ------------------------------------------------------------------------------------------


@good
def a_cursor_is_where_it_was_committed_last() -> Story:
    story = _stored(3).seen(-1).commit(1).commit(3)
    story.restart()
    return _drained(story.seen(3), 3).seen(3, status="ok")


@good
def a_commit_of_unknown_outcome_may_be_in_force_or_not() -> Story:
    return Kept().commit(1).commit(2, outcome="unknown").seen(1).seen(2).commit(3).seen(3).drain()


@good
def a_refused_commit_changes_nothing() -> Story:
    return Kept().commit(2).commit(3, outcome="refused").seen(2).drain()


@good
def a_commit_below_the_cursor_leaves_it() -> Story:
    return Kept().commit(3).commit(2, told=(3, 1)).seen(3).drain()


@good
def a_commit_below_one_of_unknown_outcome_may_leave_that() -> Story:
    return Kept().commit(1).commit(3, outcome="unknown").commit(2, told=(3, 1)).seen(3).drain()


@good
def a_cursor_goes_back_over_a_loss_that_was_told() -> Story:
    story = _lossy().commit(2)
    story.restart()
    return story.seen(2).commit(1, is_diverged=True).seen(1).drain((0, 1, ["a"]))


@good
def a_commit_of_unknown_outcome_over_a_loss_may_leave_the_divergence_point() -> Story:
    story = _lossy().commit(2)
    story.restart()
    return story.commit(0, 0, "unknown", is_diverged=True).seen(1).drain((0, 1, ["a"]))


@good
def a_cursor_past_a_loss_is_told_as_such() -> Story:
    story = _lossy().commit(2)
    story.restart().drain((0, 1, ["a"]))
    return story.seen(2, status="diverged")


@good
def a_cursor_may_stand_at_the_beginning() -> Story:
    return Kept().commit(0, 0).seen(0, 0).drain()


@good
def a_commit_without_an_epoch_leaves_a_cursor_that_has_one() -> Story:
    return Kept().commit(2).commit(2, 0, told=(2, 1)).seen(2).drain()


@good
def a_cursor_may_stand_where_retention_let_the_log_begin() -> Story:
    story = Kept("none", retention=True).commit(2)
    story.invoke("c").end("c", "unknown").drain((2, 1, ["c"]), start=2)
    return story.seen(2, status="ok")


@good
def of_a_log_that_was_not_drained_no_cursor_is_wrong() -> Story:
    return Kept().commit(2).seen(2, status="ok")


@good
def groups_have_cursors_of_their_own() -> Story:
    return Kept().commit(2).seen(-1, group="h").seen(2).drain()


@good
def a_memory_keeps_no_cursor() -> Story:
    story = Kept("none", append="memory", reach="memory").commit(2)
    story.restart("process-kill")
    return story.seen(-1).drain()


# ---- G16: broken -------------------------------------------------------------------------------------------------


@bad("G16", REWOUND)
def a_committed_cursor_is_gone() -> Story:
    return Kept().commit(2).seen(-1).drain()


@bad("G16", REWOUND)
def an_older_cursor_is_taken() -> Story:
    return Kept().commit(1).commit(2).seen(1).drain()


@bad("G16", REWOUND)
def an_older_commit_of_unknown_outcome_takes_a_later_one_back() -> Story:
    return Kept().commit(1, outcome="unknown").commit(2).seen(1).drain()


@bad("G16", REWOUND)
def a_cursor_loses_its_epoch() -> Story:
    return Kept().commit(2, epoch=1, told=(2, 0)).drain()


@bad("G16", REWOUND)
def a_cursor_is_seen_without_its_epoch() -> Story:
    return Kept().commit(2).seen(2, 0).drain()


@bad("G16", REWOUND)
def a_refused_commit_is_in_force() -> Story:
    return Kept().commit(1).commit(2, outcome="refused").seen(2).drain()


@bad("G16", REWOUND)
def a_node_that_is_behind_clamps_a_cursor() -> Story:
    return Kept().commit(5).seen(3).drain()


@bad("G16", REWOUND)
def a_cursor_nobody_committed() -> Story:
    return Kept().seen(7).drain()


@bad("G16", REWOUND)
def a_commit_goes_back_without_a_loss() -> Story:
    return Kept().commit(3).commit(2).drain()


@bad("G16", REWOUND)
def a_commit_ends_up_above_what_anybody_asked_for() -> Story:
    return Kept().commit(1).commit(2, told=(4, 1)).drain()


@bad("G16", REWOUND)
def a_reader_is_sent_back_and_the_log_has_what_it_read() -> Story:
    return _drained(_stored(3).commit(3).commit(1, is_diverged=True), 3)


@bad("G16", REWOUND)
def a_commit_over_a_loss_takes_a_cursor_below_it() -> Story:
    return Kept().commit(5).commit(3, outcome="unknown", is_diverged=True).seen(2).drain()


@bad("G16", DIVERGED)
def a_cursor_past_a_loss_is_told_as_good() -> Story:
    story = _lossy().commit(2)
    story.restart().drain((0, 1, ["a"]))
    return story.seen(2, status="ok")


@bad("G16", DIVERGED)
def a_good_cursor_is_told_as_diverged() -> Story:
    return _drained(_stored(3).commit(3), 3).seen(3, status="diverged")


@bad("G16", DIVERGED)
def a_cursor_of_another_history_is_told_as_good() -> Story:
    story = _unknown_sends("a", "b").commit(2)
    story.restart().drain((0, 2, ["a", "b"]))
    return story.seen(2, status="ok")


def _unknown_sends(*sends: str) -> Kept:
    story = Kept("none")
    for name in sends:
        story.invoke(name).end(name, "unknown")
    return story


# ---- G15: names --------------------------------------------------------------------------------------------------


@good
def the_process_that_was_given_the_name_last_sends() -> Story:
    story = Kept().claim("p1", 1).begin("p1", "a").acked("p1", "a", 0).claim("p2", 2, last=0).begin("p2", "b")
    return story.acked("p2", "b", 1).drain((0, 1, ["a", "b"]))


@good
def what_was_on_its_way_when_another_was_given_the_name_may_be_acknowledged() -> Story:
    story = Kept().claim("p1", 1).begin("p1", "a").claim("p2", 2).acked("p1", "a", 0)
    return story.drain((0, 1, ["a"]))


@good
def an_earlier_process_is_told_of_what_it_had_stored() -> Story:
    story = Kept().claim("p1", 1).begin("p1", "a").acked("p1", "a", 0).claim("p2", 2, last=0)
    story.begin("p1", "a", 2)
    return story.acked("p1", "a", 0, 2, duplicate=True).drain((0, 1, ["a"]))


@good
def another_name_is_another_matter() -> Story:
    story = Kept().claim("p1", 1).claim("p2", 2, "m").begin("p1", "a").acked("p1", "a", 0)
    return story.drain((0, 1, ["a"]))


@good
def a_memory_keeps_no_name() -> Story:
    story = Kept("none", append="memory", reach="memory").claim("p1", 1)
    story.restart("process-kill")
    return story.claim("p2", 1).drain()


@bad("G15", TWO)
def an_earlier_process_of_a_name_is_still_served() -> Story:
    story = Kept().claim("p1", 1).claim("p2", 2).begin("p1", "a").acked("p1", "a", 0)
    return story.drain((0, 1, ["a"]))


@bad("G15", TWO)
def an_epoch_of_a_name_is_given_twice() -> Story:
    return Kept().claim("p1", 1).claim("p2", 1).drain()


@bad("G15", TWO)
def an_epoch_of_a_name_goes_back() -> Story:
    return Kept().claim("p1", 1).claim("p2", 2).claim("p3", 1).drain()


@good
def of_two_that_asked_side_by_side_the_lower_epoch_may_be_told_last() -> Story:
    return Kept().claim("p1", 1).claim("p3", 3).claim("p2", 2, since=1).drain()


@bad("G15", TWO)
def a_lower_epoch_is_given_to_one_that_asked_after_a_higher_was() -> Story:
    return Kept().claim("p1", 1).claim("p3", 3).claim("p2", 2).drain()


def _named(*sends: str) -> Kept:
    """The process ``p1`` of the name stores them, one after the other."""
    story = Kept().claim("p1", 1)
    for offset, send in enumerate(sends):
        story.begin("p1", send).acked("p1", send, offset)
    return story


@good
def what_is_on_its_way_need_not_be_told() -> Story:
    story = _named("a").begin("p1", "b").claim("p2", 2, last=0)
    return story.acked("p1", "b", 1).drain((0, 1, ["a", "b"]))


@good
def what_was_acknowledged_after_it_was_asked_need_not_be_told() -> Story:
    story = _named("a").begin("p1", "b").acked("p1", "b", 1).claim("p2", 2, last=0, since=1)
    return story.drain((0, 1, ["a", "b"]))


@good
def what_a_loss_took_is_not_told() -> Story:
    story = Kept("async(max_messages=8)").claim("p1", 1).begin("p1", "a").acked("p1", "a", 0, flushed=False)
    story.restart("power-cut")
    story.claim("p2", 2).begin("p2", "b").acked("p2", "b", 0)
    return story.drain((0, 2, ["b"]))


@good
def what_others_have_stored_behind_it_is_no_matter() -> Story:
    story = _named("a").begin("x", "b").acked("x", "b", 1).claim("p2", 2, last=0)
    return story.drain((0, 1, ["a", "b"]))


@good
def what_another_name_has_stored_is_told_to_that_one() -> Story:
    story = _named("a").claim("q1", 1, "m").begin("q1", "b").acked("q1", "b", 1).claim("q2", 2, "m", last=1)
    return story.claim("p2", 2, last=0).drain((0, 1, ["a", "b"]))


@bad("G15", AGAIN)
def a_process_is_told_that_nothing_is_stored() -> Story:
    return _named("a").claim("p2", 2).drain((0, 1, ["a"]))


@bad("G15", AGAIN)
def a_process_is_told_of_less_than_is_stored() -> Story:
    return _named("a", "b").claim("p2", 2, last=0).drain((0, 1, ["a", "b"]))


@bad("G15", AGAIN)
def a_process_is_told_of_a_message_of_nobody_with_a_name() -> Story:
    story = _named("a").begin("x", "b").acked("x", "b", 1).claim("p2", 2, last=1)
    return story.drain((0, 1, ["a", "b"]))


@bad("G15", AGAIN)
def a_process_is_told_of_a_message_of_another_name() -> Story:
    story = _named("a").claim("q1", 1, "m").begin("q1", "b").acked("q1", "b", 1).claim("p2", 2, last=1)
    return story.drain((0, 1, ["a", "b"]))
