"""What no node has whole is given up in its place, and taken again from one that has it after all (G12, G10)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from shelf_storage import NAME, Broker, Crashed, Shelf, batch, read_all, start

from mqcore.batch import HEADER_BYTES
from mqcore.errors import StorageError
from mqcore.log import (
    UNKNOWN_REIGN,
    Answers,
    CopyThere,
    Damage,
    DamagedRangeError,
    EpochEntry,
    LogPoint,
    Mended,
    MendTry,
    PartitionLog,
)
from mqcore.log._mending import ASK_AGAIN_S
from mqcore.log._quarantine import QUARANTINES_MAX

MESSAGES = 30


def virtual(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def filled(shelf: Shelf, reigns: int = 1) -> tuple[Broker, PartitionLog]:
    """A log of a batch a message, flushed; each reign wrote a part of it."""
    broker = await start(shelf)
    log = await broker.log()
    for number in range(MESSAGES):
        if number and number % (MESSAGES // reigns) == 0:
            await broker.store.leave()
            await broker.store.reign()
            log = await broker.log()
        await log.append([batch(b"%04d" % number)])
        await broker.store.flush([log])
    return broker, log


async def position_of(log: PartitionLog, offset: int) -> int:
    found = await log.batch_of(offset)
    assert found is not None
    return found.position


def rot(shelf: Shelf, position: int, at: int = HEADER_BYTES) -> None:
    stored = shelf.logs[NAME]
    stored.data[position - stored.start + at] ^= 0xFF


class Others:
    """What the other nodes of a set answer, by position."""

    def __init__(self, shelf: Shelf) -> None:
        self.whole = bytes(shelf.logs[NAME].data)
        self.copies: dict[int, CopyThere] = {}
        self.is_complete = True

    def have(self, position: int, end: int) -> None:
        self.copies[position] = CopyThere(self.whole[position:end])

    async def ask(self, name: str, position: int, reign: EpochEntry) -> Answers:
        await trio.lowlevel.checkpoint()
        found = self.copies.get(position)
        return Answers({} if found is None else {"c": found}, self.is_complete)


def complete(_: Damage, tried: MendTry) -> bool:
    return tried.is_complete


async def met(log: PartitionLog, offset: int) -> tuple[int, int]:
    """Read what is damaged at ``offset``; return the range that is told."""
    with pytest.raises(DamagedRangeError) as told:
        await log.read(offset, 1, log.end_offset, asks=False)
    return told.value.first_offset, told.value.next_offset


async def stands(log: PartitionLog) -> bytes:
    """Everything that a replica would be sent."""
    stored = await log.read_stored(0, 1 << 20, log.end_position, asks=False)
    assert stored.next_position == log.end_position
    return b"".join(stored.chunks)


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
@pytest.mark.parametrize("rotten", [(20,), (20, 21, 22), (0,), (7, 20), (MESSAGES - 1,)])
def test_g12_what_is_given_up_is_told_kept_aside_and_stands_in_the_way_of_nothing(
    at: int, rotten: tuple[int, ...]
) -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        others = Others(shelf)
        broker.store.good_copies.ask = others.ask
        for position in [await position_of(log, offset) for offset in rotten]:
            rot(shelf, position, at)
        for offset in rotten:
            await met(log, offset)
        left = {damage.position: damage for damage in log.damages}
        stay = await log.mend_damages(gives_up=complete)
        assert all(damage.is_given_up for damage, _ in stay)
        told = [notice for notice in broker.notices if notice.kind == "offsets-lost"]
        lost = [range(notice.facts["first_offset"], notice.facts["next_offset"]) for notice in told]  # type: ignore[call-overload]
        assert [offset for each in lost for offset in each] == list(rotten)
        assert {notice.facts["position"] for notice in told} == {*left}
        for notice in told:
            begin, end = int(str(notice.facts["position"])), int(str(notice.facts["end_position"]))
            kept = bytes(shelf.logs[str(notice.facts["quarantine"])].data)[begin - end :]
            differs = sum(one != other for one, other in zip(kept, others.whole[begin:end], strict=True))
            assert differs == notice.facts["next_offset"] - notice.facts["first_offset"], "what rotted, and the rest"  # type: ignore[operator]
        copied = await stands(log)
        assert len(copied) == len(others.whole)
        # Another process finds the same, and so does one that was sent what stands there.
        again = await (await start(shelf)).log()
        copy = Shelf(logs={**shelf.copy().logs})
        replica = await (await start(copy)).log()
        for each in (log, again, replica):
            for offset in rotten:
                first, until = await met(each, offset)
                assert first <= offset < until
            assert each.end_offset == MESSAGES
            for offset in set(range(MESSAGES)) - set(rotten):
                assert (await each.read(offset, 1, offset + 1, asks=False)).next_offset == offset + 1
        assert [entry[:2] for entry in again.history[:1]] == [entry[:2] for entry in log.history[:1]]

    virtual(main)


def test_g12_what_was_given_up_is_taken_again_from_a_node_that_has_it() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        others = Others(shelf)
        broker.store.good_copies.ask = others.ask
        points = [await position_of(log, offset) for offset in range(19, 24)]
        for position in points[1:3]:
            rot(shelf, position, 0)
        await met(log, 20)
        await log.mend_damages(gives_up=complete)
        assert shelf.logs[NAME].data != others.whole
        for begin, end in pairwise(points):
            others.have(begin, end)
        assert await log.mend_damages(anew=True, gives_up=complete) == []
        assert shelf.logs[NAME].data[: len(others.whole)] == others.whole
        assert not log.is_damaged
        assert len(await read_all(log, 10)) == MESSAGES - 10

    virtual(main)


def test_g01_no_more_is_given_up_than_is_damaged_on_every_node() -> None:
    """Two batches rotted here, so that it is not known where the second begins; another node has that one whole."""

    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        others = Others(shelf)
        broker.store.good_copies.ask = others.ask
        points = [await position_of(log, offset) for offset in range(19, 24)]
        for position in points[1:3]:
            rot(shelf, position, 0)
        assert await met(log, 20) == (20, 22)
        others.copies[points[1]] = CopyThere(end=LogPoint(points[2], 21))
        others.have(points[2], points[3])
        await log.mend_damages(gives_up=complete)
        assert await met(log, 20) == (20, 21)
        assert (await log.read(21, 1, 22, asks=False)).next_offset == 22

    virtual(main)


def test_g12_what_another_node_gave_up_is_taken_in_the_place_of_damage_and_of_nothing_else() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        here = shelf.copy()
        others = Others(shelf)
        broker.store.good_copies.ask = others.ask
        points = [await position_of(log, offset) for offset in range(19, 24)]
        rot(shelf, points[1], 0)
        rot(shelf, points[2], 0)
        await met(log, 20)
        await log.mend_damages(gives_up=complete)
        given_up = bytes(shelf.logs[NAME].data[points[1] : points[3]])

        broker = await start(here)
        log = await broker.log()
        broker.store.good_copies.ask = others.ask
        others.copies[points[1]] = CopyThere(given_up)
        rot(here, points[1], 0)
        assert await met(log, 20) == (20, 21)
        await log.mend_damages()
        assert (await log.read(21, 1, 22, asks=False)).next_offset == 22, "this one is whole here"
        rot(here, points[2], 0)
        again = await (await start(here)).log()
        again._good.ask = others.ask
        assert await met(again, 20) == (20, 22)
        await again.mend_damages()
        assert here.logs[NAME].data[points[1] : points[3]] == given_up

    virtual(main)


def test_g12_where_not_every_node_answered_it_is_the_callers_to_give_up() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        others = Others(shelf)
        others.is_complete = False
        broker.store.good_copies.ask = others.ask
        rot(shelf, await position_of(log, 20))
        await met(log, 20)
        ((_, tried),) = await log.mend_damages(gives_up=complete)
        assert tried.outcome is Mended.NO
        assert not tried.is_complete
        assert "offsets-lost" not in broker.kinds
        await log.mend_damages(gives_up=lambda *_: True)
        assert "offsets-lost" in broker.kinds

    virtual(main)


@pytest.mark.parametrize("at", [0, HEADER_BYTES], ids=["header", "body"])
def test_r5_what_opened_a_reign_is_named_by_who_knows_it_and_the_history_is_the_same(at: int) -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf, reigns=2)
        opened = log.history[1]
        end = await position_of(log, MESSAGES // 2)
        others = Others(shelf)
        others.copies[opened.start_position] = CopyThere(end=LogPoint(end, MESSAGES // 2), reign=opened)
        others.have(end, await position_of(log, MESSAGES // 2 + 1))
        await broker.store.leave()
        rot(shelf, opened.start_position, at)
        broker = await start(shelf)
        log = await broker.log()
        broker.store.good_copies.ask = others.ask
        assert log.hides_reign
        await log.mend_damages()  # a replica: it gives nothing up, and knows what reign it is
        assert not log.hides_reign
        assert log.history[1] == opened
        await log.mend_damages(anew=True, gives_up=complete)
        again = await (await start(shelf)).log()
        assert not again.hides_reign
        assert again.history[1] == opened

    virtual(main)


def test_r5_what_opened_a_reign_that_no_node_knows_is_named_alike_by_all() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf, reigns=2)
        opened = log.history[1]
        await broker.store.leave()
        rot(shelf, opened.start_position)
        histories = []
        for node in (shelf.copy(), shelf.copy()):
            broker = await start(node)
            log = await broker.log()
            others = Others(node)
            broker.store.good_copies.ask = others.ask
            others.is_complete = False
            await log.mend_damages(gives_up=lambda *_: True)
            assert log.hides_reign, "a node that does not answer may know it"
            others.is_complete = True
            await trio.sleep(ASK_AGAIN_S)
            await log.mend_damages(gives_up=complete)
            assert not log.hides_reign
            histories.append((await (await start(node)).log()).history[:2])
        assert histories[0] == histories[1]
        assert histories[0][1][1] not in (UNKNOWN_REIGN, opened.reign_id)

    virtual(main)


def test_g17_a_crash_at_each_step_of_giving_up_leaves_damage_or_what_says_so() -> None:
    async def main() -> None:
        whole = Shelf()
        broker, log = await filled(whole)
        position = await position_of(log, 20)
        await broker.store.leave()
        rot(whole, position)
        asides = set()
        for steps in range(40):
            shelf = whole.copy()
            broker = await start(shelf)
            log = await broker.log()
            broker.store.good_copies.ask = Others(shelf).ask
            shelf.crash_after = steps
            with suppress(Crashed):
                await log.mend_damages(gives_up=complete)
            ended = shelf.crash_after >= 0
            shelf.crash_after = None
            shelf.crash()
            broker = await start(shelf)
            log = await broker.log()
            broker.store.good_copies.ask = Others(shelf).ask
            assert await met(log, 20) == (20, 21)
            await log.mend_damages(gives_up=complete)
            assert await met(log, 20) == (20, 21)
            assert [damage.is_given_up for damage in log.damages] == [True]
            asides.add(len([name for name in shelf.logs if ".quarantine" in name]))
            if ended:
                break
        else:
            pytest.fail("it never ended")
        assert asides <= {1, 2}, "a torn write is kept, too"

    virtual(main)


def test_g12_what_a_storage_that_only_appends_cannot_give_up_stays_damaged() -> None:
    async def main() -> None:
        shelf = Shelf(in_place=False)
        broker, log = await filled(shelf)
        broker.store.good_copies.ask = Others(shelf).ask
        rot(shelf, await position_of(log, 20))
        assert await met(log, 20) == (20, 21)
        names = {*shelf.logs}
        ((damage, tried),) = await log.mend_damages(gives_up=complete)
        assert not damage.is_given_up
        assert tried.outcome is Mended.NO
        assert {*shelf.logs} == names, "nothing is kept aside for it"
        assert "offsets-lost" not in broker.kinds

    virtual(main)


def test_g10_what_cannot_be_kept_aside_is_not_given_up() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker, log = await filled(shelf)
        broker.store.good_copies.ask = Others(shelf).ask
        rotten = range(2, 2 + QUARANTINES_MAX + 1)
        for position in [await position_of(log, offset) for offset in rotten]:
            rot(shelf, position)
        for offset in rotten:
            await met(log, offset)
        with pytest.raises(StorageError, match="remove some") as refused:
            await log.mend_damages(gives_up=complete)
        assert refused.value.kind == "full"
        assert [damage.is_given_up for damage in log.damages] == [True] * QUARANTINES_MAX + [False]
        await broker.store.delete_log(next(name for name in shelf.logs if ".quarantine" in name))
        await log.mend_damages(gives_up=complete)
        assert all(damage.is_given_up for damage in log.damages)

    virtual(main)


def test_g10_two_nodes_that_gave_up_the_same_in_two_ways_have_it_as_the_one_that_reigns() -> None:
    """One knows who sent it; on the other the header has rotted."""

    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"first"), batch(b"second", producer_id=7), batch(b"third")])
        await broker.store.flush([log])
        points = [await position_of(log, offset) for offset in (1, 2)]
        await broker.store.leave()
        nodes = []
        for node, at in ((shelf.copy(), 0), (shelf.copy(), HEADER_BYTES)):
            rot(node, points[0], at)
            broker = await start(node)
            log = await broker.log()
            others = Others(node)
            broker.store.good_copies.ask = others.ask
            await log.mend_damages(gives_up=complete)
            nodes.append((log, others, node.logs[NAME]))
        (log, others, here), (_, _, there) = nodes
        differs = bytes(there.data[points[0] : points[1]])
        assert here.data[points[0] : points[1]] != differs
        others.copies[points[0]] = CopyThere(differs)
        await log.mend_damages(anew=True)
        assert here.data[points[0] : points[1]] != differs, "of two that reign, or two that do not, none is right"
        others.copies[points[0]] = CopyThere(differs, is_followed=True)
        await log.mend_damages(anew=True)
        assert here.data[points[0] : points[1]] == differs
        assert [damage.is_given_up for damage in log.damages] == [True]

    virtual(main)
