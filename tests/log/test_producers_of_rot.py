"""What a log remembers of producers whose batches rotted: a retry is no duplicate, nor stored twice (R12, G15)."""

from __future__ import annotations

import pytest
from shelf_storage import SALT, Broker, Shelf, batch, start
from test_producers import HOUR_MS, LIMITS, header, record, table_of
from test_repaired import Others, complete, met, position_of, rot, stands, virtual

from mqcore.batch import HEADER_BYTES, BatchHeader
from mqcore.errors import CorruptionError
from mqcore.log import ACCEPT, Duplicate, Forgotten, Gap, GivenUp, IncomingBatch, PartitionLog, ProducerTable, TooOld
from mqcore.log._scan import BatchScanner
from mqcore.log._state import LogState


def test_g15_what_was_given_up_is_no_duplicate_until_it_is_whole_again() -> None:
    table = table_of(header(0), header(1), header(2))
    table.mark(110, 111, is_given_up=True)
    for each in (table, restored(table), read_by_another(table)):
        verdicts = [each.check(header(sequence)) for sequence in range(4)]
        assert verdicts == [Duplicate(100, 101), GivenUp(110), Duplicate(120, 121), ACCEPT]
        assert each.check(header(1, checksum=10)) == GivenUp(110), "what it was is gone"
        each.mark(105, 115, is_given_up=False)
        assert each.check(header(1)) == Duplicate(110, 111)


def test_g15_after_what_may_have_been_its_last_batch_a_producer_is_not_believed_to_be_at_the_next() -> None:
    table = table_of(header(0), header(1))
    table.forgot(may_have_sent=True)
    table.forgot(may_have_sent=True)
    for each in (table, restored(table), read_by_another(table)):
        verdicts = [each.check(header(sequence)) for sequence in range(4)]
        assert verdicts == [Duplicate(100, 101), Duplicate(110, 111), Forgotten(), Gap(2)]
        assert each.check(header(0, epoch=1)) is ACCEPT
        sent = each.sent_by(1)
        assert sent is not None
        assert (sent.end_offset, sent.is_sure) == (111, False)
        record(each, header(2), 130)
        assert [each.check(header(sequence)) for sequence in (1, 2, 3)] == [
            Duplicate(110, 111),
            Duplicate(130, 131),
            ACCEPT,
        ], "what follows without a gap says that nothing of it was there"
    table.forgot(may_have_sent=True)
    record(table, header(4), 140)
    assert isinstance(table.check(header(3)), TooOld), "this one says what was there"


def test_g15_who_knows_everything_says_in_its_parts_where_a_producer_stands() -> None:
    table, unsure = table_of(header(0), header(1)), table_of(header(0), header(1))
    unsure.forgot(may_have_sent=True)
    for part in table.parts():
        unsure.take_part(part)
    assert unsure.check(header(2)) is ACCEPT


def restored(table: ProducerTable) -> ProducerTable:
    other = ProducerTable(LIMITS)
    other.restore(table.snapshot())
    return other


def read_by_another(table: ProducerTable) -> ProducerTable:
    other = ProducerTable(LIMITS)
    other.forgot()
    for part in table.parts():
        other.take_part(part)
    return other


FIRST, NEXT = (batch(b"%d" % each, producer_id=7, first_sequence=each) for each in range(2))
OTHER = batch(b"other", producer_id=8)


async def filled(shelf: Shelf, *batches: IncomingBatch) -> tuple[Broker, PartitionLog]:
    broker = await start(shelf)
    log = await broker.log()
    for each in batches:
        await log.append([each])
        await broker.store.flush([log])
    return broker, log


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
def test_g15_a_start_that_finds_a_batch_rotten_takes_no_retry_of_it_for_a_new_one(at: int) -> None:
    """It may be put right from another node in a moment, and would be there twice."""

    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf, FIRST, NEXT, OTHER)
        position = await position_of(log, 1)
        others = Others(shelf)
        others.have(position, await position_of(log, 2))
        await broker.store.leave()
        rot(shelf, position, at)
        broker = await start(shelf)
        log = await broker.log()
        broker.store.good_copies.ask = others.ask
        expected = Forgotten() if at == 0 else Duplicate(1, 2)  # of which the answer is unknown while it is damaged
        assert log.check([NEXT.header]) == [expected]
        assert log.damage_of(1) is not None
        assert log.check([FIRST.header]) == [Duplicate(0, 1)]
        assert log.check([OTHER.header]) == [Duplicate(2, 3)]
        assert await log.mend_damages() == []
        assert log.check([NEXT.header]) == [expected]

    virtual(main)


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_g15_what_was_given_up_is_told_to_every_copy_with_who_sent_it(at: int, *, is_restarted: bool) -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf, OTHER, FIRST, batch(b"anybody"))
        others = Others(shelf)
        points = [await position_of(log, offset) for offset in (1, 2)]
        rot(shelf, points[0], at)
        if is_restarted:
            await broker.store.leave()
            broker = await start(shelf)
            log = await broker.log()
        broker.store.good_copies.ask = others.ask
        assert await met(log, 1) == (1, 2)
        await log.mend_damages(gives_up=complete)
        is_known = at > 0 or not is_restarted
        expected = GivenUp(1) if is_known else Forgotten()  # who sent it has rotted, too
        assert log.check([FIRST.header]) == [expected]
        for each in (await copied(log), (await (await start(shelf)).log()).producers):
            assert each.check(FIRST.header) == expected
            assert each.check(OTHER.header) == Duplicate(0, 1)
            assert each.check(NEXT.header) == (ACCEPT if is_known else Forgotten())
            assert each.check(under_the_next_epoch(FIRST.header)) is ACCEPT
        others.have(*points)
        assert await log.mend_damages(anew=True) == []
        assert log.check([FIRST.header]) == [Duplicate(1, 2) if is_known else Forgotten()]

    virtual(main)


def under_the_next_epoch(header: BatchHeader) -> BatchHeader:
    return header._replace(producer_epoch=header.producer_epoch + 1)


def test_g15_the_first_batch_of_an_unknown_producer_may_be_what_has_rotted_for_as_long_as_one_is_remembered() -> None:
    table = table_of(header(0))
    table.forgot()
    assert table.check(header(0, producer=2)) is ACCEPT, "what was trimmed is no rot"
    table.forgot(may_have_sent=True)
    for each in (table, restored(table), read_by_another(table), restored(read_by_another(table))):
        assert each.check(header(0, producer=2)) == Forgotten()
        assert each.check(header(0, producer=2, epoch=1)) is ACCEPT, (
            "which it takes if it has not sent the other before"
        )
        hours = LIMITS.producer_retention_ms // HOUR_MS
        for number in range(1, hours + 3):  # the first may have come long after what has rotted
            assert each.check(header(0, producer=2)) == Forgotten()
            record(each, header(number), 100 + 10 * number, appended_ms=number * HOUR_MS)
        assert each.check(header(0, producer=2)) is ACCEPT
        assert restored(each).check(header(0, producer=2)) is ACCEPT
        assert read_by_another(each).check(header(0, producer=2)) is ACCEPT


def test_g15_a_table_of_which_nothing_has_rotted_is_written_as_it_always_was() -> None:
    table = table_of(header(0))
    before = table.snapshot()
    table.forgot()
    assert len(table.snapshot()) == len(before)
    table.forgot(may_have_sent=True)
    assert len(table.snapshot()) > len(before)


def test_g15_a_first_batch_whose_header_has_rotted_is_not_stored_again_before_it_is_mended() -> None:
    """A start does not know whose it was, and another node may put it right in a moment."""

    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf, OTHER, FIRST, batch(b"anybody"))
        position = await position_of(log, 1)
        others = Others(shelf)
        others.have(position, await position_of(log, 2))
        await broker.store.leave()
        rot(shelf, position, 0)
        broker = await start(shelf)
        log = await broker.log()
        broker.store.good_copies.ask = others.ask
        assert log.check([FIRST.header]) == [Forgotten()]
        await log.mend_damages()
        assert log.damage_of(1) is None
        assert log.check([FIRST.header]) == [Forgotten()]
        await broker.store.leave()
        again = await (await start(shelf)).log()
        assert again.check([FIRST.header]) == [Duplicate(1, 2)]

    virtual(main)


async def copied(log: PartitionLog) -> ProducerTable:
    """What another node remembers that was sent what stands in ``log``."""
    state = LogState(LIMITS)
    scanner = BatchScanner(state, SALT, "copy")
    scanner.feed(memoryview(await stands(log)))
    assert not scanner.invalid
    return state.producers


def test_g15_what_a_log_says_of_its_producers_is_said_anew_once_a_part_of_that_was_given_up() -> None:
    """A copy that begins there would not know of a producer, and take its first batch, sent again, for a new one."""

    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf, FIRST, OTHER)
        broker.store.good_copies.ask = Others(shelf).ask
        position = log.end_position
        made = log.producers_batches()
        await log.append_control(made)
        log.producers_kept(made)
        await log.append([NEXT])
        await broker.store.flush([log])
        assert not log.lacks_producers(position)
        rot(shelf, position)
        with pytest.raises(CorruptionError):
            await log.read_stored(position, 1, log.end_position, asks=False)
        assert not log.lacks_producers(position), "nothing is sent to a copy meanwhile"
        await log.mend_damages(gives_up=complete)
        assert log.lacks_producers(position)
        again = await (await start(shelf)).log()
        assert again.lacks_producers(position)
        assert again.check([OTHER.header]) == [Duplicate(1, 2)]

    virtual(main)
