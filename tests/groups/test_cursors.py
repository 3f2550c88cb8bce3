"""Cursors as records: what was put comes back, a snapshot says the same, and damage is told."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import CorruptionError
from mqcore.groups import CursorTable, pack_cursors, pack_deleted, pack_life

TOPIC, OTHER = bytes(15) + b"t", bytes(15) + b"o"
offsets = st.integers(0, 2**63 - 1)
entries = st.lists(st.tuples(st.integers(0, 30), offsets, offsets), max_size=10)
steps = st.lists(
    st.tuples(st.sampled_from(["g", "gruppe é"]), st.sampled_from([TOPIC, OTHER]), st.one_of(st.none(), entries)),
    max_size=12,
)


def state_of(table):
    return {key: (dict((p, (o, e)) for p, o, e in each.items()), each.session_ms) for key, each in table.topics.items()}


@given(steps, st.integers(0, 60_000))
def test_a_snapshot_says_what_the_records_said(steps, session_ms):
    table, model = CursorTable(100), {}
    for group, topic_id, put in steps:
        if put is None:
            table.apply(pack_deleted(group, topic_id), "test")
            model.pop((group, topic_id), None)
        else:
            table.apply(pack_cursors(group, topic_id, put) + pack_life(group, topic_id, session_ms), "test")
            model.setdefault((group, topic_id), {}).update({p: (o, e) for p, o, e in put})
    assert {key: cursors for key, (cursors, _) in state_of(table).items()} == model
    assert table.count == sum(map(len, model.values()))
    assert table.snapshot_bytes == sum(22 + 2 * len(key[0]) + 20 * len(cursors) for key, cursors in model.items())
    copy = CursorTable(100)
    for record in table.records():
        copy.apply(record, "test")
    assert state_of(copy) == state_of(table)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_records_are_damage_and_nothing_else(data):
    table = CursorTable(100)
    with contextlib.suppress(CorruptionError):
        table.apply(data, "test")
    assert all(len(each.offsets) <= 100 for each in table.topics.values())


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_record_that_is_cut_short_is_damage(cut):
    record = pack_cursors("g", TOPIC, [(0, 5, 1)])
    with pytest.raises(CorruptionError):
        CursorTable(100).apply(record[:-cut], "test")


def test_a_partition_that_no_topic_can_have_is_damage_and_costs_no_memory():
    CursorTable(100).apply(pack_cursors("g", TOPIC, [(99, 5, 1)]), "test")
    with pytest.raises(CorruptionError, match="no topic can have"):
        CursorTable(100).apply(pack_cursors("g", TOPIC, [(100, 5, 1)]), "test")


def test_what_is_deleted_while_a_snapshot_is_made_is_not_in_it():
    table = CursorTable(100)
    for group in "ab":
        table.apply(pack_cursors(group, TOPIC, [(0, 5, 1)]), "test")
    records = table.records()
    next(records)
    table.apply(pack_deleted("b", TOPIC), "test")
    assert list(records) == []


@pytest.mark.parametrize(("cursors", "records_before"), [(5_000, 1), (5_000, 2), (10, 1)])
def test_nothing_more_is_in_a_snapshot_of_what_is_deleted_in_the_middle_of_it(cursors, records_before):
    """Many cursors of one group are more than one record, and its life is one more."""
    table = CursorTable(cursors)
    table.apply(pack_cursors("a", TOPIC, [(number, 5, 1) for number in range(cursors)]), "test")
    table.apply(pack_life("a", TOPIC, 10_000), "test")
    records = table.records()
    for _ in range(records_before):
        next(records)
    table.apply(pack_deleted("a", TOPIC), "test")
    assert list(records) == []


def test_what_a_topic_had_is_dropped_with_it_and_not_taken_in_again():
    known = {TOPIC, OTHER}
    table = CursorTable(100, is_known=known.__contains__)
    for topic_id in (TOPIC, OTHER):
        table.apply(pack_cursors("a", topic_id, [(0, 5, 1), (1, 5, 1)]), "test")
    alone = CursorTable(100)
    alone.apply(pack_cursors("a", OTHER, [(0, 5, 1), (1, 5, 1)]), "test")
    known.discard(TOPIC)
    table.drop_topic(TOPIC)
    table.apply(pack_cursors("a", TOPIC, [(0, 6, 1)]) + pack_life("b", TOPIC, 10), "test")
    assert table.topics.keys() == {("a", OTHER)}
    assert (table.count, table.snapshot_bytes) == (2, alone.snapshot_bytes)
    with pytest.raises(CorruptionError, match="no topic can have"):
        table.apply(pack_cursors("a", TOPIC, [(100, 6, 1)]), "test")
