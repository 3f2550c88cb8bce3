"""The coordinator ``file`` on a model disk: what was answered outlives every power cut."""

from __future__ import annotations

import contextlib
import random

import pytest
import trio

from mqcore.abc import CellPair, CellWrite, CoordinatorContext
from mqcore.errors import (
    ConfigurationError,
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CorruptionError,
    MqcoreError,
)
from mqcore.registry import create_coordinator
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore_file_coordinator import FileCoordinator
from mqcore_file_coordinator._format import decode_pair, encode_pair

FOLDER = "/coordinator"
NAME, PATH = "sets/a", f"{FOLDER}/sets+a"


def coordinator(disk: ModelDisk, seed: int = 1, call_timeout_ms: int = 1_000) -> FileCoordinator:
    context = CoordinatorContext(ports=model_ports(seed, disk), call_timeout_ms=call_timeout_ms)
    part = create_coordinator(f"file://{FOLDER}", context)
    assert isinstance(part, FileCoordinator)
    return part


def put(number: int) -> CellWrite:
    return CellWrite(b"value %d" % number, number.to_bytes(16, "big"))


async def read(disk: ModelDisk) -> CellPair:
    """What a process that starts now reads."""
    part = coordinator(disk, 9)
    try:
        return await part.read(NAME)
    finally:
        await part.aclose()


@pytest.fixture
def disk() -> ModelDisk:
    return ModelDisk(seeded(3, "disk"))


def test_a_write_that_was_answered_is_there_after_any_power_cut(disk: ModelDisk) -> None:
    async def main() -> None:
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        for state in disk.crash_states():
            assert await read(state) == first
        second = await part.write(NAME, first, lease=put(2))
        states = 0
        for state in disk.crash_states():
            assert await read(state) == second
            states += 1
        assert states >= 1
        await part.aclose()

    run_simulation(main)


def test_a_power_cut_in_a_write_leaves_the_old_pair_or_the_new_one(disk: ModelDisk) -> None:
    async def main(calls: int, seed: int) -> tuple[bool, bool]:
        disk = ModelDisk(seeded(seed, "disk"))
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        disk.kill_at(disk.call_count + calls, power_cut=True)
        answered = None
        try:
            answered = await part.write(NAME, first, record=put(2))
        except (OSError, MqcoreError):
            assert not disk.alive
        await part.aclose()
        disk.power_cut(random.Random(seed))
        found = await read(disk.restart())
        assert found.lease == first.lease
        assert found.record.write_id in (put(1).write_id, put(2).write_id)
        if answered is not None:
            assert found == answered
        return answered is not None, found.record.write_id == put(2).write_id

    seen: set[tuple[bool, bool]] = set()
    for calls in range(1, 30):
        for seed in range(20):
            seen.add(run_simulation(main, calls, seed))
    assert seen == {(False, False), (False, True), (True, True)}


def test_what_a_killed_writer_left_unflushed_is_made_durable_before_it_is_shown() -> None:
    """Who acts on what it read must find it again: the directory is flushed by the reader if not by the writer."""

    async def main(calls: int) -> bool:
        disk = ModelDisk(seeded(5, "disk"))
        writer = coordinator(disk)
        first = await writer.write(NAME, CellPair(), record=put(1))
        disk.kill_at(disk.call_count + calls)
        with contextlib.suppress(OSError, MqcoreError):
            await writer.write(NAME, first, record=put(2))
        was_killed = not disk.alive
        await writer.aclose()
        disk = disk.restart()
        reader = coordinator(disk, 2)
        shown = await reader.read(NAME)
        for state in disk.crash_states():
            assert await read(state) == shown
        await reader.aclose()
        return was_killed and shown != first

    assert any([run_simulation(main, calls) for calls in range(1, 20)])


def test_a_failed_flush_of_the_new_file_writes_nothing(disk: ModelDisk) -> None:
    async def main() -> None:
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        disk.fail_next_flush(path="*.new")
        with pytest.raises(CoordinatorUnreachableError, match="mend the file system"):
            await part.write(NAME, first, record=put(2))
        assert await part.read(NAME) == first
        third = await part.write(NAME, first, record=put(3))
        for state in disk.crash_states():
            assert await read(state) == third
        await part.aclose()

    run_simulation(main)


def test_a_failed_flush_of_the_directory_is_an_unknown_outcome(disk: ModelDisk) -> None:
    async def main() -> None:
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        disk.fail_next("flush_directory")
        with pytest.raises(CoordinatorOutcomeUnknownError, match="was not flushed"):
            await part.write(NAME, first, record=put(2))
        with pytest.raises(CoordinatorConflictError):
            await part.write(NAME, first, record=put(3))
        assert (await part.read(NAME)).record.write_id == put(2).write_id
        await part.aclose()

    run_simulation(main)


def test_a_damaged_file_is_loud_and_never_empty(disk: ModelDisk) -> None:
    async def main() -> None:
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        whole = disk.content(PATH)
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 1
            file = disk.open(PATH)
            file.pwritev([flipped], 0)
            file.close()
            with pytest.raises(CorruptionError, match="sets\\+a"):
                await part.read(NAME)
            with pytest.raises(CorruptionError):
                await part.write(NAME, CellPair(), record=put(2))
        assert first.record.value is not None
        await part.aclose()

    run_simulation(main)


def test_a_writer_waits_for_another_process_and_gives_up_without_having_written(disk: ModelDisk) -> None:
    async def main() -> None:
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        lock = disk.lock(f"{FOLDER}/.lock")
        began = trio.current_time()
        with pytest.raises(CoordinatorUnreachableError, match="other processes wrote"):
            await part.write(NAME, first, record=put(2))
        assert trio.current_time() - began == pytest.approx(1, abs=0.02)

        async def release() -> None:
            await trio.sleep(0.3)
            lock.release()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            assert (await part.write(NAME, first, record=put(3))).record.value == b"value 3"
        await part.aclose()

    run_simulation(main)


def test_a_disk_that_hangs_ends_calls_in_time_and_a_write_unknown(disk: ModelDisk) -> None:
    async def main() -> None:
        part = coordinator(disk)
        first = await part.write(NAME, CellPair(), record=put(1))
        disk.stall_next("flush", 30)
        began = trio.current_time()
        with pytest.raises(CoordinatorOutcomeUnknownError, match="no answer within 1000 ms"):
            await part.write(NAME, first, record=put(2))
        with pytest.raises(CoordinatorUnreachableError, match="no answer within 1000 ms"):
            await part.read(NAME)
        assert trio.current_time() - began == pytest.approx(2, abs=0.02)
        await trio.sleep(40)
        assert (await part.read(NAME)).record.write_id == put(2).write_id  # applied later, as unknown means
        await part.aclose()

    run_simulation(main)


def test_a_url_without_a_directory_is_refused() -> None:
    context = CoordinatorContext(ports=model_ports())
    for url in ("file://", "file:///", "file://relative"):
        with pytest.raises(ConfigurationError, match="path"):
            create_coordinator(url, context)


def test_a_pair_comes_back_from_its_file() -> None:
    pair = CellPair()
    assert decode_pair(encode_pair(pair), "x") == pair
    with pytest.raises(CorruptionError, match="x: no file of a coordinator"):
        decode_pair(b"", "x")
