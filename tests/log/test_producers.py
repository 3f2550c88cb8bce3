"""The producer table (R12, G15): a retry is a duplicate, never a second message."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf_storage import batch

from mqcore.batch import BatchHeader, PlainBatch
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log import (
    ACCEPT,
    Conflict,
    Duplicate,
    Fenced,
    Forgotten,
    Gap,
    ProducerEnd,
    ProducerTable,
    TableFull,
    TooOld,
)
from mqcore.log import _producers as producers_module

HOUR_MS = 3_600_000
LIMITS = Limits(producers_max=3, producer_batches_kept=4, producer_retention_ms=10 * HOUR_MS)
MEMORY = batch(b"x").header


def header(sequence: int, count: int = 1, *, producer: int = 1, epoch: int = 0, checksum: int = 9) -> BatchHeader:
    return MEMORY._replace(
        producer_id=producer, producer_epoch=epoch, first_sequence=sequence, count=count, body_checksum=checksum
    )


def record(table: ProducerTable, each: BatchHeader, base_offset: int, appended_ms: int = 0) -> None:
    identity = each.producer_id, each.producer_epoch, each.first_sequence
    table.record(*identity, each.count, each.body_checksum, base_offset, appended_ms)


def table_of(*headers: BatchHeader, limits: Limits = LIMITS) -> ProducerTable:
    """A table that saw ``headers``, at offsets 100, 110, ..."""
    table = ProducerTable(limits)
    for number, each in enumerate(headers):
        record(table, each, 100 + 10 * number)
    return table


def test_batches_without_a_producer_are_accepted_and_leave_nothing() -> None:
    table = table_of(header(5, producer=0))
    assert table.check(header(5, producer=0)) is ACCEPT
    assert len(table) == 0


def test_the_next_in_order_is_accepted() -> None:
    assert ProducerTable(LIMITS).check(header(0)) is ACCEPT
    assert table_of(header(0, 3)).check(header(3)) is ACCEPT


def test_g15_a_retry_is_answered_with_the_offsets_of_the_original() -> None:
    table = table_of(header(0, 3), header(3, 2), header(5))
    assert table.check(header(0, 3)) == Duplicate(100, 103)
    assert table.check(header(3, 2)) == Duplicate(110, 112)
    assert table.check(header(5)) == Duplicate(120, 121)


def test_a_gap_names_the_sequence_that_is_expected() -> None:
    assert table_of(header(0, 3)).check(header(4)) == Gap(3)
    assert ProducerTable(LIMITS).check(header(7)) == Gap(0)


def test_a_retry_older_than_what_is_kept_is_refused_by_name() -> None:
    table = table_of(*(header(number) for number in range(6)))
    assert table.check(header(1)) == TooOld(2)
    assert table.check(header(2)) == Duplicate(120, 121)


def test_a_batch_of_other_bounds_or_other_content_is_a_conflict() -> None:
    table = table_of(header(0, 3), header(3, 2))
    assert table.check(header(0, 2)) == Conflict(100)
    assert table.check(header(1, 2)) == Conflict(100)
    assert table.check(header(3, 2, checksum=8)) == Conflict(110)


def test_an_older_producer_epoch_is_fenced_and_a_newer_one_begins_at_0() -> None:
    table = table_of(header(0), header(0, epoch=3))
    assert table.check(header(1, epoch=2)) == Fenced(3)
    assert table.check(header(5, epoch=4)) == Gap(0)
    assert table.check(header(0, epoch=4)) is ACCEPT
    assert table.check(header(0, epoch=3)) == Duplicate(110, 111)


def test_sequences_wrap_around() -> None:
    last = 0xFFFF_FFFF
    table = table_of(header(last - 1, 2), header(0, 2))
    assert table.check(header(2)) is ACCEPT
    assert table.check(header(last - 1, 2)) == Duplicate(100, 102)
    assert table.check(header(0, 2)) == Duplicate(110, 112)


def test_batches_of_one_call_see_those_before_them() -> None:
    table = table_of(header(0))
    headers = [header(1), header(2), header(4), header(1), header(0), header(0, producer=2), header(1, producer=2)]
    assert table.check_many(headers) == [ACCEPT, ACCEPT, Gap(3), Gap(3), Duplicate(100, 101), ACCEPT, ACCEPT]
    assert len(table) == 1, "checking changes nothing"


def test_g20_producers_are_bounded_and_the_next_one_is_refused_not_one_forgotten() -> None:
    table = table_of(*(header(0, producer=number) for number in (1, 2)))
    three, four = header(0, producer=3), header(0, producer=4)
    assert table.check_many([three, four]) == [ACCEPT, TableFull(3)]
    record(table, three, 0)
    assert table.check(four) == TableFull(3)
    assert table.check(header(0, producer=1)) == Duplicate(100, 101)


def test_state_expires_after_the_retention_and_a_later_retry_is_refused_by_name() -> None:
    table = table_of(header(0, 3, producer=1))
    for hour in range(1, 13):
        record(table, header(hour - 1, producer=2), 0, hour * HOUR_MS)
    record(table, header(0, producer=3), 0, 12 * HOUR_MS)
    assert len(table) == 2
    assert table.check(header(3, producer=1)) == Forgotten()


def test_r15_no_jump_of_the_clock_expires_anything() -> None:
    table = table_of(header(0, producer=1))
    record(table, header(0, producer=2), 0, 10 * 365 * 24 * HOUR_MS)
    record(table, header(1, producer=2), 0, 5)
    record(table, header(0, producer=3), 0, 20 * 365 * 24 * HOUR_MS)
    assert table.check(header(0, producer=1)) == Duplicate(100, 101)


def test_r12_what_is_noted_to_end_gives_room_and_is_still_remembered() -> None:
    table = table_of(*(header(0, producer=number) for number in (1, 2, 3)))
    assert table.check(header(0, producer=4)) == TableFull(3)
    assert table.note_end(ProducerEnd(2, 0, 1))
    assert table.check(header(0, producer=4)) is ACCEPT
    assert table.check_many([header(0, producer=4), header(0, producer=5)]) == [ACCEPT, TableFull(3)]
    assert table.check(header(0, producer=2)) == Duplicate(110, 111)
    assert table.ends_due(0) == []
    assert table.ends_due(1) == [ProducerEnd(2, 0, 1)]


def test_r12_a_producer_that_goes_on_after_its_end_was_noted_has_not_ended() -> None:
    table = table_of(*(header(0, producer=number) for number in (1, 2, 3)))
    assert table.note_end(ProducerEnd(2, 0, 1))
    record(table, header(1, producer=2), 200)
    assert table.check(header(0, producer=4)) == TableFull(3)
    table.end([ProducerEnd(2, 0, 1)])
    assert table.check(header(0, producer=2)) == Duplicate(110, 111)


def test_r12_an_ended_producer_is_forgotten_and_neither_new_nor_lost() -> None:
    table = table_of(header(0, producer=1), header(1, producer=1), header(0, producer=2))
    table.end([ProducerEnd(1, 0, 2)])
    assert len(table) == 1
    assert table.check(header(0, producer=1)) == Forgotten()
    assert table.check(header(1, producer=1)) == Forgotten()
    assert table.check(header(5, producer=9)) == Gap(0), "of others nothing was forgotten"
    assert table.check(header(0, producer=1, epoch=1)) is ACCEPT, "it may begin anew, under another epoch"
    record(table, header(0, producer=1, epoch=1), 300)
    assert table.check(header(0, producer=1, epoch=1)) == Duplicate(300, 301)


def test_r12_ends_wait_for_others_and_few_of_them_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers_module, "ENDED_KEPT_MAX", 2)
    limits = attrs.evolve(LIMITS, producers_max=1_000)
    count = producers_module.ENDS_TOGETHER
    table = table_of(*(header(0, producer=number) for number in range(1, count + 1)), limits=limits)
    for number in range(1, count + 1):
        assert table.ends_due(1) == []
        table.note_end(ProducerEnd(number, 0, 1))
    due = table.ends_due(1)
    assert [end.producer_id for end in due] == list(range(1, count + 1))
    table.end(due)
    assert (len(table), table.ending) == (0, {})
    verdicts = [table.check(header(0, producer=number)) for number in range(count - 2, count + 1)]
    assert verdicts == [ACCEPT, Forgotten(), Forgotten()]


@pytest.mark.parametrize("kept", [1, 4])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_r12_the_state_is_a_function_of_the_prefix_and_a_snapshot_is_all_of_it(kept: int, data: st.DataObject) -> None:
    limits = attrs.evolve(LIMITS, producer_batches_kept=kept, producers_max=100)
    table, again = ProducerTable(limits), ProducerTable(limits)
    sequences: dict[int, int] = {}
    cut = data.draw(st.integers(0, 30))
    headers = []
    for number in range(40):
        producer, count = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 5))
        each = header(sequences.get(producer, 0), count, producer=producer, checksum=number)
        sequences[producer] = each.first_sequence + count
        headers.append(each)
        assert table.check(each) is ACCEPT
        record(table, each, number, number * HOUR_MS // 7)
        if number == cut:
            again.restore(table.snapshot())
        elif number > cut:
            record(again, each, number, number * HOUR_MS // 7)
    assert again.snapshot() == table.snapshot()
    assert [again.check(each) for each in headers] == [table.check(each) for each in headers]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_snapshot_cut_short_is_refused(data: st.DataObject) -> None:
    whole = table_of(header(0), header(1), header(0, producer=2), header(0, producer=3))
    whole.end([ProducerEnd(2, 0, 1), ProducerEnd(3, 0, 1)])
    snapshot = whole.snapshot()
    table = ProducerTable(LIMITS)
    with pytest.raises(CorruptionError):
        table.restore(snapshot[: data.draw(st.integers(0, len(snapshot) - 1))])


@settings(max_examples=200)
@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(1, 3), st.booleans(), st.integers(-5, 5 * HOUR_MS)),
        max_size=40,
    ),
    st.data(),
)
def test_batches_taken_in_together_leave_the_same_as_one_after_the_other(
    kept: int, plan: list[tuple[int, int, int, bool, int]], data: st.DataObject
) -> None:
    limits = attrs.evolve(LIMITS, producer_batches_kept=kept)
    one, together = ProducerTable(limits), ProducerTable(limits)
    following: dict[int, int] = {}
    batches: list[PlainBatch] = []
    for number, (producer, epoch, count, follows, appended_ms) in enumerate(plan):
        sequence = following.get(producer, 0) if follows else 2**32 - 2
        following[producer] = (sequence + count) & 0xFFFF_FFFF
        batches.append(PlainBatch(1, count, producer, epoch, sequence, 10 * number, appended_ms, number))
        one.record(producer, epoch, sequence, count, number, 10 * number, appended_ms)
    cut = data.draw(st.integers(0, len(batches)))
    together.record_run(batches[:cut])
    together.record_run(batches[cut:])
    assert together.snapshot() == one.snapshot()
