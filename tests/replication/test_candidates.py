"""Who may reign where a coordinator decides (R2, R9, R14; guarantees, section 5)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import RefusedError
from mqcore.replication import LogTip, Member, NodeState, SetRecord, check_arbiter, judge_candidacy

A, B, C = (Member(letter * 16, 1) for letter in (b"A", b"B", b"C"))
RECORD = SetRecord(
    set_id=b"s" * 16,
    epoch=4,
    reign_id=b"r" * 16,
    primary=A.node_id,
    members=[A, B],
    names={A.node_id: "a", B.node_id: "b", C.node_id: "c"},
    copies_min=2,
)


BEGUN = LogTip(4, 10)


def state(member: Member, *, seen: int = 4, metadata: LogTip = BEGUN, **tips: LogTip) -> NodeState:
    return NodeState(member=member, seen_epoch=seen, tips={"metadata": metadata, **tips})


def returned(member: Member) -> Member:
    return member._replace(incarnation=member.incarnation + 1)


def test_r2_a_member_in_its_present_incarnation_may_reign_and_nobody_else() -> None:
    assert judge_candidacy(RECORD, state(B), []).rank == 0
    for own in (C, returned(B)):
        refused = judge_candidacy(RECORD, state(own), [state(A)])
        assert (refused.rank, refused.unclean) == (None, False)
        assert "a may reign" in refused.reason


def test_r14_without_a_record_or_with_one_that_went_back_nobody_reigns() -> None:
    missing = judge_candidacy(None, state(B), [state(A)])
    assert missing.rank is None
    assert "cluster init" in missing.reason
    for own, other in ((state(B, seen=5), state(A)), (state(B), state(C, seen=5))):
        old = judge_candidacy(RECORD, own, [other])
        assert old.rank is None
        assert "went back" in old.reason


def test_r9_the_one_that_lacks_least_goes_first_and_every_node_orders_alike() -> None:
    ahead, behind = state(B, orders=LogTip(4, 90)), state(A, orders=LogTip(4, 80))
    assert judge_candidacy(RECORD, ahead, [behind]).rank == 0
    later = judge_candidacy(RECORD, behind, [ahead])
    assert (later.rank, later.fetch) == (1, {"orders": B.node_id})


def test_r9_a_longer_log_of_an_older_reign_is_the_one_that_lacks_more() -> None:
    old = state(A, metadata=LogTip(3, 10), orders=LogTip(3, 900))
    assert judge_candidacy(RECORD, state(B, orders=LogTip(4, 80)), [old]).rank == 0
    same_reign = state(A, orders=LogTip(3, 900))
    assert judge_candidacy(RECORD, state(B, orders=LogTip(4, 80)), [same_reign]).rank == 0


def test_r9_a_node_whose_last_reign_failed_comes_behind_all_others_and_they_fetch_what_it_has_more_of() -> None:
    failed, whole = attrs.evolve(state(A, orders=LogTip(4, 90)), has_failed=True), state(B, orders=LogTip(4, 80))
    assert (judged := judge_candidacy(RECORD, whole, [failed])).rank == 0
    assert judged.fetch == {"orders": A.node_id}
    assert judge_candidacy(RECORD, failed, [whole]).rank == 1
    assert judge_candidacy(RECORD, failed, []).rank == 0


def test_r9_a_node_that_is_not_in_sync_is_not_waited_for_however_much_it_has() -> None:
    stand = judge_candidacy(RECORD, state(B, orders=LogTip(4, 80)), [state(C, orders=LogTip(4, 90))])
    assert (stand.rank, stand.fetch) == (0, {})


def test_section_5_after_a_power_cut_of_all_nodes_the_set_waits_for_every_member() -> None:
    waiting = judge_candidacy(RECORD, state(returned(B)), [state(returned(C))])
    assert waiting.rank is None
    assert "waiting for a" in waiting.reason
    assert "--unclean" in waiting.reason


def test_section_5_then_one_takes_the_most_advanced_copy_of_each_log_and_reigns() -> None:
    first = state(returned(A), orders=LogTip(4, 80), bills=LogTip(4, 30))
    second = state(returned(B), orders=LogTip(4, 70), bills=LogTip(4, 31))
    stand = judge_candidacy(RECORD, second, [first])
    assert (stand.rank, stand.unclean, stand.fetch) == (1, True, {"orders": A.node_id})
    stand = judge_candidacy(RECORD, first, [second])
    assert (stand.rank, stand.unclean, stand.fetch) == (0, True, {"bills": B.node_id})


def test_section_5_a_member_that_kept_its_incarnation_ends_the_waiting() -> None:
    assert judge_candidacy(RECORD, state(returned(A)), [state(B)]).rank is None
    assert judge_candidacy(RECORD, state(B), [state(returned(A), orders=LogTip(4, 99))]).fetch == {}


@pytest.mark.parametrize(
    ("nodes", "has_coordinator", "text"),
    [(1, True, "a second node"), (2, False, "take the other for dead"), (3, False, "elect one of their own")],
)
def test_r1_automatic_failover_that_cannot_be_safe_is_refused_with_the_reason(
    nodes: int, has_coordinator: bool, text: str
) -> None:
    with pytest.raises(RefusedError, match=text):
        check_arbiter(nodes, has_coordinator=has_coordinator)


def test_r1_two_nodes_with_an_arbiter_fail_over() -> None:
    check_arbiter(2, has_coordinator=True)


TIPS = st.dictionaries(
    st.sampled_from(["metadata", "one", "two"]), st.builds(LogTip, st.integers(1, 4), st.integers(0, 9))
)


@given(
    members=st.sets(st.sampled_from([A, B, C]), min_size=1),
    raised=st.sets(st.sampled_from([A, B, C])),
    answer=st.sets(st.sampled_from([A, B, C]), min_size=1),
    tips=st.tuples(TIPS, TIPS, TIPS),
)
def test_g01_whoever_reigns_is_a_member_or_has_what_any_of_all_members_still_has(
    members: set[Member], raised: set[Member], answer: set[Member], tips: tuple[Any, Any, Any]
) -> None:
    record = attrs.evolve(RECORD, members=members, primary=min(members).node_id)
    states = {
        member: NodeState(member=returned(member) if member in raised else member, seen_epoch=4, tips=own_tips)
        for member, own_tips in zip((A, B, C), tips, strict=True)
        if member in answer
    }
    ranks = []
    for own in states.values():
        stand = judge_candidacy(record, own, [other for other in states.values() if other is not own])
        if stand.rank is None:
            continue
        ranks.append(stand.rank)
        assert stand.unclean == (own.member not in members)
        if stand.unclean:
            assert answer >= members, "a member that did not answer may have everything"
            assert members <= raised, "a member that lost nothing is the one to reign"
            for name in ("metadata", "one", "two"):
                best = max(other.tip_of(name) for other in states.values())
                source = stand.fetch.get(name, own.member.node_id)
                assert {other.member.node_id: other for other in states.values()}[source].tip_of(name) == best
    assert sorted(ranks) == list(range(len(ranks))), "no two go first"
    if members & answer - raised:
        assert ranks, "there is a member that may reign"
