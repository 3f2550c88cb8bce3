"""The commit rule against a model written from guarantees.md: random sequences, every interleaving of small ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_of_commit import OWN, POLICIES, STEPS, Play, random_steps
from search_of_commit import Event, retry_comes, search, time_passes

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import AsyncFlush, AsyncReplication, Copy, Level, NoFlush, SyncFlush, SyncReplication
from mqcore.protocol import SendPolicy
from mqcore.replication import CommitPolicy, CommitRule, LogEnd, Member, UnflushedTotal

A, B, C = OWN, Member(b"B" * 16, 1), Member(b"C" * 16, 1)
TWO_ON_DISK = CommitPolicy(flush=SyncFlush(), replication=SyncReplication(copies=2, level=Level.DISK))


def rule_of(policy: CommitPolicy, *, end: int = 0, durable: int = 0) -> CommitRule[str]:
    """A commit rule over a log of ``end`` messages of ten bytes, each a batch; replies are texts."""
    rule: CommitRule[str] = CommitRule(
        A,
        policy,
        append_level=Level.PAGE_CACHE,
        flush_level=Level.DISK,
        total=UnflushedTotal(),
        end=LogEnd(end, 10 * end),
        durable=LogEnd(durable, 10 * durable),
        committed_offset=0,
    )
    rule.advance(0)
    return rule


def batch(end: int, reply: str, send: SendPolicy = SendPolicy.TOPIC) -> tuple[int, int, int, str]:
    return end, 10 * end, send, reply


def test_g14_a_synchronous_reply_names_every_member_with_the_level_that_it_has() -> None:
    rule = rule_of(TWO_ON_DISK)
    rule.set_changed([A, B], None, 0)
    assert rule.appended([batch(1, "first")], 0) == ()
    assert rule.flushed(1, 10, Level.DISK, 0) == []
    assert rule.held(B, 1, 10, Level.PAGE_CACHE, 0) == []
    assert rule.held(B, 1, 10, Level.MIRROR, 0) == [("first", (Copy(*A, Level.DISK), Copy(*B, Level.MIRROR)))]
    assert rule.committed_offset == 1


def test_g14_batches_that_go_together_each_name_the_level_that_they_have() -> None:
    rule = rule_of(CommitPolicy(flush=NoFlush(), replication=SyncReplication(copies=3, level=Level.MEMORY)))
    rule.set_changed([A, B, C], None, 0)
    rule.appended([batch(end, str(end)) for end in range(1, 7)], 0)
    rule.held(B, 6, 60, Level.MEMORY, 0)
    rule.held(B, 4, 40, Level.PAGE_CACHE, 0, (2, 20, Level.DISK))
    released = rule.held(C, 6, 60, Level.PAGE_CACHE, 0, (3, 30, Level.MIRROR))
    levels = [(reply, *(copy.level.label for copy in copies[1:])) for reply, copies in released]
    assert levels == [
        ("1", "disk", "mirror"),
        ("2", "disk", "mirror"),
        ("3", "page-cache", "mirror"),
        ("4", "page-cache", "page-cache"),
        ("5", "memory", "page-cache"),
        ("6", "memory", "page-cache"),
    ]


def test_g14_a_copy_counts_at_the_level_that_its_device_has_now() -> None:
    rule = rule_of(CommitPolicy(flush=NoFlush(), replication=SyncReplication(copies=2, level=Level.MIRROR)))
    rule.set_changed([A, B], None, 0)
    rule.appended([batch(1, "first")], 0)
    rule.held(B, 1, 10, Level.MIRROR, 0)
    rule.level_fell(B, Level.DISK)
    assert rule.flushed(1, 10, Level.MIRROR, 0) == []
    assert [reply for reply, _ in rule.held(B, 1, 10, Level.MIRROR, 0)] == ["first"]


def test_r7_a_member_counts_until_the_answer_to_its_removal_has_come() -> None:
    rule = rule_of(TWO_ON_DISK)
    rule.set_changed([A, B, C], None, 0)
    rule.appended([batch(1, "first")], 0)
    rule.flushed(1, 10, Level.DISK, 0)
    rule.held(B, 1, 10, Level.DISK, 0)
    assert rule.set_changed([A, B, C], [A, B], 0) == []
    assert [reply for reply, _ in rule.set_changed([A, B], None, 0)] == ["first"]


def test_r8_a_set_that_is_too_small_acknowledges_nothing_and_says_what_to_do_with_sends() -> None:
    rejecting = SyncReplication(copies=2, level=Level.DISK, on_missing="reject")
    throttling = AsyncReplication(on_exceeded="throttle", on_missing="reject")
    for replication, expected in (
        (rejecting, "reject"),
        (AsyncReplication(on_exceeded="throttle"), "block"),
        (throttling, "reject"),
    ):
        rule = rule_of(CommitPolicy(flush=SyncFlush(), replication=replication))
        assert rule.missing == expected
        rule.appended([batch(1, "first")], 0)
        assert rule.flushed(1, 10, Level.DISK, 0) == []
        rule.held(B, 1, 10, Level.DISK, 0)
        assert [reply for reply, _ in rule.set_changed([A, B], None, 0)] == ["first"]
        assert rule.missing is None
    assert rule_of(CommitPolicy(flush=SyncFlush())).missing is None


def test_g03_what_an_earlier_reign_left_unflushed_counts_in_the_total_until_a_flush_covers_it() -> None:
    total = UnflushedTotal(100)
    inherited, other = (
        CommitRule[str](
            A,
            CommitPolicy(flush=AsyncFlush(max_bytes=1_000)),
            append_level=Level.PAGE_CACHE,
            flush_level=Level.DISK,
            total=total,
            end=LogEnd(end, 10 * end),
            durable=LogEnd(0, 0),
            committed_offset=0,
        )
        for end in (9, 0)
    )
    assert total.bytes_now == 90
    assert [reply for reply, _ in other.appended([batch(1, "fits"), batch(2, "waits")], 0)] == ["fits"]
    inherited.flushed(9, 90, Level.DISK, 0)
    assert total.bytes_now == 10
    assert [reply for reply, _ in other.advance(0)] == ["waits"]


def test_r4_one_node_counts_once_however_often_it_reports() -> None:
    rule = rule_of(CommitPolicy(flush=SyncFlush(), replication=SyncReplication(copies=3, level=Level.DISK)))
    returned = B._replace(incarnation=2)
    rule.set_changed([A, B, returned], None, 0)
    rule.appended([batch(1, "first")], 0)
    rule.flushed(1, 10, Level.DISK, 0)
    for member in (B, returned):
        assert rule.held(member, 1, 10, Level.DISK, 0) == []
    assert rule.missing == "block"


@pytest.mark.parametrize(
    ("member", "offset", "position"),
    [
        (Member(B.node_id, 2), 2, 10),
        (Member(B.node_id, 2), 1, 11),
        (Member(B.node_id, 2), 0, 0),
        (Member(B.node_id, 1), 1, 10),
        (A, 1, 10),
    ],
)
def test_r4_a_report_that_cannot_be_true_is_refused(member: Member, offset: int, position: int) -> None:
    rule = rule_of(TWO_ON_DISK, end=1, durable=1)
    rule.held(Member(B.node_id, 2), 1, 10, Level.DISK, 0)
    with pytest.raises(RemoteProtocolError):
        rule.held(member, offset, position, Level.DISK, 0)


def test_r10_a_new_reign_acknowledges_nothing_before_all_that_it_found_is_held() -> None:
    rule = rule_of(TWO_ON_DISK, end=3, durable=3)
    rule.set_changed([A, B], None, 0)
    rule.appended([batch(4, "first")], 0)
    rule.flushed(4, 40, Level.DISK, 0)
    rule.held(B, 2, 20, Level.DISK, 0)
    assert rule.committed_offset == 0
    rule.held(B, 3, 30, Level.DISK, 0)
    assert rule.committed_offset == 3
    assert [reply for reply, _ in rule.held(B, 4, 40, Level.DISK, 0)] == ["first"]


def test_r12_a_duplicate_waits_as_its_original_does() -> None:
    rule = rule_of(CommitPolicy(flush=SyncFlush()))
    rule.appended([batch(1, "first"), batch(2, "second")], 0)
    assert rule.duplicate(1, SendPolicy.TOPIC, "again", 0) == []
    released = rule.flushed(2, 20, Level.DISK, 0)
    assert [reply for reply, _ in released] == ["first", "again", "second"]
    assert [reply for reply, _ in rule.duplicate(1, SendPolicy.TOPIC, "once more", 0)] == ["once more"]


def test_g03_throttling_begins_when_the_oldest_that_a_replica_lacks_is_as_old_as_the_delay() -> None:
    rule = rule_of(CommitPolicy(flush=NoFlush(), replication=AsyncReplication(on_exceeded="throttle", max_delay_ms=10)))
    rule.set_changed([A, B], None, 0)
    assert len(rule.appended([batch(1, "first")], 0)) == 1
    assert len(rule.appended([batch(2, "second")], 9_999)) == 1
    assert rule.appended([batch(3, "third")], 10_000) == []
    assert rule.committed_offset == 2
    assert [reply for reply, _ in rule.held(B, 1, 10, Level.MEMORY, 10_000)] == ["third"]


def test_g08_stable_is_flushed_and_held_by_every_member() -> None:
    rule = rule_of(CommitPolicy(flush=AsyncFlush(max_messages=9), stable_only=True))
    rule.set_changed([A, B], None, 0)
    assert len(rule.appended([batch(1, "first")], 0)) == 1
    assert (rule.committed_offset, rule.wants_flush_now) == (0, True)
    rule.flushed(1, 10, Level.DISK, 0)
    assert rule.committed_offset == 0
    rule.held(B, 1, 10, Level.MEMORY, 0)
    assert rule.committed_offset == 1


def test_g11_a_log_that_stops_answers_everything_once_and_nothing_after_it() -> None:
    rule = rule_of(CommitPolicy(flush=SyncFlush(), weakest_send=AsyncFlush(max_messages=1)))
    rule.appended([batch(1, "one"), batch(3, "two", SendPolicy.ASYNC), batch(4, "three", SendPolicy.ASYNC)], 0)
    assert sorted(rule.stop()) == [("one", ()), ("three", ()), ("two", ())]
    assert rule.stop() == ()
    assert rule.appended([batch(5, "late")], 0) == [("late", ())]
    assert rule.duplicate(1, SendPolicy.TOPIC, "again", 0) == [("again", ())]
    assert rule.flushed(5, 50, Level.DISK, 0) == ()
    assert (rule.committed_offset, rule.wants_flush_now) == (0, False)


def test_a_topic_whose_bounds_go_answers_what_waited_in_them_after_a_flush() -> None:
    rule = rule_of(CommitPolicy(flush=AsyncFlush(max_messages=1)))
    assert [reply for reply, _ in rule.appended([batch(1, "in"), batch(3, "over")], 0)] == ["in"]
    assert rule.policy_changed(CommitPolicy(flush=NoFlush()), 0) == []
    assert rule.wants_flush_now
    assert [reply for reply, _ in rule.flushed(3, 30, Level.DISK, 0)] == ["over"]


SEQUENCES = st.lists(
    st.one_of(
        *(
            st.tuples(
                st.just(word),
                st.tuples(
                    *(
                        st.integers(1, each) if word == "append" and index < 2 else st.integers(0, each - 1)
                        for index, each in enumerate(ranges)
                    )
                ),
            )
            for word, ranges in STEPS
        )
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=400)
@given(
    number=st.integers(0, len(POLICIES) - 1),
    total=st.none() | st.integers(20, 100),
    began=st.booleans(),
    steps=SEQUENCES,
    stops=st.booleans(),
)
def test_g03_g08_g14_every_reply_and_every_commit_is_justified_and_none_is_lost(
    number: int, total: int | None, began: bool, steps: list[tuple[str, tuple[int, ...]]], stops: bool
) -> None:
    batches = [(2, 30), (3, 40)] if began else []
    play = Play.begin(POLICIES[number], total_bytes_max=total, batches=batches)
    for word, numbers in steps:
        play.step(word, *numbers)
    if stops:
        play.step("stop")
        play.step("append", 1, 1, 0, 1)
    play.finish()


@pytest.mark.parametrize("seed", range(8))
def test_long_runs_of_one_policy_agree_with_the_model(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(len(POLICIES)):
        play = Play.begin(POLICIES[number], total_bytes_max=rng.choice([None, 60]))
        play.step("set", 3, 9)
        for word, numbers in random_steps(rng, 60):
            if word != "policy":
                play.step(word, *numbers)
        play.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "event"),
    [(POLICIES[4], retry_comes), (POLICIES[20], time_passes)],
    ids=["sync-disk", "async-throttle"],
)
def test_every_interleaving_of_two_batches_on_three_nodes_agrees_with_the_model(
    policy: CommitPolicy, event: Event
) -> None:
    searched = search(policy, event)
    print(policy, searched)
    assert (searched.events, searched.interleavings) == (11, 1_247_400)
    assert searched.states < 30_000, "states are told apart by something that does not matter"


def test_g03_a_send_that_was_taken_within_bounds_waits_for_the_flush_when_they_go_before_its_append() -> None:
    rule = rule_of(CommitPolicy(flush=AsyncFlush(max_messages=4)))
    assert rule.refusal(SendPolicy.ASYNC) is None
    rule.policy_changed(CommitPolicy(flush=NoFlush()), 0)
    assert rule.appended([batch(1, "first", SendPolicy.ASYNC)], 0) == []
    assert rule.wants_flush_now
    assert [reply for reply, _ in rule.flushed(1, 10, Level.DISK, 0)] == ["first"]
