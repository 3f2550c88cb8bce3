"""Promotion by hand: what is refused, what has to be confirmed, what it may lose (R14, R16)."""

from __future__ import annotations

import attrs
import pytest
from test_candidates import RECORD, A, B, C, returned, state

from mqcore.errors import CommandNotPossibleError
from mqcore.replication import LogTip, judge_promotion, newest_record, reason_to_wait


def test_r16_a_member_is_promoted_above_every_epoch_that_any_node_has_seen() -> None:
    promotion = judge_promotion(RECORD, B.node_id, [state(B), state(A), state(C, seen=9)])
    assert (promotion.epoch, promotion.stop, promotion.unclean, promotion.losses) == (10, (), False, ())
    assert promotion.record.promoted(B, epoch=10, reign_id=b"n" * 16).primary == B.node_id


def test_r16_a_primary_that_answers_is_ordered_to_stop_first() -> None:
    reigning = attrs.evolve(state(A), reigns=True)
    assert judge_promotion(RECORD, B.node_id, [state(B), reigning]).stop == (A.node_id,)
    with pytest.raises(CommandNotPossibleError, match="a reigns already"):
        judge_promotion(RECORD, A.node_id, [state(B), reigning])


def test_r16_a_primary_that_does_not_answer_has_to_be_stopped_by_the_operator() -> None:
    for unclean in (False, True):
        with pytest.raises(CommandNotPossibleError, match="--old-primary-is-stopped"):
            judge_promotion(RECORD, B.node_id, [state(B)], unclean=unclean)
    promotion = judge_promotion(RECORD, B.node_id, [state(B), state(C)], old_primary_is_stopped=True)
    assert promotion.losses == (
        "Not asked, for there is no answer: a. What is only there, without bound; of synchronous topics nothing, if "
        "the promoted node is in sync.",
    )


def test_r16_a_node_that_was_not_admitted_is_refused_and_told_which_are() -> None:
    with pytest.raises(CommandNotPossibleError, match=r"c was not admitted .* Promote one of a, b"):
        judge_promotion(RECORD, C.node_id, [state(A), state(B), state(C)])
    with pytest.raises(CommandNotPossibleError, match="under incarnation 1 and now has 2"):
        judge_promotion(RECORD, B.node_id, [state(A), state(returned(B))])


def test_r16_a_node_behind_one_that_answered_is_refused() -> None:
    for ahead in (LogTip(4, 81), LogTip(5, 7)):
        with pytest.raises(CommandNotPossibleError, match="b is behind a on 1 logs; promote a"):
            judge_promotion(RECORD, B.node_id, [state(A, orders=ahead), state(B, orders=LogTip(4, 80))])


def test_r16_a_node_is_not_promoted_when_those_away_may_have_gone_on_without_it() -> None:
    with pytest.raises(CommandNotPossibleError, match="a, c do not answer; they may have gone on without b"):
        judge_promotion(RECORD, B.node_id, [state(B)], old_primary_is_stopped=True)
    assert judge_promotion(RECORD, B.node_id, [state(B)], old_primary_is_stopped=True, unclean=True).epoch == 5
    two = attrs.evolve(RECORD, names={A.node_id: "a", B.node_id: "b"}, copies_min=1)
    assert judge_promotion(two, B.node_id, [state(B)], old_primary_is_stopped=True).epoch == 5


def test_r16_a_node_that_does_not_answer_is_not_promoted() -> None:
    with pytest.raises(CommandNotPossibleError, match="b does not answer"):
        judge_promotion(RECORD, B.node_id, [state(A)])


def test_unclean_goes_on_and_says_what_it_may_lose() -> None:
    ahead, chosen = state(B, orders=LogTip(4, 90), bills=LogTip(4, 5)), state(C, orders=LogTip(4, 80))
    promotion = judge_promotion(RECORD, C.node_id, [ahead, chosen], old_primary_is_stopped=True, unclean=True)
    assert promotion.unclean
    assert [loss.split(":")[0] for loss in promotion.losses] == [
        "c is not in the in-sync set",
        "Not asked, for there is no answer",
        "b has more of 2 logs, 15 bytes or more; its part goes to quarantine when it returns.",
    ]
    cut = judge_promotion(RECORD, B.node_id, [state(A), state(returned(B))], unclean=True)
    assert cut.losses[0].startswith("b came back under incarnation 2")


def test_r14_without_a_record_nothing_is_promoted() -> None:
    with pytest.raises(CommandNotPossibleError, match="R14"):
        judge_promotion(None, B.node_id, [state(B)])


def test_r16_the_newest_record_is_that_of_the_most_advanced_metadata_log() -> None:
    newer = attrs.evolve(RECORD, members=[A, B, C])
    states = [
        attrs.evolve(state(A, metadata=LogTip(4, 10)), record=newer),
        attrs.evolve(state(B, metadata=LogTip(3, 90)), record=RECORD),
        state(C, metadata=LogTip(9, 99)),
    ]
    assert newest_record(states) == newer
    assert newest_record(states[2:]) is None


def test_r16_the_primary_itself_is_promoted_again_when_no_other_can_have_been() -> None:
    assert judge_promotion(RECORD, A.node_id, [state(A), state(B)]).epoch == 5
    with pytest.raises(CommandNotPossibleError, match="b does not answer, and may have been promoted since"):
        judge_promotion(RECORD, A.node_id, [state(A), state(C)])
    assert judge_promotion(RECORD, A.node_id, [state(A), state(C)], old_primary_is_stopped=True).epoch == 5


def test_r16_a_primary_that_comes_back_waits_while_another_may_have_reigned_meanwhile() -> None:
    waits = reason_to_wait(RECORD, state(A), [state(C)])
    assert waits is not None
    assert waits.startswith("waiting for b, which may have been promoted")
    later = reason_to_wait(RECORD, state(A), [state(B), state(C, seen=5)])
    assert later is not None
    assert "c has seen epoch 5" in later
    assert reason_to_wait(RECORD, state(A), [state(B)]) is None, "c is not in sync, and was not promoted"
