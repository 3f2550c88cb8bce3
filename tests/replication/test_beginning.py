"""The first record of a set, and one that is made anew (R14)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from test_candidates import RECORD, A, B, C, state

from mqcore.errors import CommandNotPossibleError
from mqcore.replication import LogTip, NodeState, SetRecord, first_record, recovered_record

WHO: dict[str, Any] = {"set_id": b"s" * 16, "reign_id": b"n" * 16, "names": RECORD.names, "missing": {}}


def empty(*members: Any) -> list[NodeState]:
    return [NodeState(member=member, seen_epoch=0) for member in members]


def test_r14_a_set_of_empty_nodes_begins_with_all_of_them_in_sync() -> None:
    own, *others = empty(B, A, C)
    record = first_record(None, own, others, **WHO)
    assert (record.epoch, record.primary, record.members) == (1, B.node_id, frozenset({A, B, C}))
    assert SetRecord.unpack(record.pack(), where="here") == record


@pytest.mark.parametrize(
    ("record", "others", "missing", "text"),
    [
        (RECORD, empty(A), {}, "a record already"),
        (None, empty(A), {"c": "no answer from c (broken)"}, r"no answer from c \(broken\): a node"),
        (None, [state(A, seen=1)], {}, "a has stored something"),
        (None, [NodeState(member=A, seen_epoch=0, tips={"orders": LogTip(0, 9)})], {}, "a has stored something"),
    ],
)
def test_r14_what_may_hold_something_is_not_begun_anew(
    record: SetRecord | None, others: list[NodeState], missing: dict[str, str], text: str
) -> None:
    (own,) = empty(B)
    with pytest.raises(CommandNotPossibleError, match=text):
        first_record(record, own, others, **{**WHO, "missing": missing})


def test_r14_a_lost_record_is_made_anew_above_every_epoch_with_one_node_in_sync() -> None:
    own, other = state(B, seen=4, orders=LogTip(4, 10)), state(A, seen=6, orders=LogTip(4, 11), bills=LogTip(1, 5))
    recovered = recovered_record(None, own, [other], **WHO)
    assert (recovered.record.epoch, recovered.record.members) == (7, frozenset({B}))
    assert recovered.fetch == {"orders": A.node_id, "bills": A.node_id}


def test_r14_a_record_that_went_back_lends_what_it_still_says() -> None:
    names = {A.node_id: "a", B.node_id: "b", b"D" * 16: "c"}
    old = attrs.evolve(RECORD, copies_min=3)
    recovered = recovered_record(old, state(B, seen=5), [state(A, seen=5)], **{**WHO, "names": names})
    assert (recovered.record.epoch, recovered.record.copies_min, recovered.fetch) == (6, 3, {})
    assert recovered.record.names == names, "a node that came back empty has another id"


@pytest.mark.parametrize(
    ("record", "own", "missing", "text"),
    [
        (RECORD, state(B, seen=4), {}, "nothing to recover"),
        (None, state(B, seen=0), {}, "a new set"),
        (None, state(B, seen=4), {"a": "a refused: no"}, "a refused: no; a may hold .*--missing-are-lost"),
        (None, attrs.evolve(state(B), reigns=True), {}, "b reigns: stop it first"),
    ],
)
def test_r14_a_recovery_that_is_none_or_may_lose_is_refused(
    record: SetRecord | None, own: NodeState, missing: dict[str, str], text: str
) -> None:
    with pytest.raises(CommandNotPossibleError, match=text):
        recovered_record(record, own, [], **{**WHO, "missing": missing})


def test_r14_the_operator_may_give_up_the_nodes_that_are_missing() -> None:
    recovered = recovered_record(
        None, state(B, seen=4), [], **{**WHO, "missing": {"a": "no answer from a"}}, missing_are_lost=True
    )
    assert recovered.record.epoch == 5
