"""Checkpoints: opening costs what the tail costs, and none is trusted that the log does not bear out."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf_storage import NAME, Shelf, batch, read_all, sent, start

from mqcore.log import ACCEPT, Duplicate

SIDECAR = f"{NAME}.state"
BATCHES = [batch(bytes([65 + number]) * 900, producer_id=5, first_sequence=number) for number in range(40)]


@pytest.fixture(autouse=True)
def _small_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqcore.log._partition_log.CHECKPOINT_FIRST_BYTES", 4_000)
    monkeypatch.setattr("mqcore.log._partition_log.CHECKPOINT_SPACING_BYTES", 8_000)
    monkeypatch.setattr("mqcore.log._partition_log.CHECKPOINT_SHARE", 0)


def written(*, flush_every: int = 4, clean: bool = False, count: int = 40) -> Shelf:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        for number, each in enumerate(BATCHES[:count]):
            await log.append([each])
            if number % flush_every == flush_every - 1:
                await broker.store.flush([log])
        if clean:
            await broker.store.aclose()

    trio.run(main)
    return shelf


def bytes_read(shelf: Shelf) -> int:
    """Bytes of the log that opening it reads."""
    from shelf_storage import ShelfLog

    total = 0
    read = ShelfLog.read

    async def counting(self: ShelfLog, position: int, size: int) -> memoryview:
        nonlocal total
        view = await read(self, position, size)
        total += len(view) if self.name == NAME else 0
        return view

    async def main() -> None:
        await (await start(shelf)).log()

    ShelfLog.read = counting  # type: ignore[method-assign]
    try:
        trio.run(main)
    finally:
        ShelfLog.read = read  # type: ignore[method-assign]
    return total


def test_opening_after_a_clean_stop_reads_one_header_of_the_log() -> None:
    shelf = written(clean=True)
    assert bytes_read(shelf) == 104


def test_opening_after_a_kill_reads_the_tail_and_no_more() -> None:
    shelf = written()
    assert bytes_read(shelf) < 12_000 < shelf.logs[NAME].end // 2


def test_a_small_log_has_no_sidecar() -> None:
    assert SIDECAR not in written(count=3).logs


def test_what_was_known_before_is_known_after() -> None:
    shelf = written()
    history = []

    async def before() -> None:
        log = await (await start(shelf.copy())).log()
        history.extend(log.history)

    async def main() -> None:
        log = await (await start(shelf)).log()
        assert log.history == history
        assert await read_all(log) == sent(BATCHES)
        assert log.check([BATCHES[39].header]) == [Duplicate(39, 40)]
        assert log.check([batch(b"x", producer_id=5, first_sequence=40).header]) == [ACCEPT]

    trio.run(before)
    trio.run(main)


@settings(deadline=None, max_examples=80)
@given(at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
def test_g12_a_damaged_sidecar_is_told_and_made_again_from_the_log(at: int, bit: int) -> None:
    shelf = written(clean=True)
    sidecar = shelf.logs[SIDECAR]
    sidecar.data[at % len(sidecar.data)] ^= 1 << bit

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        assert await read_all(log) == sent(BATCHES)
        assert log.check([BATCHES[39].header]) == [Duplicate(39, 40)]
        assert set(broker.kinds) <= {"sidecar-damaged"}

    trio.run(main)


def test_g12_a_sidecar_damaged_everywhere_is_told() -> None:
    shelf = written(clean=True)
    sidecar = shelf.logs[SIDECAR]
    for at in range(0, len(sidecar.data), 64):
        sidecar.data[at] ^= 0xFF

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        assert broker.kinds == ["sidecar-damaged"]
        assert await read_all(log) == sent(BATCHES)

    trio.run(main)


def test_a_checkpoint_of_what_a_crash_took_is_not_believed() -> None:
    shelf = written(flush_every=10)
    for stored in shelf.logs.values():  # the sidecar got to the disk, the log's last batches did not
        if stored is shelf.logs[NAME]:
            del stored.data[stored.durable - 5_000 - stored.start :]
            stored.durable = stored.end
        else:
            stored.durable = stored.end

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        found = await read_all(log)
        assert found == sent(BATCHES)[: len(found)]
        for number in range(8):  # the log goes another way over the same positions
            await log.append([batch(bytes([97 + number]) * 900)])
        await broker.store.flush([log])
        again = await (await start(shelf.copy())).log()
        assert again.end_offset == log.end_offset
        assert await read_all(again) == await read_all(log)

    trio.run(main)


def test_g02_a_checkpoint_above_the_durable_mark_does_not_hide_a_torn_batch_below_it() -> None:
    shelf = written(flush_every=100)  # nothing is flushed, the checkpoints lie about in the page cache
    shelf.logs[NAME].data[4_000] ^= 1

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        found = await read_all(log)
        assert found == sent(BATCHES)[: len(found)]
        assert len(found) < 5
        assert broker.kinds == ["log-torn"]
        assert log.check([BATCHES[39].header]) != [Duplicate(39, 40)]

    trio.run(main)


def test_a_checkpoint_of_another_course_of_the_same_log_is_not_believed() -> None:
    shelf = written(clean=True)
    other = Shelf()

    async def main() -> None:
        broker = await start(other)
        log = await broker.log()
        for number in range(40):  # the same sizes and offsets, other content
            await log.append([batch(bytes([97 + number]) * 900, producer_id=5, first_sequence=number)])
        await broker.store.aclose()
        other.logs[SIDECAR] = shelf.logs[SIDECAR]
        broker = await start(other)
        log = await broker.log()
        assert broker.kinds == ["sidecar-damaged"]
        last = batch(bytes([97 + 39]) * 900, producer_id=5, first_sequence=39)
        assert log.check([last.header]) == [Duplicate(39, 40)]

    trio.run(main)


def test_the_sidecar_is_bounded() -> None:
    shelf = Shelf(segment_bytes=4096)

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        for number in range(4_000):
            await log.append([batch(b"x" * 900, producer_id=5, first_sequence=number)])
            if number % 50 == 0:
                await broker.store.flush([log])
        sidecar = shelf.logs[SIDECAR]
        assert sidecar.end > 3_000_000
        assert len(sidecar.data) < 1_200_000

    trio.run(main)


def test_r15_epochs_and_producers_survive_trimming() -> None:
    shelf = written()
    shelf.segment_bytes = 1_000

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"later")])
        assert await log.trim(35) == 35
        assert shelf.logs[NAME].start > 30_000
        await broker.store.flush([log])
        assert await read_all(log, 35) == sent([*BATCHES[35:], batch(b"later")])
        history = log.history
        assert [entry.number for entry in history] == [1, 2]
        assert log.check([BATCHES[3].header]) == [Duplicate(3, 4)]

        shelf.crash()
        again = await (await start(shelf)).log()
        assert again.start_offset == 35
        assert again.history == history
        assert again.check([BATCHES[3].header]) == [Duplicate(3, 4)]
        assert await read_all(again, 35) == sent([*BATCHES[35:], batch(b"later")])

    trio.run(main)


def test_r15_a_trim_of_what_is_not_flushed_yet_is_no_damage_after_a_power_cut() -> None:
    shelf = written()
    shelf.segment_bytes = 1_000

    async def main() -> None:
        log = await (await start(shelf)).log()
        await log.append([batch(b"not flushed")])
        assert await log.trim(35) == 35
        shelf.crash()
        again = await (await start(shelf)).log()
        assert (again.start_offset, again.damages) == (35, [])
        assert await read_all(again, 35) == sent([*BATCHES[35:], batch(b"not flushed")])

    trio.run(main)


def test_trimming_keeps_the_last_batch_and_never_goes_back() -> None:
    shelf = written()

    async def main() -> None:
        log = await (await start(shelf)).log()
        assert await log.trim(1_000) == 39
        assert await log.trim(5) == 39
        assert await read_all(log, 39) == sent(BATCHES[39:])

    trio.run(main)


def test_truncation_is_durable_and_rolls_producers_and_epochs_back() -> None:
    shelf = written()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"second reign")])
        await log.truncate(20)
        assert (log.end_offset, [entry.number for entry in log.history]) == (20, [1])
        assert log.check([BATCHES[20].header]) == [ACCEPT]
        assert log.check([BATCHES[19].header]) == [Duplicate(19, 20)]
        assert await read_all(log) == sent(BATCHES[:20])
        shelf.crash()
        log = await (await start(shelf)).log()
        assert await read_all(log) == sent(BATCHES[:20])
        assert await log.append([batch(b"other")]) == [20]
        assert log.history[-1].start_offset == 20

    trio.run(main)
