"""Batches that another node stamped: a copy is byte-identical, with the same state, or it is refused (R3, R4, G10)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence

import attrs
import pytest
import trio
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf_storage import LIMITS, NAME, SALT, Broker, Clock, Crashed, Shelf, Stored, batch, start

from mqcore.batch import HEADER_BYTES, stamp, unpack_header
from mqcore.errors import CorruptionError, OutcomeUnknownError, StorageError
from mqcore.log import MetadataLog, PartitionLog, ProducerEnd, divergence_of_histories
from mqcore.log._control import EpochFacts, pack_epoch_batch
from mqcore.log._quarantine import QUARANTINES_MAX

Cut = Callable[[], int]


def facts_of(log: PartitionLog) -> list[object]:
    """All that is known of a log."""
    state = log._state
    facts = [getattr(state, name) for name in state.__slots__ if name not in ("history", "index", "producers")]
    return [*facts, log.history, state.index.pack(), state.producers.snapshot()]


async def copy(source: PartitionLog, target: PartitionLog, cut: Cut = lambda: 1 << 20) -> None:
    """Append to ``target`` what ``source`` has and it lacks; ``cut``: sizes of reads."""
    while target.end_position < source.end_position:
        position = target.end_position
        chunks, following, _ = await source.read_stored(position, cut(), source.end_position)
        await target.append_foreign(chunks, position=position)
        assert target.end_position == following > position


async def followed(primary: Broker, shelf: Shelf | None = None) -> tuple[Broker, PartitionLog]:
    """A store that follows ``primary`` and has its metadata, and its copy of the log."""
    broker = await start(shelf or Shelf(), reign=False)
    await broker.store.join(primary.store.set_id)
    await broker.store.follow(primary.store.epoch, primary.store.reign_id)
    source, target = primary.store.metadata, broker.store.metadata
    point = divergence_of_histories(target.history, target.end, source.history, source.end)
    await target.truncate(point.offset, point.position)
    await copy(source, target)
    return broker, await broker.log()


async def three_reigns(shelf: Shelf) -> Broker:
    """A primary in its third reign, whose log has batches of all three."""
    broker = await start(shelf)
    for number in range(3):
        if number:
            await broker.store.leave()
            await broker.store.reign()
        log = await broker.log()
        for count in range(1, 4):
            sequence = 6 * number + count * (count - 1) // 2
            await log.append([batch(*[b"value"] * count, producer_id=9, first_sequence=sequence)])
    return broker


steps = st.lists(
    st.one_of(
        st.just("reign"),
        st.integers(1, 3),
        st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 900)),
    ),
    max_size=20,
)


@given(steps=steps, cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=8), stops=st.booleans())
@settings(max_examples=60, deadline=None)
def test_g10_a_copy_in_any_cuts_is_byte_identical_with_equal_state_and_again_after_recovery(
    steps: Sequence[str | int | tuple[int, int, int]], cuts: Sequence[int], stops: bool
) -> None:
    async def main() -> None:
        clock = Clock()
        shelf, copied = Shelf(segment_bytes=1000), Shelf(segment_bytes=700)
        # So few that each end is written at the next append, and does not wait for others.
        primary = await start(shelf, clock=clock, limits=attrs.evolve(LIMITS, producers_max=1))
        sequences = dict.fromkeys(range(1, 4), 0)
        ids = {number: number for number in range(4)}
        for step in steps:
            clock.now_ms += 70
            if isinstance(step, str):
                await primary.store.leave()
                await primary.store.reign()
                continue
            if isinstance(step, int):  # this producer ends, and another one goes on in its place
                log = await primary.log()
                log.note_end(ProducerEnd(ids[step], 0, sequences[step]))
                ids[step], sequences[step] = ids[step] + 3, 0
                continue
            producer, count, size = step
            values = [bytes(size)] * count
            made = batch(*values, producer_id=ids[producer], first_sequence=sequences.get(producer, 0))
            if producer:
                sequences[producer] += count
            await (await primary.log()).append([made])
        log = await primary.log()
        replica, target = await followed(primary, copied)
        sizes = iter(cuts * 1000)
        await copy(log, target, lambda: next(sizes))
        assert bytes(copied.logs[NAME].data) == bytes(shelf.logs[NAME].data)
        assert facts_of(target) == facts_of(log)
        for offset in range(log.end_offset):
            assert await target.read(offset, 1, log.end_offset) == await log.read(offset, 1, log.end_offset)
        assert await target.offset_at_time(clock.now_ms) == await log.offset_at_time(clock.now_ms)
        if stops:
            await replica.store.aclose()
        replica = await start(copied, reign=False)
        assert facts_of(await replica.log()) == facts_of(log)
        assert replica.notices == []

    trio.run(main)


def test_r13_the_metadata_log_can_be_copied_into_a_store_that_joined_the_set() -> None:
    async def main() -> None:
        primary = await start(Shelf())
        metadata = MetadataLog(primary.store)
        await metadata.append([{"type": "a"}, {"type": "b"}])
        shelf = Shelf()
        replica = await start(shelf, reign=False)
        await replica.store.join(primary.store.set_id)
        await replica.store.follow(primary.store.epoch, primary.store.reign_id)
        await copy(primary.store.metadata, replica.store.metadata)
        assert await MetadataLog(replica.store).replay() == [{"type": "a"}, {"type": "b"}]
        await replica.store.aclose()
        replica = await start(shelf)
        assert replica.store.epoch == 2
        assert [entry.number for entry in replica.store.metadata.history] == [1, 2]

    trio.run(main)


def test_r5_what_another_reign_lacks_is_kept_aside_and_cut_whatever_step_the_process_dies_at() -> None:
    """G10, G17: at every operation of ``part_at``, all of the suffix is in the log, in the side file, or in both."""

    async def main() -> None:
        shelf = Shelf()
        primary = await three_reigns(Shelf())
        replica, target = await followed(primary, shelf)
        source = await primary.log()
        await copy(source, target)
        await replica.store.flush([target])
        point = source.history[1].start_position
        whole = bytes(shelf.logs[NAME].data)
        steps = 0
        while True:
            tried = shelf.copy()
            log = await followed_log(tried, primary)
            tried.crash_after = steps
            try:
                name = await log.part_at(point)
            except Crashed:
                tried.crash_after = None
                tried.crash()
                log = await followed_log(tried, primary)
                await log.part_at(point)
            else:
                break
            sides = [each for each in tried.logs if each.startswith(f"{NAME}.quarantine-")]
            assert bytes(tried.logs[NAME].data) == whole[:point]
            assert [bytes(tried.logs[each].data).split(b"\n", 1)[1] for each in sides] == [whole[point:]]
            await copy(source, log)
            steps += 1
        assert steps > 3
        assert bytes(tried.logs[NAME].data) == whole[:point]
        title, rest = bytes(tried.logs[name].data).split(b"\n", 1)
        assert json.loads(title)["position"] == point
        assert rest == whole[point:]
        with pytest.raises(CorruptionError, match="no batch begins"):
            await log.part_at(point - 1)

    trio.run(main)


async def followed_log(shelf: Shelf, primary: Broker) -> PartitionLog:
    """The log of a store that was started anew and follows ``primary``."""
    broker = await start(shelf, reign=False)
    await broker.store.follow(primary.store.epoch, primary.store.reign_id)
    return await broker.log()


def test_r5_a_log_with_too_many_side_files_is_not_cut() -> None:
    async def main() -> None:
        primary = await three_reigns(Shelf())
        shelf = Shelf()
        _, target = await followed(primary, shelf)
        await copy(await primary.log(), target)
        point = target.history[1].start_position
        whole = bytes(shelf.logs[NAME].data)
        for number in range(QUARANTINES_MAX):
            shelf.logs[f"{NAME}.quarantine-1-{10_000 + number}"] = Stored(bytearray(b"{}\n"))
        log = await followed_log(shelf, primary)
        with pytest.raises(StorageError, match="side files are kept already") as caught:
            await log.part_at(point)
        assert caught.value.kind == "full"
        assert bytes(shelf.logs[NAME].data) == whole

    trio.run(main)


def test_r5_what_two_reigns_of_one_number_lack_is_kept_apart() -> None:
    """People may promote two nodes to one number; what the first side file holds does not go for the second."""

    async def main() -> None:
        primary = await three_reigns(Shelf())
        shelf = Shelf()
        replica, target = await followed(primary, shelf)
        source = await primary.log()
        await copy(source, target)
        point = source.history[1].start_position
        first = await target.part_at(point)
        held = bytes(shelf.logs[first].data)
        await copy(source, target, lambda: HEADER_BYTES)
        last = source.last_batch[2]
        await target.part_at(last)  # shorter than it was: what is kept of it now is not what is kept already
        second = await target.part_at(point)
        assert first != second
        assert bytes(shelf.logs[first].data) == held
        await replica.store.aclose()

    trio.run(main)


def test_r5_what_only_opened_reigns_is_cut_and_takes_no_side_file() -> None:
    async def main() -> None:
        primary = await start(Shelf())
        source = await primary.log()
        await source.append([batch(b"kept")])
        end = source.end_position
        await primary.store.leave()
        await primary.store.reign()
        source = await primary.log()
        await source.open_reign()
        shelf = Shelf()
        _, target = await followed(primary, shelf)
        await copy(source, target)
        assert target.end_position > end
        assert await target.part_at(end) is None
        assert target.end_position == end
        assert not [each for each in shelf.logs if ".quarantine-" in each]

    trio.run(main)


def test_g12_each_flipped_byte_is_refused_and_changes_nothing() -> None:
    async def main() -> None:
        primary = await three_reigns(Shelf())
        source = await primary.log()
        shelf = Shelf()
        _, target = await followed(primary, shelf)
        (whole,), _, _ = await source.read_stored(0, 1 << 20, source.end_position)
        before = facts_of(target)
        for at in range(len(whole)):
            hostile = bytearray(whole)
            hostile[at] ^= 0x10
            with pytest.raises(CorruptionError):
                await target.append_foreign([hostile], position=0)
            assert (facts_of(target), shelf.logs[NAME].end) == (before, 0)
        await copy(source, target)

    trio.run(main)


def batches_of(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        size = unpack_header(data[at : at + HEADER_BYTES]).size
        found.append(data[at : at + size])
        at += size
    return found


def restamped(data: bytes, *, salt: int = SALT, offset: int | None = None, epoch: int | None = None) -> bytes:
    """A batch with other facts, sealed as if it were the primary's."""
    changed = bytearray(data)
    header = unpack_header(data)
    new = header.base_offset if offset is None else offset, header.epoch if epoch is None else epoch
    struct.pack_into("<QQ", changed, 72, *new)
    struct.pack_into("<I", changed, HEADER_BYTES - 4, crc32c(bytes(changed[: HEADER_BYTES - 4]), salt))
    return bytes(changed)


def later_opening(opening: bytes) -> bytes:
    """The epoch batch of a reign that the primary does not know of."""
    stamped = bytearray(pack_epoch_batch(EpochFacts(9, bytes(16), bytes(16), 1)))
    header = unpack_header(opening)
    stamp(stamped, base_offset=header.base_offset, epoch=9, appended_ms=header.appended_ms, salt=SALT)
    return bytes(stamped)


HOSTILE = (
    "cut short",
    "cut in the header",
    "one left out",
    "one twice",
    "older",
    "of another log",
    "an epoch that nothing opened",
    "an epoch that goes back",
    "an epoch opened twice",
    "an opening of another epoch",
    "a later reign than the one followed",
)


def hostile_streams(good: list[bytes]) -> dict[str, tuple[list[bytes], str]]:
    """What must not be taken behind the first four of ``good`` (reign 1 whole); the fifth opens reign 2."""
    opening, first = good[4], good[5]
    return {
        "cut short": ([opening, first[:-1]], "batch is cut short"),
        "cut in the header": ([opening, first[:50]], "shorter than its header"),
        "one left out": ([good[4], good[6]], "another offset"),
        "one twice": ([opening, first, first], "another offset"),
        "older": ([good[1]], "another offset"),
        "of another log": ([restamped(opening, salt=SALT + 1)], "header checksum"),
        "an epoch that nothing opened": ([restamped(first, epoch=2)], "epoch 2 was not opened"),
        "an epoch that goes back": ([opening, restamped(first, epoch=1)], "epoch goes back"),
        "an epoch opened twice": ([opening, opening], "epoch 2 is opened twice"),
        "an opening of another epoch": ([restamped(opening, epoch=3)], "epoch batch of another epoch"),
        "a later reign than the one followed": ([later_opening(opening)], "a later reign than the one followed"),
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_follow_is_refused_precisely_and_changes_nothing(name: str) -> None:
    async def main() -> None:
        primary = await three_reigns(Shelf())
        source = await primary.log()
        (whole,), _, _ = await source.read_stored(0, 1 << 20, source.end_position)
        good = batches_of(bytes(whole))
        shelf = Shelf()
        _, target = await followed(primary, shelf)
        await target.append_foreign(good[:4], position=0)
        before, stored = facts_of(target), bytes(shelf.logs[NAME].data)
        hostile, text = hostile_streams(good)[name]
        with pytest.raises(CorruptionError, match=text):
            await target.append_foreign(hostile, position=target.end_position)
        assert (facts_of(target), bytes(shelf.logs[NAME].data)) == (before, stored)
        await copy(source, target)

    trio.run(main)


def test_batches_of_another_position_are_refused() -> None:
    async def main() -> None:
        primary = await three_reigns(Shelf())
        source = await primary.log()
        _, target = await followed(primary)
        chunks, following, _ = await source.read_stored(0, 1, source.end_position)
        for wrong in (1, following):
            with pytest.raises(CorruptionError, match=f"another position .expected 0, found {wrong}"):
                await target.append_foreign(chunks, position=wrong)

    trio.run(main)


def test_g09_a_second_reign_of_the_same_number_is_refused() -> None:
    async def main() -> None:
        one, other = await three_reigns(Shelf()), await three_reigns(Shelf())
        source = await other.log()
        _, target = await followed(one)
        (whole,), _, _ = await source.read_stored(0, 1 << 20, source.end_position)
        with pytest.raises(CorruptionError, match="reign 3 of another id"):
            await target.append_foreign([whole], position=0)
        replica, target = await followed(other)
        await copy(source, target)
        await replica.store.leave()
        await replica.store.follow(3, one.store.reign_id)
        with pytest.raises(CorruptionError, match="the log holds another reign 3"):
            await (await replica.log()).append_foreign([], position=source.end_position)

    trio.run(main)


@pytest.mark.parametrize("reigns", [False, True])
def test_r4_only_what_is_followed_is_taken(reigns: bool) -> None:
    async def main() -> None:
        primary = await three_reigns(Shelf())
        source = await primary.log()
        chunks, _, _ = await source.read_stored(0, 1 << 20, source.end_position)
        replica = await start(Shelf(), reign=reigns)
        with pytest.raises(StorageError, match="nothing is followed") as caught:
            await (await replica.log()).append_foreign(chunks, position=0)
        assert caught.value.kind == "closed"
        if not reigns:
            replica, _ = await followed(primary)
            await replica.store.leave()
            await replica.store.follow(3, primary.store.reign_id)
            late = await replica.log()
            await replica.store.leave()
            with pytest.raises(StorageError, match="following reign 3, in which it was opened, has ended"):
                await late.append_foreign(chunks, position=0)

    trio.run(main)


def test_an_append_of_a_copy_that_fails_half_way_leaves_nothing() -> None:
    async def main() -> None:
        primary = await three_reigns(Shelf())
        source = await primary.log()
        shelf = Shelf()
        _, target = await followed(primary, shelf)
        before = facts_of(target)
        shelf.fail_appends = [StorageError("half", kind="full", appended=True)]
        with pytest.raises(StorageError, match="was undone"):
            await copy(source, target)
        assert (facts_of(target), shelf.logs[NAME].end) == (before, 0)
        await copy(source, target)
        shelf.fail_appends = [StorageError("half", kind="io", appended=True)]
        shelf.fail_truncates = [StorageError("no", kind="io")]
        await (await primary.log()).append([batch(b"more")])
        with pytest.raises(OutcomeUnknownError):
            await copy(source, target)
        assert target.failed is not None

    trio.run(main)


counts = st.lists(st.integers(0, 2), max_size=3)


@given(shared=st.integers(0, 3), mine=counts, others=counts)
@settings(max_examples=60, deadline=None)
def test_r5_a_log_that_went_another_way_is_cut_at_the_divergence_and_copied_to_equality(
    shared: int, mine: list[int], others: list[int]
) -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        for _ in range(shared):
            await log.append([batch(b"shared", producer_id=5, first_sequence=log.end_offset)])
        other_shelf = shelf.copy()  # the two go apart here
        for store_shelf, counts, numbers in ((shelf, mine, (5, 7, 9)), (other_shelf, others, (6, 8, 10))):
            node = await start(store_shelf, reign=False)
            for count, number in zip(counts, numbers, strict=False):
                await node.store.reign(number)
                log = await node.log()
                await log.open_reign()
                for _ in range(count):
                    await log.append([batch(bytes([number]), producer_id=5, first_sequence=log.end_offset)])
                await node.store.leave()
        primary = await start(other_shelf, reign=False)
        await primary.store.reign(20)
        source = await primary.log()
        await source.open_reign()
        _, target = await followed(primary, shelf)
        old = bytes(shelf.logs[NAME].data)
        point = divergence_of_histories(target.history, target.end, source.history, source.end)
        assert divergence_of_histories(source.history, source.end, target.history, target.end) == point
        await target.truncate(point.offset, point.position)
        assert target.end == point
        assert old[: point.position] == bytes(other_shelf.logs[NAME].data[: point.position])
        if mine and shared:
            assert point.position < len(old), "what only this node stamped is cut"
        await copy(source, target)
        assert bytes(shelf.logs[NAME].data) == bytes(other_shelf.logs[NAME].data)
        assert facts_of(target) == facts_of(source)

    trio.run(main)
