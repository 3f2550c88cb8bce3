"""R12: ends of producers are batches of the log: truncation, recovery and a copy agree on who has ended."""

from __future__ import annotations

import attrs
import pytest
import trio
from shelf_storage import LIMITS, NAME, Broker, Shelf, batch, read_all, sent, start

from mqcore.errors import StorageError
from mqcore.log import ACCEPT, Duplicate, Forgotten, PartitionLog, ProducerEnd

FEW = attrs.evolve(LIMITS, producers_max=2)
FIRST, SECOND, THIRD = (batch(b"%d" % number, producer_id=number) for number in (1, 2, 3))


async def ended(shelf: Shelf) -> tuple[Broker, PartitionLog]:
    """A log with producers 1 and 2, of which 1 ended, and 3, which needed the room."""
    broker = await start(shelf, limits=FEW)
    log = await broker.log()
    await log.append([FIRST])
    await log.append([SECOND])
    assert log.note_end(ProducerEnd(1, 0, 1))
    assert log.check([THIRD.header]) == [ACCEPT]
    assert await log.append([THIRD]) == [2], "the end takes no offset"
    return broker, log


def test_r12_recovery_finds_who_ended_and_a_reader_is_not_told_of_it() -> None:
    async def main() -> None:
        shelf = Shelf()
        _, log = await ended(shelf)
        assert await read_all(log) == sent([FIRST, SECOND, THIRD])
        before = log.producers.snapshot()
        again = await (await start(shelf, limits=FEW)).log()
        assert again.producers.snapshot() == before
        assert again.check([FIRST.header]) == [Forgotten()]
        assert again.check([SECOND.header]) == [Duplicate(1, 2)]

    trio.run(main)


def test_r12_truncation_brings_back_who_ended_behind_the_cut() -> None:
    async def main() -> None:
        _, log = await ended(Shelf())
        await log.truncate(2)
        assert log.check([FIRST.header]) == [Duplicate(0, 1)]
        assert log.check([SECOND.header]) == [Duplicate(1, 2)]

    trio.run(main)


def test_r12_an_append_that_fails_writes_no_end_and_the_next_one_does() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf, limits=FEW)
        log = await broker.log()
        await log.append([FIRST, SECOND])
        log.note_end(ProducerEnd(1, 0, 1))
        shelf.fail_appends.append(StorageError("no", kind="full", appended=True))
        before = bytes(shelf.logs[NAME].data)
        with pytest.raises(StorageError):
            await log.append([THIRD])
        assert bytes(shelf.logs[NAME].data) == before
        assert log.check([FIRST.header]) == [Duplicate(0, 1)]
        await log.append([THIRD])
        assert log.check([FIRST.header]) == [Forgotten()]

    trio.run(main)
