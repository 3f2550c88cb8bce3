"""What a log says of its producers before a trim: who begins there knows what those know that read everything (R12)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf_storage import batch

from mqcore.limits import Limits
from mqcore.log import Duplicate, Forgotten, ProducerEnd, ProducerTable, TooOld
from mqcore.log import _producer_bytes as bytes_module
from mqcore.log import _producers as producers_module
from mqcore.log._control import pack_producers_batch, unpack_producers_batch
from mqcore.log._producer_bytes import KeptProducers

LIMITS = Limits(producers_max=50, producer_batches_kept=4, producer_retention_ms=3_600_000)
HEADER = batch(b"x").header


def filled(*counts: int, ended: int = 0) -> ProducerTable:
    """A table of producers 1, 2 and so on, each with so many batches; of ``ended`` more that have ended."""
    table, offset = ProducerTable(LIMITS), 0
    for identity in range(100, 100 + ended):
        table.record(identity, 3, 0, 1, 9, offset, offset)
        offset += 1
        table.end([ProducerEnd(identity, 3, 1)])
    for identity, count in enumerate(counts, 1):
        for sequence in range(count):
            table.record(identity, 0, sequence, 1, 9, offset, offset)
            offset += 1
    return table


def as_read(parts: list[KeptProducers]) -> list[KeptProducers]:
    return [unpack_producers_batch(pack_producers_batch(each), "here") for each in parts]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=8), st.integers(0, 20), st.sampled_from([100, 300, 100_000]))
def test_r12_who_begins_with_the_parts_knows_everything_and_who_knows_everything_learns_nothing(
    counts: list[int], ended: int, part_bytes: int
) -> None:
    table = filled(*counts, ended=ended)
    before, small = table.snapshot(), bytes_module.KEPT_PART_BYTES
    producers_module.KEPT_PART_BYTES = part_bytes
    try:
        parts = as_read(table.parts())
    finally:
        producers_module.KEPT_PART_BYTES = small
    anew = ProducerTable(LIMITS)
    anew.forgot()
    for part in parts:
        anew.take_part(part)
        table.take_part(part)
    assert table.snapshot() == before
    assert anew.snapshot() == before


def test_r12_a_part_that_is_missing_leaves_it_open_whether_more_is_known() -> None:
    producers_module.KEPT_PART_BYTES, small = 90, producers_module.KEPT_PART_BYTES
    try:
        parts = as_read(filled(4, 4, 4).parts())
    finally:
        producers_module.KEPT_PART_BYTES = small
    assert len(parts) == 3
    anew = ProducerTable(LIMITS)
    anew.forgot()
    for part in (parts[0], parts[2]):
        anew.take_part(part)
    assert anew.check(HEADER._replace(producer_id=2, first_sequence=4)) == Forgotten()
    retry = HEADER._replace(producer_id=3, first_sequence=3, count=1, body_checksum=9)
    assert isinstance(anew.check(retry), Duplicate)


@pytest.mark.parametrize(("bytes_max", "kept"), [(400, 4), (150, 1), (1, 1)])
def test_g15_a_table_too_large_keeps_fewer_batches_of_each_producer_and_no_producer_is_left_out(
    monkeypatch: pytest.MonkeyPatch, bytes_max: int, kept: int
) -> None:
    """Who is not known sends its first batch again, and it would be stored twice: not remembered looks like new."""
    monkeypatch.setattr(producers_module, "KEPT_BYTES_MAX", bytes_max)
    anew = ProducerTable(LIMITS)
    anew.forgot()
    for part in as_read(filled(1, 4, 4).parts()):
        anew.take_part(part)
    retry = HEADER._replace(first_sequence=0, count=1, body_checksum=9)
    assert isinstance(anew.check(retry._replace(producer_id=1)), Duplicate)
    for identity in (2, 3):
        verdicts = [anew.check(retry._replace(producer_id=identity, first_sequence=each)) for each in range(4)]
        assert [type(each) for each in verdicts] == [TooOld] * (4 - kept) + [Duplicate] * kept
    assert not anew.has_forgotten
