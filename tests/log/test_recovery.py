"""Recovery of one log: the tail, damage below the durable mark, crashes during recovery (G02, G04, G12, G17)."""

from __future__ import annotations

import pytest
import trio
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf_storage import (
    NAME,
    SALT,
    Crashed,
    Shelf,
    batch,
    read_all,
    sent,
    start,
)

from mqcore.batch import seal_body, unpack_header
from mqcore.errors import StorageError
from mqcore.log import ACCEPT, DamagedRangeError, Duplicate, IncomingBatch

QUARANTINE = f"{NAME}.quarantine-"


def written(batches: list[IncomingBatch], flush_after: int) -> Shelf:
    """A shelf on which a broker appended ``batches``, flushed after some of them, and was killed."""
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        for number, each in enumerate(batches):
            if number == flush_after:
                await broker.store.flush([log])
            await log.append([each])
        if flush_after >= len(batches):
            await broker.store.flush([log])

    trio.run(main)
    return shelf


def boundaries(shelf: Shelf) -> list[int]:
    """Positions where batches begin, and the end."""
    data, at, found = shelf.logs[NAME].data, 0, [0]
    while at < len(data):
        at += unpack_header(data[at:]).size
        found.append(at)
    return found


THREE = [batch(b"a" * 5, producer_id=7), batch(b"b" * 3, b"c", producer_id=7, first_sequence=1), batch(b"d" * 9)]


def test_g02_a_tail_cut_at_every_byte_ends_at_the_last_whole_batch() -> None:
    shelf = written(THREE, 1)
    whole = boundaries(shelf)
    durable = shelf.logs[NAME].durable

    async def main() -> None:
        for cut in range(durable, whole[-1] + 1):
            torn = shelf.copy()
            torn.crash(tail=cut - durable)
            broker = await start(torn)
            log = await broker.log()
            kept = [each for each in THREE if whole[THREE.index(each) + 2] <= cut]
            assert await read_all(log) == sent(kept)
            assert torn.logs[NAME].end == max(each for each in whole if each <= cut)
            assert ("log-torn" in broker.kinds) == (cut not in whole)

    trio.run(main)


def test_g04_a_flip_above_the_durable_mark_is_never_served_and_goes_to_quarantine() -> None:
    shelf = written(THREE, 1)
    whole = boundaries(shelf)
    durable = shelf.logs[NAME].durable

    async def main() -> None:
        for at in range(durable, whole[-1]):
            torn = shelf.copy()
            torn.logs[NAME].data[at] ^= 0x10
            broker = await start(torn)
            log = await broker.log()
            good = sum(end <= at for end in whole[2:])
            assert await read_all(log) == sent(THREE[:good])
            (quarantine,) = (name for name in torn.logs if name.startswith(QUARANTINE))
            cut_off = bytearray(shelf.logs[NAME].data[whole[good + 1] :])
            cut_off[at - whole[good + 1]] ^= 0x10
            assert torn.logs[quarantine].data.split(b"\n", 1)[1] == cut_off
            (notice,) = broker.notices
            assert notice.kind == "log-torn"
            assert notice.facts["position"] == whole[good + 1]
            assert notice.facts["end_position"] == whole[-1]

    trio.run(main)


def test_g12_a_flip_below_the_durable_mark_costs_its_own_batch_only_and_is_told() -> None:
    shelf = written(THREE, 3)
    whole = boundaries(shelf)
    firsts = [0, 1, 3, 4]

    async def main() -> None:
        for at in range(whole[1], whole[-1]):  # the epoch batch has a test of its own
            hurt = shelf.copy()
            hurt.logs[NAME].data[at] ^= 0x01
            broker = await start(hurt)
            log = await broker.log()
            victim = sum(end <= at for end in whole[2:])
            assert "log-damaged" in broker.kinds
            assert hurt.logs[NAME].end == whole[-1], "nothing below the mark is ever cut"
            with pytest.raises(DamagedRangeError) as caught:
                await log.read(firsts[victim], 1 << 20, log.end_offset)
            assert caught.value.first_offset == firsts[victim]
            if victim < 2:
                assert caught.value.next_offset == firsts[victim + 1]
            else:
                assert caught.value.next_offset >= firsts[victim + 1]
            before = [] if victim == 0 else await read_all_until(log, firsts[victim])
            after = await read_all(log, caught.value.next_offset)
            assert before + after == sent(THREE[:victim] + THREE[victim + 1 :])

    async def read_all_until(log, end):  # type: ignore[no-untyped-def]
        result = await log.read(0, 1 << 20, end)
        assert result.next_offset == end
        return sent(THREE[: [0, 1, 3].index(end)])

    trio.run(main)


def test_g12_appends_go_on_after_damage_at_the_end_and_no_offset_is_used_twice() -> None:
    shelf = written(THREE, 3)
    shelf.logs[NAME].data[boundaries(shelf)[3] + 20] ^= 0xFF  # the last header: nobody knows how much it held

    async def main() -> None:
        for _ in range(2):
            broker = await start(shelf)
            log = await broker.log()
            end = log.end_offset
            assert end > 4
            (offset,) = await log.append([THREE[0]])
            assert offset == end
            await broker.store.flush([log])
            assert await read_all(log, end) == sent([THREE[0]])
        with pytest.raises(DamagedRangeError):
            await log.read(3, 1 << 20, log.end_offset)

    trio.run(main)


def test_g12_a_damaged_epoch_batch_takes_no_message_with_it() -> None:
    shelf = written(THREE, 3)

    async def main() -> None:
        for at in range(boundaries(shelf)[1]):
            hurt = shelf.copy()
            hurt.logs[NAME].data[at] ^= 0x80
            broker = await start(hurt)
            log = await broker.log()
            assert "log-damaged" in broker.kinds
            assert await read_all(log) == sent(THREE)
            assert log.epoch_at(2) == 1

    trio.run(main)


def test_g17_recovering_twice_gives_the_same_bytes() -> None:
    shelf = written(THREE, 1)
    shelf.crash(tail=boundaries(shelf)[3] + 11 - shelf.logs[NAME].durable, zeros=500)

    async def main() -> None:
        await (await start(shelf)).log()
        once = bytes(shelf.logs[NAME].data)
        await (await start(shelf)).log()
        assert bytes(shelf.logs[NAME].data) == once

    trio.run(main)


def test_g17_a_crash_at_every_step_of_recovery_then_recovery_equals_one_recovery() -> None:
    shelf = written(THREE, 1)
    shelf.crash(tail=boundaries(shelf)[3] + 11 - shelf.logs[NAME].durable, zeros=500)

    async def main() -> None:
        reference = shelf.copy()
        await (await start(reference)).log()
        steps = len(reference.operations)
        assert steps > 5
        for crash_after in range(steps):
            attempt = shelf.copy()
            attempt.crash_after = crash_after
            with pytest.raises(Crashed):
                await (await start(attempt)).log()
            attempt.crash_after = None
            broker = await start(attempt)
            log = await broker.log()
            assert attempt.logs[NAME].data == reference.logs[NAME].data
            assert await read_all(log) == sent(THREE[:2])

    trio.run(main)


def test_zeros_after_the_end_are_cut_off_in_silence() -> None:
    shelf = written(THREE, 3)
    end = shelf.logs[NAME].end
    shelf.logs[NAME].data += bytes(3_000_000)

    async def main() -> None:
        broker = await start(shelf)
        await broker.log()
        assert shelf.logs[NAME].end == end
        assert broker.notices == []

    trio.run(main)


def test_g04_stale_batches_of_another_log_or_of_earlier_offsets_are_no_continuation() -> None:
    shelf = written(THREE, 3)
    data = shelf.logs[NAME].data
    whole = boundaries(shelf)
    stale = bytes(data[whole[1] : whole[2]])

    async def main() -> None:
        same_log = shelf.copy()
        same_log.logs[NAME].data += stale
        log = await (await start(same_log)).log()
        assert await read_all(log) == sent(THREE)
        other = shelf.copy()
        log = await (await start(other)).log(salt=99)
        with pytest.raises(DamagedRangeError):
            await log.read(0, 1, 1)

    trio.run(main)


def test_batches_of_a_newer_format_are_refused_by_version_and_never_cut() -> None:
    shelf = written(THREE, 1)
    at = boundaries(shelf)[2]
    data = shelf.logs[NAME].data
    data[at + 4] = 2
    data[at + 100 : at + 104] = crc32c(bytes(data[at : at + 100]), SALT).to_bytes(4, "little")
    before = bytes(data)

    async def main() -> None:
        broker = await start(shelf)
        with pytest.raises(StorageError, match="format version 2") as caught:
            await broker.log()
        assert caught.value.kind == "foreign"
        assert shelf.logs[NAME].data == before

    trio.run(main)


def test_r12_a_retry_after_a_kill_is_a_duplicate() -> None:
    shelf = written(THREE, 3)

    async def main() -> None:
        log = await (await start(shelf)).log()
        assert log.check([THREE[0].header, THREE[1].header]) == [Duplicate(0, 1), Duplicate(1, 3)]
        assert log.check([batch(b"new", producer_id=7, first_sequence=3).header]) == [ACCEPT]

    trio.run(main)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_g01_g02_whatever_the_crash_leaves_the_flushed_is_there_and_the_rest_is_a_prefix(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=4), min_size=1, max_size=12))
    batches = [batch(*[bytes([65 + number]) * size for size in each]) for number, each in enumerate(sizes)]
    flushed = data.draw(st.integers(0, len(batches)))
    shelf = written(batches, flushed)
    shelf.segment_bytes = data.draw(st.sampled_from([64, 1000, 1 << 30]))
    stored = shelf.logs[NAME]
    durable = stored.durable
    tail = bytearray(stored.data[durable:])
    for at in data.draw(st.lists(st.integers(0, max(0, len(tail) - 1)), max_size=3)):
        if tail:
            tail[at // 512 * 512 : at // 512 * 512 + 512] = bytes(512)[: len(tail) - at // 512 * 512]
    stored.data[durable:] = tail[: data.draw(st.integers(0, len(tail)))]

    async def main() -> None:
        log = await (await start(shelf)).log()
        found = await read_all(log)
        assert found == sent(batches)[: len(found)]
        assert len(found) >= flushed
        (offset,) = await log.append([batch(b"next")])
        assert offset == sum(len(each) for each in sizes[: len(found)])

    trio.run(main)


@pytest.mark.parametrize("flush_after", [0, 9])
@pytest.mark.parametrize(("at", "value", "words"), [(4, 2, "version 2"), (8, 0x20, "attribute bits 0x20")])
def test_g12_a_batch_of_a_newer_version_is_not_cut_whether_it_was_flushed_or_not(
    flush_after: int, at: int, value: int, words: str
) -> None:
    shelf = written(THREE, flush_after)
    begin, end = boundaries(shelf)[1:3]
    newer = bytearray(shelf.logs[NAME].data[begin:end])
    newer[at] = value
    seal_body(newer)
    newer[100:104] = crc32c(bytes(newer[:100]), SALT).to_bytes(4, "little")
    shelf.logs[NAME].data[begin:end] = newer
    before = bytes(shelf.logs[NAME].data)

    async def main() -> None:
        broker = await start(shelf)
        with pytest.raises(StorageError, match=f"{words}.*use the one that wrote them") as caught:
            await broker.log()
        assert caught.value.kind == "foreign"

    trio.run(main)
    assert bytes(shelf.logs[NAME].data) == before
    assert not [name for name in shelf.logs if name.startswith(QUARANTINE)]
