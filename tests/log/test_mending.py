"""A batch that rotted is written anew from another node, and never over anything else (G12, G05)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
import trio.testing
from shelf_storage import NAME, Broker, Crashed, Shelf, batch, read_all, start

from mqcore.batch import HEADER_BYTES
from mqcore.errors import CorruptionError, StorageError
from mqcore.log import (
    Answers,
    BelowStartError,
    CopyThere,
    DamagedRangeError,
    EpochEntry,
    IncomingBatch,
    Mended,
    PartitionLog,
)
from mqcore.log._mending import ASK_AGAIN_S, MENDS_MAX

MESSAGES = 30


def virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def one(number: int) -> IncomingBatch:
    return batch(b"%04d" % number)


async def filled(shelf: Shelf) -> tuple[Broker, PartitionLog]:
    """A log of batches of one size each, flushed."""
    broker = await start(shelf)
    log = await broker.log()
    for number in range(MESSAGES):
        await log.append([one(number)])
    await broker.store.flush([log])
    return broker, log


async def point_of(log: PartitionLog, offset: int) -> tuple[int, int]:
    """Where the batch at ``offset`` stands, and its size."""
    found = await log.batch_of(offset)
    assert found is not None
    header = await log.batch_at(found.position)
    assert header is not None
    return found.position, header.size


def rot(shelf: Shelf, position: int, at: int = HEADER_BYTES) -> None:
    stored = shelf.logs[NAME]
    stored.data[position - stored.start + at] ^= 0xFF


class Others:
    """The other nodes of a set: they have the bytes that ``shelf`` had when this was made."""

    def __init__(self, shelf: Shelf, size: int) -> None:
        self.data = bytes(shelf.logs[NAME].data)
        self.size = size
        self.asked: list[int] = []
        self.has_it = True
        self.meanwhile: Callable[[], Coroutine[Any, Any, object]] | None = None

    async def ask(self, name: str, position: int, reign: EpochEntry) -> Answers:
        self.asked.append(position)
        if self.meanwhile is not None:
            await self.meanwhile()
        await trio.lowlevel.checkpoint()
        batch = self.data[position : position + self.size] if self.has_it else b""
        return Answers({"c": CopyThere(batch)}, is_complete=True)


def test_g12_what_was_written_while_others_were_asked_is_not_written_over() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        position, size = await point_of(log, 20)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        rot(shelf, position)
        anew = [batch(b"anew", b"%04d" % number) for number in range(20)]

        async def another_history() -> None:
            """The log is cut below, and goes on with other batches, which are durable by the time the answer comes."""
            others.meanwhile = None
            await log.truncate(10)
            for each in anew:
                await log.append([each])
            await broker.store.flush([log])

        others.meanwhile = another_history
        await log.read(20, 1, log.end_offset)
        assert others.asked
        found = await read_all(log, 10)
        assert [each[-4:] for each in found] == [bytes(each.data)[-4:] for each in anew]
        assert not log.is_damaged

    virtual(main)


def test_g12_what_a_reign_that_ended_asked_for_is_not_written_into_the_next() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        position, size = await point_of(log, 20)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        rot(shelf, position)

        async def next_reign() -> None:
            others.meanwhile = None
            await broker.store.leave()
            await broker.store.reign()

        others.meanwhile = next_reign
        rotten = bytes(shelf.logs[NAME].data)
        with pytest.raises(StorageError, match="has ended"):
            await log.read(20, 1, log.end_offset)
        assert bytes(shelf.logs[NAME].data[: len(rotten)]) == rotten

    virtual(main)


def test_r15_damage_that_is_trimmed_while_others_are_asked_is_none_any_more() -> None:
    async def main() -> None:
        shelf = Shelf(segment_bytes=1024)
        broker, log = await filled(shelf)
        points = [await point_of(log, offset) for offset in (3, 5)]
        others = Others(shelf, points[0][1])
        for offset, (position, _) in zip((3, 5), points, strict=True):
            rot(shelf, position)
            with pytest.raises(DamagedRangeError):
                await log.read(offset, 1, log.end_offset)

        async def trim() -> None:
            others.meanwhile = None
            await log.trim(25)

        others.meanwhile = trim
        broker.store.good_copies.ask = others.ask
        assert await log.mend_damages() == []
        assert not log.is_damaged
        assert others.asked == [points[0][0]]

    virtual(main)


def test_r15_a_reader_whose_batch_is_trimmed_while_others_are_asked_is_told_that_it_is_gone() -> None:
    async def main() -> None:
        shelf = Shelf(segment_bytes=1024)
        broker, log = await filled(shelf)
        position, size = await point_of(log, 5)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        rot(shelf, position)

        async def trim() -> None:
            others.meanwhile = None
            await log.trim(25)

        others.meanwhile = trim
        with pytest.raises((BelowStartError, DamagedRangeError)):
            await log.read(5, 1, log.end_offset)
        assert log.start_position > position + size, "of what is there nothing was written over"
        assert len(await read_all(log, 25)) == MESSAGES - 25

    virtual(main)


def test_g12_asking_in_vain_many_times_does_not_end_it_and_is_not_done_at_every_read() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        position, size = await point_of(log, 20)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        others.has_it = False
        rot(shelf, position)
        for tries in range(1, 3 * MENDS_MAX):
            for _ in range(3):
                with pytest.raises(DamagedRangeError):
                    await log.read(20, 1, log.end_offset)
            assert len(others.asked) == tries
            await trio.sleep(ASK_AGAIN_S)
        others.has_it = True
        assert (await log.read(20, 1, log.end_offset)).next_offset == 21
        assert not log.is_damaged

    virtual(main)


def test_g12_what_is_put_right_again_and_again_counts_as_damaged() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        position, size = await point_of(log, 20)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        for _ in range(MENDS_MAX):
            rot(shelf, position)
            assert (await log.read(20, 1, log.end_offset)).next_offset == 21
        rot(shelf, position)
        with pytest.raises(DamagedRangeError):
            await log.read(20, 1, log.end_offset)

    virtual(main)


def test_g12_a_reader_that_does_not_want_to_wait_asks_nobody() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        position, size = await point_of(log, 20)
        others = Others(shelf, size)
        met: list[str] = []
        broker.store.good_copies.ask = others.ask
        broker.store.good_copies.met = met.append
        rot(shelf, position)
        with pytest.raises(DamagedRangeError):
            await log.read(20, 1, log.end_offset, asks=False)
        with pytest.raises(CorruptionError):
            await log.read_stored(position, 1, log.end_position, asks=False)
        assert (others.asked, met) == ([], [NAME])
        assert "log-damaged" not in broker.kinds, "who was told of it reports it, if it stays"
        assert await log.mend_damages() == []
        assert await log.read_stored(position, 1, log.end_position, asks=False)

    virtual(main)


@pytest.mark.parametrize("in_place", [True, False])
def test_g12_a_range_of_several_batches_is_mended_one_by_one(in_place: bool) -> None:
    async def main() -> None:
        shelf = Shelf(in_place=in_place)
        broker, log = await filled(shelf)
        points = [await point_of(log, offset) for offset in (10, 11, 12, 20)]
        others = Others(shelf, points[0][1])
        broker.store.good_copies.ask = others.ask
        for position, _ in points:
            rot(shelf, position, at=0)
        with pytest.raises(DamagedRangeError) as caught:
            await log.read(10, 1, log.end_offset, asks=False)
        assert (caught.value.first_offset, caught.value.next_offset) == (10, 13)
        stay = await log.mend_damages()
        assert others.asked[-3:] == [position for position, _ in points[:3]]
        if in_place:
            assert stay == []
            assert len(await read_all(log)) == MESSAGES
        else:
            assert [(damage.first_offset, tried.outcome, tried.node) for damage, tried in stay] == [
                (10, Mended.ELSEWHERE, "c")
            ]
            assert log.is_damaged

    virtual(main)


def test_g12_of_a_range_of_several_batches_what_is_not_mended_is_still_known() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        points = [await point_of(log, offset) for offset in (10, 11, 12)]
        others = Others(shelf, points[0][1])
        for position, _ in points:
            rot(shelf, position, at=0)

        async def only_the_first() -> None:
            others.has_it = others.asked[-1] == points[0][0]

        others.meanwhile = only_the_first
        with pytest.raises(DamagedRangeError):
            await log.read(10, 1, log.end_offset)
        broker.store.good_copies.ask = others.ask
        ((_, tried),) = await log.mend_damages()
        assert tried.outcome is Mended.NO
        assert [(each.first_offset, each.next_offset) for each in log.damages] == [(11, 13)]
        assert (await log.read(10, 1, log.end_offset)).next_offset == 11

    virtual(main)


def test_g11_what_no_flush_has_covered_is_not_written_over() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        await log.append([one(MESSAGES)])
        position, size = await point_of(log, MESSAGES)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        rot(shelf, position)
        rotten = bytes(shelf.logs[NAME].data)
        with pytest.raises(DamagedRangeError):
            await log.read(MESSAGES, 1, log.end_offset)
        assert bytes(shelf.logs[NAME].data) == rotten

    virtual(main)


def test_g12_a_process_that_dies_while_it_mends_mends_it_the_next_time() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        position, size = await point_of(log, 20)
        others = Others(shelf, size)
        broker.store.good_copies.ask = others.ask
        rot(shelf, position, at=0)
        rot(shelf, position, at=HEADER_BYTES)
        shelf.crash_after = 0
        with pytest.raises(Crashed):
            await log.read(20, 1, log.end_offset)
        shelf.crash_after = None
        again = await start(shelf, reign=False)
        again.store.good_copies.ask = others.ask
        log = await again.log()
        assert (await log.read(20, 1, log.end_offset)).next_offset == 21
        assert bytes(shelf.logs[NAME].data[: len(others.data)]) == others.data

    virtual(main)


@pytest.mark.parametrize("is_first", [False, True], ids=["middle", "first"])
def test_r5_a_log_parts_at_a_batch_whose_header_rotted_and_not_where_none_begins(is_first: bool) -> None:
    async def main() -> None:
        shelf = Shelf()
        _, log = await filled(shelf)
        position = log.start_position if is_first else (await point_of(log, 20))[0]
        rot(shelf, position, at=0)
        with pytest.raises(CorruptionError, match=r"where no batch begins|damaged"):
            await log.part_at((await point_of(log, 10))[0] + 1)
        name = await log.part_at(position)
        assert name is not None
        assert log.end_position == position
        assert log.end_offset == (0 if is_first else 20)
        assert not log.is_damaged

    virtual(main)


def test_r5_a_log_does_not_part_within_what_rotted() -> None:
    async def main() -> None:
        shelf = Shelf()
        _, log = await filled(shelf)
        before, position = (await point_of(log, 19))[0], (await point_of(log, 20))[0]
        rot(shelf, before, at=0)
        rot(shelf, position, at=0)
        end = log.end_position
        with pytest.raises(DamagedRangeError):
            await log.part_at(position)
        assert log.end_position == end

    virtual(main)


def test_r15_a_trim_to_a_batch_whose_header_rotted_begins_just_there() -> None:
    async def main() -> None:
        shelf = Shelf()
        _, log = await filled(shelf)
        position, _ = await point_of(log, 20)
        rot(shelf, position, at=0)
        assert await log.trim(20, position) == 20
        assert log.start_position == position

    virtual(main)
