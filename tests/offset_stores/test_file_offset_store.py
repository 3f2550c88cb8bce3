"""The offset store ``file`` on a model disk: what was answered outlives every power cut, and damage is told."""

from __future__ import annotations

import contextlib
import random

import pytest

from mqcore.abc import CommitStamp, Cursor, CursorKey, GroupCursors, OffsetStoreContext
from mqcore.errors import (
    ConfigurationError,
    MqcoreError,
    OffsetStoreForeignError,
    OffsetStoreOutcomeUnknownError,
    OffsetStoreUnavailableError,
)
from mqcore.registry import create_offset_store
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore_file_offsets import FileOffsetStore
from mqcore_file_offsets._format import file_name

FOLDER = "/offsets"
GROUP = "g"
PATH = f"{FOLDER}/{file_name(GROUP)}"


def store(disk: ModelDisk, seed: int = 1, call_timeout_ms: int = 1_000, query: str = "") -> FileOffsetStore:
    context = OffsetStoreContext(ports=model_ports(seed, disk), call_timeout_ms=call_timeout_ms)
    part = create_offset_store(f"file://{FOLDER}{query}", context)
    assert isinstance(part, FileOffsetStore)
    return part


def at(number: int) -> GroupCursors:
    """What a group holds after the commit ``number`` of ``put``."""
    return GroupCursors(
        CommitStamp(1, number), {CursorKey("t", 0): Cursor(number, 1), CursorKey("t", 1): Cursor(number, 1)}
    )


async def put(part: FileOffsetStore, number: int) -> None:
    wanted = at(number)
    await part.commit(GROUP, wanted.stamp, wanted.cursors)


async def load(disk: ModelDisk) -> GroupCursors:
    """What a process that starts now loads."""
    part = store(disk, 9)
    try:
        return await part.load(GROUP)
    finally:
        await part.aclose()


@pytest.fixture
def disk() -> ModelDisk:
    return ModelDisk(seeded(3, "disk"))


def test_a_commit_that_was_answered_is_there_after_any_power_cut(disk: ModelDisk) -> None:
    async def main() -> None:
        part = store(disk)
        for number in range(1, 5):
            await put(part, number)
            for state in disk.crash_states():
                assert await load(state) == at(number)
        await part.aclose()

    run_simulation(main)


def test_a_power_cut_at_any_call_leaves_the_old_cursors_or_the_new_ones() -> None:
    async def main(calls: int, seed: int) -> int:
        disk = ModelDisk(seeded(seed, "disk"))
        part = store(disk, query="?rewrite_bytes_min=1024")
        number = 0
        disk.kill_at(disk.call_count + calls, power_cut=True)
        with contextlib.suppress(OSError, MqcoreError):
            while number < 40:  # long enough that the file is written anew in between
                await put(part, number + 1)
                number += 1
        await part.aclose()
        disk.power_cut(random.Random(seed))
        found = await load(disk.restart())
        assert found in ([at(number), at(number + 1)] if number else [GroupCursors(), at(1)])
        other = store(disk.restart(), 2)
        await put(other, number + 2)  # what a crash left is no obstacle
        assert await other.load(GROUP) == at(number + 2)
        await other.aclose()
        return number

    reached = {run_simulation(main, calls, calls % 7) for calls in range(1, 160, 3)}
    assert min(reached) == 0
    assert max(reached) > 10


def test_what_a_killed_owner_left_unflushed_is_made_durable_before_it_is_shown() -> None:
    async def main(calls: int) -> bool:
        disk = ModelDisk(seeded(5, "disk"))
        owner = store(disk)
        await put(owner, 1)
        disk.kill_at(disk.call_count + calls)
        with contextlib.suppress(OSError, MqcoreError):
            await put(owner, 2)
        was_killed = not disk.alive
        await owner.aclose()
        disk = disk.restart()
        shown = await load(disk)
        for state in disk.crash_states():
            assert await load(state) == shown
        return was_killed and shown == at(2)

    assert any([run_simulation(main, calls) for calls in range(1, 12)])


def test_after_a_failed_flush_nothing_of_the_file_is_believed(disk: ModelDisk) -> None:
    """The cache shows what the disk does not hold, and a second flush says that all is well: it is read again."""

    async def main() -> None:
        part = store(disk)
        await put(part, 1)
        disk.fail_next_flush(path="*.cursors")
        with pytest.raises(OffsetStoreOutcomeUnknownError, match="the next commit settles it"):
            await put(part, 2)
        await put(part, 3)
        for state in disk.crash_states():
            assert await load(state) == at(3)
        await part.aclose()

    run_simulation(main)


def test_a_full_disk_refuses_in_one_line_and_loses_nothing(disk: ModelDisk) -> None:
    async def main() -> None:
        part = store(disk)
        await put(part, 1)
        large = {CursorKey(f"{each}".ljust(200, "x"), 0): Cursor(1, 1) for each in range(100)}
        disk.bytes_max = disk.used_bytes + 4096
        for number in (2, 3):
            with pytest.raises(OffsetStoreUnavailableError, match="make room") as refused:
                await part.commit(GROUP, CommitStamp(1, number), large)
            assert "\n" not in str(refused.value)
        assert (await part.load(GROUP)).cursors == at(1).cursors
        disk.bytes_max = None
        await put(part, 4)
        assert await load(disk) == at(4)
        await part.aclose()

    run_simulation(main)


@pytest.mark.parametrize("position", [3, 40, 90])
def test_a_damaged_file_is_told_and_never_begun_anew(disk: ModelDisk, position: int) -> None:
    async def main() -> None:
        part = store(disk)
        for number in range(1, 4):
            await put(part, number)
        await part.aclose()
        disk.rot(PATH, position)
        before = disk.content(PATH)
        for call in (load(disk), put(store(disk, 2), 4)):
            with pytest.raises(OffsetStoreForeignError, match="put back a copy of it, or move it away"):
                await call
        assert disk.content(PATH) == before

    run_simulation(main)


def test_another_program_s_file_is_refused_and_left_as_it_is(disk: ModelDisk) -> None:
    async def main() -> None:
        disk.make_directory(FOLDER)
        file = disk.open(PATH, create=True)
        file.pwritev([b"something else\n"], 0)
        file.close()
        with pytest.raises(OffsetStoreForeignError, match="no file of this offset store"):
            await put(store(disk), 1)
        assert disk.content(PATH) == b"something else\n"

    run_simulation(main)


def test_a_disk_that_does_not_answer_ends_the_call_in_time(disk: ModelDisk) -> None:
    async def main() -> None:
        part = store(disk, call_timeout_ms=200)
        await put(part, 1)
        disk.stall_next("flush", 5, path="*.cursors")
        with pytest.raises(OffsetStoreOutcomeUnknownError, match="no answer within 200 ms"):
            await put(part, 2)
        await part.aclose()

    run_simulation(main)


def test_a_file_does_not_grow_with_the_number_of_commits(disk: ModelDisk) -> None:
    async def main() -> None:
        part = store(disk, query="?rewrite_bytes_min=1024")
        for number in range(1, 200):
            await put(part, number)
            assert len(disk.content(PATH)) < 4096
        assert await load(disk) == at(199)
        await part.aclose()

    run_simulation(main)


def test_a_url_without_a_directory_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs the path of a directory"):
        create_offset_store("file:///", OffsetStoreContext(ports=model_ports(1, ModelDisk(seeded(1, "disk")))))
