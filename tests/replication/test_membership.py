"""Membership by rule: who joins, who leaves, what is waited for meanwhile (R2, R4, R6, R7, R8, R9, R16, R17)."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_of_membership import NODES, OWN, POLICIES, REIGN, MembershipPlay, random_set_steps

from mqcore.errors import CommandNotPossibleError, RemoteProtocolError
from mqcore.guarantees import Level
from mqcore.replication import CommitPolicy, Member, Membership, SetRecord
from mqcore.replication._progress import FollowerProgress

B, C, D = (Member(node, 1) for node in NODES[1:])
SECOND = 1_000_000
TIMEOUT_US, HOLD_US = 10 * SECOND, SECOND // 2
SYNC, MEMORY, THROTTLE, REPORT, STABLE = POLICIES


def set_of(*members: Member) -> frozenset[Member]:
    return frozenset(members)


class Reign:
    """A machine with A as primary, one log ``orders`` that began with 5 messages of which 3 were committed."""

    def __init__(
        self,
        *members: Member,
        copies_min: int = 2,
        policy: CommitPolicy = SYNC,
        is_manual: bool = False,
        silent_us: Mapping[bytes, int] = MappingProxyType({}),
        **record: Any,
    ) -> None:
        self.record = SetRecord(
            set_id=b"s" * 16,
            epoch=3,
            reign_id=REIGN,
            primary=OWN.node_id,
            members=[OWN, *members],
            names=dict(zip(NODES, "abcd", strict=True)),
            copies_min=copies_min,
            **record,
        )
        self.machine = Membership(
            OWN,
            self.record,
            0,
            replica_timeout_us=TIMEOUT_US,
            hold_us=HOLD_US,
            is_manual=is_manual,
            silent_us=silent_us,
        )
        self.machine.log_began("orders", policy, 5, 3, 0)
        self.machine.ready()

    def comes(self, *members: Member, now_us: int = 0) -> None:
        for member in members:
            self.machine.session_opened(member, bytes(16), now_us)

    def holds(self, member: Member, offset: int, level: Level = Level.DISK, now_us: int = 0) -> None:
        self.machine.reported(member, "orders", offset, level, now_us)

    def passes(self, until_us: int) -> None:
        """Time passes and this node looks as often as it is asked to."""
        now_us = self.machine._looked_us
        while now_us < until_us:
            now_us = min(until_us, self.machine.due_us(now_us))
            self.machine.advance(now_us)

    def wanted(self, now_us: int = 0) -> frozenset[Member] | None:
        wanted = self.machine.wanted(now_us)
        return None if wanted is None else wanted.record.members


def test_r6_a_node_joins_when_it_holds_what_is_committed_and_what_the_reign_began_with() -> None:
    reign = Reign(B)
    reign.comes(C)
    for offset in (3, 4):
        reign.holds(C, offset)
        assert reign.wanted() is None
    reign.holds(C, 5)
    assert reign.wanted() == set_of(OWN, B, C)
    assert reign.machine.wanted(0).reason == "c joins: it holds what is committed (R6)"  # type: ignore[union-attr]


def test_r6_what_is_committed_since_counts_too() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5)
    reign.machine.appended("orders", 6, 0)
    assert reign.wanted() == set_of(OWN, B, C), "what is not committed may be missing"
    reign.machine.committed("orders", 6)
    assert reign.wanted() is None


def test_r6_nobody_joins_while_the_primary_cannot_open_a_log_nor_by_a_change_that_is_on_its_way() -> None:
    """What such a log holds is not known, and a node that lacks it would be a member that may reign next."""
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5)
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    reign.machine.unopened_changed(1)
    assert reign.wanted() is None
    with pytest.raises(CommandNotPossibleError, match="c cannot join"):
        reign.machine.change_sent(wanted.record)
    reign.machine.unopened_changed(0)
    assert reign.wanted() == set_of(OWN, B, C)


def test_r6_every_log_counts_at_the_level_that_its_topic_needs() -> None:
    reign = Reign(B)
    reign.machine.log_began("billing", MEMORY, 2, 2, 0)
    reign.comes(C)
    reign.holds(C, 5, Level.PAGE_CACHE)
    reign.machine.reported(C, "billing", 2, Level.PAGE_CACHE, 0)
    assert reign.wanted() is None
    reign.holds(C, 5, Level.DISK)
    assert reign.wanted() == set_of(OWN, B, C)


def test_r6_what_was_acknowledged_under_a_stronger_policy_is_asked_for_after_it_was_lowered() -> None:
    reign = Reign(B, policy=REPORT)
    reign.comes(C)
    reign.holds(C, 4, Level.MEMORY)
    assert reign.wanted() is None, "what the reign began with may have been acknowledged as synchronous"
    reign.machine.policy_changed("orders", SYNC, 0)
    reign.machine.appended("orders", 7, 0)
    reign.machine.committed("orders", 7)
    reign.machine.policy_changed("orders", REPORT, 0)
    reign.holds(C, 6, Level.MEMORY)
    assert reign.wanted() is None
    reign.holds(C, 7, Level.MEMORY)
    assert reign.wanted() == set_of(OWN, B, C)


def test_r6_nothing_is_wanted_before_every_log_is_known() -> None:
    reign = Reign(B)
    reign.machine = Membership(OWN, reign.record, 0, replica_timeout_us=TIMEOUT_US, hold_us=HOLD_US)
    reign.comes(C)
    assert reign.wanted() is None
    reign.machine.ready()
    assert reign.wanted() == set_of(OWN, B, C)


def test_r6_a_change_is_not_sent_when_its_node_fell_behind_meanwhile() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5)
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    reign.machine.appended("orders", 6, 0)
    reign.machine.committed("orders", 6)
    with pytest.raises(CommandNotPossibleError, match="R6: c cannot join"):
        reign.machine.change_sent(wanted.record)
    assert reign.machine.pending is None


def test_r7_both_sets_are_waited_for_until_the_outcome_is_known() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5)
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    reign.machine.change_sent(wanted.record)
    assert (reign.machine.members, reign.machine.pending) == (set_of(OWN, B), set_of(OWN, B, C))
    assert reign.wanted(9 * TIMEOUT_US) is None, "one change at a time"
    reign.machine.settled(wanted.record, 0)
    assert (reign.machine.members, reign.machine.pending) == (set_of(OWN, B, C), None)


def test_r7_a_change_that_was_not_applied_leaves_the_set_as_it_is() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5)
    reign.machine.change_sent(reign.machine.wanted(0).record)  # type: ignore[union-attr]
    reign.machine.settled(reign.record, 0)
    assert (reign.machine.members, reign.machine.pending) == (set_of(OWN, B), None)
    assert reign.wanted() == set_of(OWN, B, C)


def test_r7_another_reign_in_the_record_ends_this_one_and_lets_nothing_go() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5)
    reign.machine.change_sent(reign.machine.wanted(0).record)  # type: ignore[union-attr]
    for taken in ({"epoch": 4}, {"reign_id": b"o" * 16}):
        reign.machine.settled(attrs.evolve(reign.record, **taken), 0)
        assert reign.machine.is_over
        assert reign.machine.pending == set_of(OWN, B, C)
        assert reign.wanted(9 * TIMEOUT_US) is None


def test_r7_a_member_leaves_when_it_is_silent_for_long_and_something_waits() -> None:
    reign = Reign(B, C)
    reign.comes(B, C)
    reign.holds(B, 5)
    reign.holds(C, 5)
    reign.machine.session_ended(C, bytes(16), 0)
    reign.passes(3 * TIMEOUT_US)
    assert reign.wanted(3 * TIMEOUT_US) is None, "an idle set stays as it is"
    reign.machine.appended("orders", 6, 3 * TIMEOUT_US)
    reign.holds(B, 6, now_us=3 * TIMEOUT_US)
    assert reign.wanted(3 * TIMEOUT_US) == set_of(OWN, B)
    assert "c leaves: no session for 30000 ms" in reign.machine.wanted(3 * TIMEOUT_US).reason  # type: ignore[union-attr]


def test_r7_a_member_that_was_silent_before_the_reign_began_is_waited_for_so_much_shorter() -> None:
    """The last primary: its silence is why another one reigns."""
    reign = Reign(B, C, silent_us={C.node_id: TIMEOUT_US - SECOND})
    reign.comes(B)
    reign.holds(B, 5)
    reign.passes(SECOND - 1)
    assert reign.wanted(SECOND - 1) is None
    reign.passes(SECOND)
    assert reign.wanted(SECOND) == set_of(OWN, B)
    assert reign.machine.due_us(0) <= SECOND


def test_r7_a_member_that_was_silent_before_the_reign_began_and_is_here_now_is_one_like_all() -> None:
    reign = Reign(B, C, silent_us={C.node_id: 9 * TIMEOUT_US})
    reign.comes(B, C)
    reign.holds(B, 5)
    assert reign.wanted(SECOND) is None
    reign.passes(TIMEOUT_US)
    assert reign.wanted(TIMEOUT_US) == set_of(OWN, B), "it is behind"


def test_r7_a_member_that_is_here_and_behind_for_long_leaves() -> None:
    reign = Reign(B, C)
    reign.comes(B, C)
    reign.holds(B, 5)
    reign.holds(C, 4)
    reign.passes(TIMEOUT_US - 1)
    assert reign.wanted(TIMEOUT_US - 1) is None
    reign.passes(TIMEOUT_US)
    assert reign.wanted(TIMEOUT_US) == set_of(OWN, B)


def test_r7_a_member_that_is_a_batch_behind_at_every_moment_is_not_late() -> None:
    reign = Reign(B, C)
    reign.comes(B, C)
    for second in range(100):
        reign.passes(second * SECOND)
        reign.machine.appended("orders", 6 + second, second * SECOND)
        reign.holds(B, 6 + second, now_us=second * SECOND)
        reign.holds(C, 5 + second, now_us=second * SECOND)
    assert reign.wanted(100 * SECOND) is None
    facts = {each.name: each for each in reign.machine.facts()}
    assert (facts["c"].logs_behind, facts["b"].logs_behind) == (1, 0)


def test_r7_a_primary_that_was_stopped_itself_removes_nobody_for_it() -> None:
    reign = Reign(B, C)
    reign.comes(B, C)
    reign.machine.advance(5 * TIMEOUT_US)
    assert reign.wanted(5 * TIMEOUT_US) is None
    reign.passes(6 * TIMEOUT_US)
    assert reign.wanted(6 * TIMEOUT_US) is not None


def test_r7_a_node_that_has_just_joined_is_not_late_for_what_it_lacked_before() -> None:
    reign = Reign(B, C)
    reign.comes(B, C, D)
    reign.machine.appended("orders", 9, 0)
    reign.passes(TIMEOUT_US + 1)
    reign.holds(D, 5)
    reign.holds(C, 9)
    reign.holds(B, 9)
    wanted = reign.machine.wanted(TIMEOUT_US + 1)
    assert wanted is not None
    assert wanted.record.members == set_of(OWN, B, C, D)
    reign.machine.change_sent(wanted.record)
    reign.machine.settled(wanted.record, TIMEOUT_US + 1)
    assert reign.wanted(TIMEOUT_US + 1) is None


def test_r8_the_set_does_not_fall_below_its_floor() -> None:
    reign = Reign(B, copies_min=2)
    reign.passes(9 * TIMEOUT_US)
    assert reign.wanted(9 * TIMEOUT_US) is None
    reign.machine.copies_min_changed(1)
    assert reign.wanted(9 * TIMEOUT_US) == set_of(OWN)


def test_r8_a_member_is_replaced_at_the_floor() -> None:
    reign = Reign(B, copies_min=2)
    reign.passes(TIMEOUT_US)
    reign.comes(C, now_us=TIMEOUT_US)
    reign.holds(C, 5, now_us=TIMEOUT_US)
    assert reign.wanted(TIMEOUT_US) == set_of(OWN, C)


def test_r8_of_two_late_members_the_later_one_leaves_first() -> None:
    reign = Reign(B, C, copies_min=2)
    reign.comes(B, C)
    reign.holds(B, 5)
    reign.passes(SECOND)
    reign.machine.appended("orders", 6, SECOND)
    reign.passes(2 * TIMEOUT_US)
    assert reign.wanted(2 * TIMEOUT_US) == set_of(OWN, B)


def test_r17_a_cap_lets_the_set_shrink_to_it() -> None:
    reign = Reign(B, copies_min=2, copies_cap=1)
    reign.passes(TIMEOUT_US)
    assert reign.wanted(TIMEOUT_US) == set_of(OWN)


def test_r8_the_floor_in_the_record_follows_the_topics() -> None:
    reign = Reign(B, copies_min=2)
    reign.machine.copies_min_changed(3)
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    assert (wanted.record.copies_min, wanted.record.members) == (3, set_of(OWN, B))


def test_r2_a_node_under_a_new_incarnation_takes_the_place_of_its_old_pair() -> None:
    reign = Reign(B)
    reign.comes(B)
    reign.holds(B, 5)
    returned = B._replace(incarnation=2)
    reign.comes(returned)
    assert reign.wanted() is None
    reign.holds(B, 5)
    assert reign.wanted() is None, "what the old incarnation reports counts for nothing"
    reign.holds(returned, 5)
    assert reign.wanted() == set_of(OWN, returned)


def test_r4_a_session_that_was_replaced_says_nothing_when_it_ends() -> None:
    reign = Reign(B, C)
    reign.comes(B, C)
    reign.machine.session_opened(C, b"2" * 16, 0)
    reign.machine.session_ended(C, bytes(16), 0)
    assert [each.gone_since_us for each in reign.machine.facts()] == [None, None]
    reign.machine.session_ended(C, b"2" * 16, 7)
    assert [each.gone_since_us for each in reign.machine.facts()] == [None, 7]


@pytest.mark.parametrize("member", [OWN, OWN._replace(incarnation=2), C._replace(incarnation=0), Member(b"E" * 16, 1)])
def test_r4_a_session_that_cannot_be_is_refused(member: Member) -> None:
    reign = Reign(B, C)
    with pytest.raises(RemoteProtocolError):
        reign.comes(member)


def test_r9_a_throttled_log_may_lag_as_far_as_its_policy_says() -> None:
    reign = Reign(B, policy=THROTTLE)
    reign.comes(C)
    reign.holds(C, 5, Level.MEMORY)
    reign.machine.appended("orders", 6, SECOND)
    assert reign.wanted(SECOND + 6_000) == set_of(OWN, B, C)
    assert reign.wanted(SECOND + 6_001) is None
    reign.machine.appended("orders", 7, SECOND + 7_000)
    reign.holds(C, 6, Level.MEMORY, SECOND + 7_000)
    assert reign.wanted(SECOND + 7_000) == set_of(OWN, B, C)


def test_r9_a_log_that_only_reports_its_lag_keeps_nobody_out_and_removes_nobody() -> None:
    reign = Reign(B, policy=REPORT)
    reign.comes(B, C)
    reign.holds(C, 5, Level.MEMORY)
    reign.machine.appended("orders", 99, 0)
    reign.machine.committed("orders", 99)
    assert reign.wanted() == set_of(OWN, B, C)
    reign.passes(3 * TIMEOUT_US)
    assert reign.wanted(3 * TIMEOUT_US) == set_of(OWN, B, C)


def test_g08_what_only_stable_reads_show_is_held_by_whoever_joins() -> None:
    reign = Reign(B, policy=STABLE)
    reign.comes(C)
    reign.holds(C, 5, Level.MEMORY)
    reign.machine.appended("orders", 6, 0)
    reign.machine.committed("orders", 6)
    assert reign.wanted() is None


def test_g13_a_node_that_keeps_up_with_a_busy_log_is_waited_for_and_joins() -> None:
    reign = Reign(B)
    reign.comes(C)
    for step in range(20):
        now_us = step * SECOND // 10
        reign.passes(now_us)
        reign.machine.appended("orders", 6 + step, now_us)
        reign.machine.committed("orders", 6 + step)
        if reign.machine.pending is not None:
            break
        reign.holds(C, 5 + step, now_us=now_us)
        assert reign.wanted(now_us) is None
    assert (reign.machine.members, reign.machine.pending) == (set_of(OWN, B), set_of(OWN, B, C))
    reign.holds(C, 6 + step, now_us=now_us)
    assert reign.wanted(now_us) == set_of(OWN, B, C)


def test_g13_acknowledgements_do_not_wait_again_and_again_for_a_node_that_never_joins() -> None:
    reign = Reign(B)
    reign.comes(C)
    held_up, step_us = 0, SECOND // 10
    for step in range(600):
        now_us = step * step_us
        reign.passes(now_us)
        reign.machine.appended("orders", 6 + step, now_us)
        reign.machine.committed("orders", 6 + step)
        reign.holds(C, 5 + step, now_us=now_us)
        held_up += reign.machine.pending is not None
    assert held_up * step_us <= 600 * step_us // 10, "of a minute a small part"
    assert held_up, "and yet it is tried again"


def test_g13_a_node_that_does_not_keep_up_is_not_waited_for_and_one_that_stops_not_for_long() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.machine.appended("orders", 6, 0)
    reign.machine.committed("orders", 6)
    reign.passes(3 * SECOND)
    assert reign.machine.pending is None, "it has shown nothing yet"
    reign.holds(C, 6, now_us=3 * SECOND)
    reign.machine.appended("orders", 7, 3 * SECOND)
    reign.machine.committed("orders", 7)
    reign.machine.advance(3 * SECOND)
    assert reign.machine.pending == set_of(OWN, B, C)
    reign.passes(3 * SECOND + HOLD_US)
    assert reign.machine.pending is None


def test_r16_the_configured_set_never_shrinks_by_itself_and_readmits_by_the_same_rule() -> None:
    reign = Reign(B, C, copies_min=1, is_manual=True)
    reign.passes(9 * TIMEOUT_US)
    assert reign.wanted(9 * TIMEOUT_US) is None
    returned = B._replace(incarnation=2)
    reign.comes(returned, now_us=9 * TIMEOUT_US)
    reign.holds(returned, 5)
    assert reign.wanted(9 * TIMEOUT_US) == set_of(OWN, returned, C)


def test_r16_a_node_is_added_by_order_and_joins_by_r6() -> None:
    reign = Reign(B)
    added = Member(b"E" * 16, 1)
    for node_id, name in ((D.node_id, "e"), (added.node_id, "a")):
        with pytest.raises(CommandNotPossibleError, match="in the set already"):
            reign.machine.node_added(node_id, name)
    reign.machine.node_added(added.node_id, "e")
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    assert wanted.record == attrs.evolve(reign.record, names={**reign.record.names, added.node_id: "e"})
    reign.comes(added)
    reign.holds(added, 5)
    assert reign.wanted() == set_of(OWN, B, added)


def test_r16_a_node_that_came_back_empty_takes_the_place_of_its_old_id_when_it_has_joined() -> None:
    reign = Reign(B, copies_min=2)
    emptied = Member(b"E" * 16, 1)
    reign.comes(B)
    with pytest.raises(CommandNotPossibleError, match="two nodes cannot have one name"):
        reign.machine.node_added(emptied.node_id, "b")
    reign.machine.session_ended(B, bytes(16), 0)
    reign.machine.node_added(emptied.node_id, "b")
    assert reign.wanted() is None, "below the floor nobody leaves"
    reign.comes(emptied)
    assert [each.name for each in reign.machine.facts()] == ["b", "b"]
    reign.holds(emptied, 5)
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    assert wanted.record.members == set_of(OWN, emptied)
    assert wanted.record.names == {OWN.node_id: "a", emptied.node_id: "b", C.node_id: "c", D.node_id: "d"}


@pytest.mark.parametrize("is_manual", [False, True])
def test_r16_a_node_is_removed_by_order_as_far_as_the_floor_allows(is_manual: bool) -> None:
    reign = Reign(B, C, copies_min=2, is_manual=is_manual)
    with pytest.raises(CommandNotPossibleError, match="is not in the set"):
        reign.machine.node_removed(b"E" * 16)
    with pytest.raises(CommandNotPossibleError, match="R7"):
        reign.machine.node_removed(OWN.node_id)
    reign.machine.node_removed(C.node_id)
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    assert (wanted.record.members, wanted.reason) == (set_of(OWN, B), "c leaves: the operator has removed it")
    assert C.node_id not in wanted.record.names
    reign.machine.change_sent(wanted.record)
    reign.machine.settled(wanted.record, 0)
    assert [each.name for each in reign.machine.facts()] == ["b"]
    with pytest.raises(CommandNotPossibleError, match="R8"):
        reign.machine.node_removed(B.node_id)


@pytest.mark.parametrize("is_manual", [False, True])
def test_r16_a_node_that_was_removed_and_added_while_it_followed_joins_by_what_it_holds(is_manual: bool) -> None:
    """Its stream goes on: a stream of its own would never begin, and an operator would wait for ever."""
    reign = Reign(B, C, copies_min=2, is_manual=is_manual)
    reign.comes(B, C)
    reign.holds(C, 3)
    reign.machine.node_removed(C.node_id)
    without = reign.machine.wanted(0)
    assert without is not None
    reign.machine.change_sent(without.record)
    reign.machine.settled(without.record, 0)
    assert [each.name for each in reign.machine.facts()] == ["b"]
    reign.machine.log_began("bills", SYNC, 2, 2, 0)
    reign.holds(C, 5)
    assert reign.wanted() is None, "nobody has added it"
    reign.machine.node_added(C.node_id, "c")
    wanted = reign.machine.wanted(0)
    assert wanted is not None
    assert wanted.record.members == set_of(OWN, B), "of a log that began meanwhile it has reported nothing"
    reign.machine.reported(C, "bills", 2, Level.DISK, 0)
    assert reign.wanted() == set_of(OWN, B, C)


def test_r16_a_node_that_was_removed_is_not_heard_of_once_it_is_gone() -> None:
    reign = Reign(B, C, copies_min=2)
    reign.comes(B, C)
    reign.machine.node_removed(C.node_id)
    without = reign.machine.wanted(0)
    assert without is not None
    reign.machine.change_sent(without.record)
    reign.machine.settled(without.record, 0)
    reign.machine.session_ended(C, bytes(16), 0)
    with pytest.raises(RemoteProtocolError, match="is not in the set: `mqcore replica add NODE"):
        reign.comes(C)
    reign.machine.node_added(C.node_id, "c")
    assert [each.name for each in reign.machine.facts()] == ["b"]
    reign.comes(C)
    assert [each.name for each in reign.machine.facts()] == ["b", "c"]


def test_a_fallen_level_is_a_lack_again() -> None:
    reign = Reign(B)
    reign.comes(C)
    reign.holds(C, 5, Level.MIRROR)
    reign.machine.level_fell(C, Level.PAGE_CACHE, 0)
    assert reign.wanted() is None
    reign.holds(C, 5, Level.DISK)
    assert reign.wanted() == set_of(OWN, B, C)


def test_logs_that_all_tell_of_the_same_fall_are_counted_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reign, begun, begin = Reign(B), [], FollowerProgress.begin
    for number in range(1_000):
        reign.machine.log_began(number, SYNC, 1, 1, 0)
    reign.comes(C)
    for number in range(1_000):
        reign.machine.reported(C, number, 1, Level.MIRROR, 0)

    def count(follower: FollowerProgress, key: Any, log: Any, now_us: int) -> None:
        begun.append(key)
        begin(follower, key, log, now_us)

    monkeypatch.setattr(FollowerProgress, "begin", count)
    for _ in range(1_000):
        reign.machine.level_fell(C, Level.DISK, 0)
    assert len(begun) == 1_001, "each log once"


def test_a_log_that_is_no_more_keeps_nobody_out() -> None:
    reign = Reign(B)
    reign.comes(C)
    assert reign.wanted() is None
    reign.machine.log_ended("orders")
    assert reign.wanted() == set_of(OWN, B, C)


def test_a_node_that_does_not_reign_decides_nothing() -> None:
    record = Reign(B).record
    for own in (B, OWN._replace(incarnation=2)):
        with pytest.raises(ValueError, match="does not reign"):
            Membership(own, record, 0, replica_timeout_us=TIMEOUT_US, hold_us=HOLD_US)


def test_a_report_costs_the_same_however_many_logs_there_are() -> None:
    """Compared as a ratio, with room: a scan of the logs would be a hundred times slower."""

    def seconds(logs: int) -> float:
        reign = Reign(B, C)
        for number in range(logs):
            reign.machine.log_began(number, SYNC, 5, 5, 0)
        reign.comes(B, C, D)
        best = 1.0
        for attempt in range(5):
            began = time.perf_counter()
            for offset in range(200):
                end = 6 + attempt * 200 + offset
                reign.machine.appended("orders", end, 0)
                for member in (B, C, D):
                    reign.holds(member, end)
                reign.machine.committed("orders", end)
                reign.machine.wanted(0)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(10_000) < 10 * seconds(10)


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 1 << 32), copies_min=st.integers(1, 3), is_manual=st.booleans())
def test_r6_r7_r8_every_member_holds_what_is_committed_and_every_change_has_its_reason(
    seed: int, copies_min: int, is_manual: bool
) -> None:
    rng = random.Random(seed)
    play = MembershipPlay.begin(
        [rng.randrange(len(POLICIES)) for _ in range(3)], copies_min=copies_min, is_manual=is_manual
    )
    for word, numbers in random_set_steps(rng, 80):
        play.step(word, *numbers)
