"""Bytes that should be there and are not: damage with its range, loud, and no offset is used again (G05, G12)."""

from __future__ import annotations

import itertools

import pytest
import trio
from shelf_storage import TOPIC_ID, Broker, Crashed, Shelf, ShelfLog, ShelfStorage, batch, read_all, sent, start

from mqcore.errors import CorruptionError
from mqcore.log import (
    Damage,
    DamagedRangeError,
    LogFinding,
    LogPoint,
    MetadataLog,
    PartitionLog,
    partition_log_name,
    partition_salt,
    verify_storage,
)
from mqcore.log._ends import CleanEnds

NAME = partition_log_name(TOPIC_ID, 0)
BATCHES = [batch(b"%04d" % number * 100) for number in range(60)]


async def opened(broker: Broker) -> PartitionLog:
    return await broker.store.open_log(NAME, salt=partition_salt(TOPIC_ID, 0))


async def written(shelf: Shelf, *, clean: bool = True) -> None:
    """Three reigns of twenty batches each."""
    for number in range(3):
        broker = await start(shelf)
        if number == 0:
            await MetadataLog(broker.store).append([{"type": "topic"}])
        log = await opened(broker)
        await log.append(BATCHES[20 * number : 20 * number + 20])
        await broker.store.flush([log])
        if clean or number < 2:
            await broker.store.aclose()


async def verified(shelf: Shelf) -> LogFinding:
    found = {finding.name: finding async for finding in verify_storage(ShelfStorage(shelf), name=NAME)}
    return found[NAME]


async def first_damage(log: PartitionLog, offset: int) -> DamagedRangeError:
    with pytest.raises(DamagedRangeError) as caught:
        await log.read(offset, 1 << 20, log.end_offset)
    return caught.value


def whole_of(damages: list[Damage]) -> tuple[int, int, int, int]:
    """The one range that neighbouring ones make: a batch of which the header is left is a range of its own."""
    assert all(one.end_position == next_.position for one, next_ in itertools.pairwise(damages))
    return damages[0].position, damages[-1].end_position, damages[0].first_offset, damages[-1].next_offset


def lose_start(shelf: Shelf, size: int) -> None:
    stored = shelf.logs[NAME]
    del stored.data[:size]
    stored.start += size


def lose_end(shelf: Shelf, size: int) -> int:
    """Cut ``size`` bytes; return the position that is the end then."""
    stored = shelf.logs[NAME]
    del stored.data[-size:]
    stored.durable = min(stored.durable, stored.end)
    return stored.end


@pytest.mark.parametrize("clean", [True, False])
def test_g12_a_missing_beginning_without_a_trim_is_damage_with_its_range(clean: bool) -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf, clean=clean)
        lose_start(shelf, 10_000)
        finding = await verified(shelf)
        assert (finding.state, finding.is_sound) == ("damaged", False)
        (damage,) = finding.damages
        assert (damage.first_offset, damage.next_offset > 10) == (0, True)
        broker = await start(shelf)
        log = await opened(broker)
        assert "log-damaged" in broker.kinds
        assert (log.start_offset, log.end_offset, log.damages) == (0, 60, [damage])
        for offset in (0, damage.next_offset - 1):
            error = await first_damage(log, offset)
            assert (error.first_offset, error.next_offset) == (0, damage.next_offset)
        assert await read_all(log, damage.next_offset) == sent(BATCHES[damage.next_offset :])
        assert await log.append([batch(b"more")]) == [60]

    trio.run(main)


def test_r15_a_recorded_trim_is_no_damage_and_a_hole_behind_it_is() -> None:
    async def main() -> None:
        shelf = Shelf(segment_bytes=2_000)
        await written(shelf, clean=False)
        broker = await start(shelf)
        log = await opened(broker)
        await log.trim(30)
        kept = log.start_offset
        assert shelf.logs[NAME].start > 0
        await broker.store.aclose()
        assert (await verified(shelf)).state == "whole"
        broker = await start(shelf)
        assert ((await opened(broker)).start_offset, broker.notices) == (kept, [])

        lose_start(shelf, 4_000)
        broker = await start(shelf)
        log = await opened(broker)
        (damage,) = log.damages
        assert (log.start_offset, damage.first_offset) == (kept, kept)
        assert (await verified(shelf)).damages == (damage,)
        assert (await first_damage(log, kept)).next_offset == damage.next_offset
        assert await read_all(log, damage.next_offset) == sent(BATCHES[damage.next_offset :])
        assert [entry.number for entry in log.history] == [1, 2, 3], "the checkpoint still knows the reigns"

    trio.run(main)


def test_r13_metadata_that_were_compacted_are_whole_without_the_sidecar_that_recorded_it() -> None:
    async def main() -> None:
        shelf = Shelf(segment_bytes=2_000)
        broker = await start(shelf)
        metadata = MetadataLog(broker.store)
        for _ in range(10):
            await metadata.append([{"type": "old", "text": "x" * 500}])
        await metadata.compact([{"type": "new"}])
        await metadata.append([{"type": "newer"}])
        assert shelf.logs["metadata"].start > 0
        del shelf.logs["metadata.state"]
        broker = await start(shelf)
        assert await MetadataLog(broker.store).replay() == [{"type": "new"}, {"type": "newer"}]

    trio.run(main)


@pytest.mark.parametrize("size", [100, 700, 9_000])
def test_g05_a_missing_end_after_a_clean_stop_is_damage_and_its_offsets_are_not_used_again(size: int) -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        whole = shelf.logs[NAME].end
        end = lose_end(shelf, size)
        finding = await verified(shelf)
        (damage,) = finding.damages
        assert (finding.state, damage.next_offset, damage.end_position) == ("damaged", 60, whole)
        assert damage.position <= end
        broker = await start(shelf)
        log = await opened(broker)
        assert "log-damaged" in broker.kinds
        assert (log.end_offset, log.end_position) == (60, whole)
        assert whole_of(log.damages) == damage[:4]
        assert await read_all(log, 0, end_offset=damage.first_offset) == sent(BATCHES[: damage.first_offset])
        assert (await first_damage(log, damage.first_offset)).next_offset in (damage.first_offset + 1, 60)
        assert (await first_damage(log, 59)).next_offset == 60
        assert await log.append([batch(b"more")]) == [60]
        await broker.store.aclose()
        for _ in range(2):  # loud again, and still with its range
            broker = await start(shelf)
            log = await opened(broker)
            assert whole_of(log.damages) == damage[:4]
            assert await read_all(log, 60) == sent([batch(b"more")])

    trio.run(main)


def test_g05_a_storage_that_takes_a_lost_end_for_longer_than_it_was_costs_no_offsets() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        end = lose_end(shelf, 9_000)
        stored = shelf.logs[NAME]
        stored.data += bytes(50_000)
        stored.durable = stored.end
        finding = await verified(shelf)
        assert (finding.state, finding.end_offset, finding.end_position) == ("damaged", 60, end + 50_000)
        broker = await start(shelf)
        log = await opened(broker)
        assert whole_of(log.damages) == whole_of(list(finding.damages))
        assert (log.end_offset, log.end_position) == (60, end + 50_000)
        assert await log.append([batch(b"more")]) == [60]

    trio.run(main)


def test_g17_a_crash_while_the_end_is_filled_loses_no_proof() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        lose_end(shelf, 9_000)
        for crash_after in itertools.count():
            attempt = shelf.copy()
            attempt.crash_after = crash_after
            try:
                await opened(await start(attempt))
            except Crashed:
                attempt.crash_after = None
                attempt.crash()
            else:
                break
            for _ in range(2):
                log = await opened(await start(attempt))
                assert log.end_offset == 60
        assert crash_after > 6

    trio.run(main)


def test_r5_a_log_that_was_cut_on_purpose_has_no_missing_end() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        broker = await start(shelf)
        log = await opened(broker)
        await log.truncate(25)
        shelf.crash()
        broker = await start(shelf)
        log = await opened(broker)
        assert (log.end_offset, broker.notices) == (25, [])
        assert (await verified(shelf)).state == "whole"

    trio.run(main)


def test_g12_a_log_that_is_gone_is_told_at_the_start_and_not_begun_anew() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        del shelf.logs[NAME]
        assert (await verified(shelf)).state == "damaged"
        broker = await start(shelf)
        assert broker.kinds == ["logs-missing"]
        for _ in range(2):
            with pytest.raises(CorruptionError, match="the log is missing although it held messages"):
                await opened(broker)
        await broker.store.delete_log(NAME)
        assert (await start(shelf)).kinds == []

    trio.run(main)


def test_g12_a_missing_middle_is_unreadable_and_no_more() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        shelf.logs[NAME].data[8_000:16_000] = bytes(8_000)  # a storage reads a file that is gone as zeros
        first, second = (await verified(shelf)).damages  # a batch of which the header is left, then zeros
        assert first.end_position == second.position
        broker = await start(shelf)
        log = await opened(broker)
        assert [each[:4] for each in log.damages] == [first[:4], second[:4]]
        assert await read_all(log, 0, end_offset=first.first_offset) == sent(BATCHES[: first.first_offset])
        assert await read_all(log, second.next_offset) == sent(BATCHES[second.next_offset :])
        assert first.first_offset < first.next_offset == second.first_offset < second.next_offset < 60

    trio.run(main)


async def grown(shelf: Shelf) -> PartitionLog:
    """A log that was never stopped: sixty batches, flushed one after the other; what was noted of it is durable."""
    broker = await start(shelf)
    log = await opened(broker)
    for each in BATCHES:
        await log.append([each])
        await broker.store.flush([log])
    shelf.logs["clean-ends"].durable = shelf.logs["clean-ends"].end
    return log


def test_g12_a_log_that_is_gone_after_a_kill_is_missed_although_no_stop_was_clean() -> None:
    async def main() -> None:
        shelf = Shelf()
        await grown(shelf)
        shelf.crash()
        del shelf.logs[NAME]
        findings = [finding async for finding in verify_storage(ShelfStorage(shelf))]
        assert [(each.name, each.state) for each in findings if not each.is_sound] == [(NAME, "damaged")]
        broker = await start(shelf)
        assert broker.kinds == ["logs-missing"]
        with pytest.raises(CorruptionError, match="the log is missing although it held messages"):
            await opened(broker)

    trio.run(main)


def test_g05_an_end_that_is_gone_after_a_kill_is_damage_and_none_of_its_offsets_is_used_again() -> None:
    async def main() -> None:
        shelf = Shelf()
        noted = await ends_of(shelf, await grown(shelf))
        shelf.crash()
        left = lose_end(shelf, shelf.logs[NAME].end - 50)
        assert 50 == left < noted.position < BATCHES[0].header.size * 60
        finding = await verified(shelf)
        assert finding.state == "damaged"
        broker = await start(shelf)
        log = await opened(broker)
        assert log.end_position == noted.position
        assert log.end_offset == finding.end_offset > 60, "it had grown since, nobody knows how far"
        assert (await first_damage(log, 0)).next_offset == log.end_offset

    trio.run(main)


async def ends_of(shelf: Shelf, log: PartitionLog) -> LogPoint:
    """What is noted of ``log`` on the disk."""
    ends = CleanEnds(ShelfLog("clean-ends", shelf.copy()), flush=ShelfStorage(shelf).flush, report=[].append)
    await ends.read()
    assert not ends.is_exact(log.name)
    return ends.of(log.name)


def test_an_end_is_noted_once_a_flush_has_come_so_far_and_not_with_each() -> None:
    async def main() -> None:
        shelf = Shelf()
        log = await grown(shelf)
        assert shelf.operations.count("append clean-ends") == 1
        assert (await ends_of(shelf, log)).offset == 1, "what one flush made durable, noted by the append after it"

    trio.run(main)
