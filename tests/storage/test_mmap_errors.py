"""What the mmap storage says of a directory or a file that it cannot use: which and why, and never an empty start."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from mqcore.abc import Log, StorageContext
from mqcore.errors import CorruptionError, FlushFailedError, StorageError
from mqcore.ports import system_ports
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore.url import Url
from mqcore_mmap import MmapStorage

LAYOUT = "mqcore-mmap.layout"


def make(root: Path | str, **options: int) -> MmapStorage:
    return MmapStorage(
        Url.parse(f"mmap://{root}"), MmapStorage.options_class(**options), StorageContext(ports=system_ports(1))
    )


def use(root: Path | str, body: Callable[[MmapStorage], Awaitable[Any]], **options: int) -> Any:
    async def main() -> Any:
        backend = make(root, **options)
        await backend.open()
        try:
            return await body(backend)
        finally:
            await backend.aclose()

    return trio.run(main)


async def nothing(_: MmapStorage) -> None:
    pass


def write(root: Path, sizes: list[int], **options: int) -> Path:
    """Make a storage with one log "a" of appends of these sizes, closed cleanly; return its segments' folder."""

    async def body(backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        for number, size in enumerate(sizes):
            await log.append([bytes([number + 1]) * size])
        await backend.flush([log])

    use(root, body, **options)
    return root / "segments"


async def open_a(backend: MmapStorage) -> Log:
    return await backend.open_log("a")


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0x40]))


# ---- the directory -----------------------------------------------------------------------------------------------


def test_two_brokers_in_one_directory_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    async def body(_: MmapStorage) -> None:
        with pytest.raises(StorageError, match=f"another broker has {tmp_path}") as caught:
            await make(tmp_path).open()
        assert caught.value.kind == "busy"

    use(tmp_path, body)
    use(tmp_path, nothing)  # and the lock is free afterwards


@pytest.mark.parametrize("name", ["README", "segments/x"])
def test_a_directory_with_something_else_in_it_is_never_initialised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("not ours")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="not a storage of mqcore") as caught:
        use(tmp_path, nothing)
    assert caught.value.kind == "foreign"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_in_place_of_the_directory_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="not a directory"):
        use(tmp_path / "f", nothing)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no does not exist") as caught:
        use(tmp_path / "no" / "such", nothing)
    assert caught.value.kind == "foreign"


def test_a_segment_file_shorter_than_what_was_flushed_into_it_is_damage_and_named(tmp_path: Path) -> None:
    segments = write(tmp_path, [30000])
    (path,) = [path for path in segments.iterdir() if path.name.startswith("a@")]
    os.truncate(path, 20000)
    with pytest.raises(CorruptionError, match=r"cut off.*at least 34096 bytes, found 20000"):
        use(tmp_path, open_a)


def test_another_layout_version_is_said_and_not_touched(tmp_path: Path) -> None:
    import struct

    from crc32c import crc32c

    write(tmp_path, [10])
    layout = tmp_path / LAYOUT
    body = bytearray(layout.read_bytes()[:-4])
    struct.pack_into("<H", body, 8, 99)
    layout.write_bytes(bytes(body) + struct.pack("<I", crc32c(bytes(body))))
    with pytest.raises(StorageError, match="version 99") as caught:
        use(tmp_path, nothing)
    assert caught.value.kind == "foreign"


@pytest.mark.parametrize("damage", [b"", b"x" * 30, None])
def test_a_damaged_layout_file_is_damage(tmp_path: Path, damage: bytes | None) -> None:
    write(tmp_path, [10])
    layout = tmp_path / LAYOUT
    if damage is None:
        flip(layout, 12)
    else:
        layout.write_bytes(damage)
    with pytest.raises(CorruptionError, match="damaged layout file"):
        use(tmp_path, nothing)


def test_a_lost_layout_file_is_not_answered_by_starting_empty(tmp_path: Path) -> None:
    write(tmp_path, [10])
    (tmp_path / LAYOUT).unlink()
    with pytest.raises(StorageError, match="not a storage of mqcore"):
        use(tmp_path, nothing)


@pytest.mark.parametrize("name", ["journal-0", "journal-1"])
def test_a_damaged_or_lost_journal_is_damage(tmp_path: Path, name: str) -> None:
    write(tmp_path, [10])
    flip(tmp_path / name, 20)
    with pytest.raises(CorruptionError, match=f"{name}: damaged journal header"):
        use(tmp_path, nothing)
    (tmp_path / name).unlink()
    with pytest.raises(CorruptionError, match="journal is missing"):
        use(tmp_path, nothing)


@pytest.mark.parametrize("call", ["list", "lock", "open"])
def test_no_permission_is_said(call: str) -> None:
    disk = ModelDisk(1)
    disk.fail_next(call, errno.EACCES)

    async def main() -> None:
        backend = MmapStorage(
            Url.parse("mmap:///s"), MmapStorage.options_class(), StorageContext(ports=model_ports(1, disk))
        )
        with pytest.raises(StorageError, match="permission") as caught:
            await backend.open()
        assert caught.value.kind == "permission"

    run_simulation(main)


# ---- segments ----------------------------------------------------------------------------------------------------


def test_a_damaged_segment_header_is_damage(tmp_path: Path) -> None:
    (segment,) = write(tmp_path, [10]).iterdir()
    flip(segment, 40)
    with pytest.raises(CorruptionError, match=f"{segment.name}: damaged segment header"):
        use(tmp_path, open_a)


def test_both_marks_damaged_is_damage_and_one_is_not(tmp_path: Path) -> None:
    (segment,) = write(tmp_path, [10]).iterdir()
    flip(segment, 530)
    assert use(tmp_path, open_a).durable_end == 10
    (segment,) = write(tmp_path / "other", [10]).iterdir()
    flip(segment, 530)
    flip(segment, 1042)
    with pytest.raises(CorruptionError, match="both durable marks"):
        use(tmp_path / "other", open_a)


def test_a_segment_under_the_name_of_another_is_damage(tmp_path: Path) -> None:
    first, second = sorted(write(tmp_path, [5000, 5000], segment_bytes=8192, ready_segments_max=0).iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptionError, match="not the segment that its name says"):
        use(tmp_path, open_a)


def test_a_segment_of_another_storage_is_damage(tmp_path: Path) -> None:
    (mine,) = write(tmp_path / "1", [10]).iterdir()

    async def body(backend: MmapStorage) -> None:
        await (await backend.open_log("a")).append([b"x" * 10])

    backend = MmapStorage(
        Url.parse(f"mmap://{tmp_path}/2"), MmapStorage.options_class(), StorageContext(ports=system_ports(2))
    )

    async def main() -> None:
        await backend.open()
        await body(backend)
        await backend.aclose()

    trio.run(main)
    (other,) = (tmp_path / "2" / "segments").iterdir()
    mine.write_bytes(other.read_bytes())
    with pytest.raises(CorruptionError, match="not the segment that its name says"):
        use(tmp_path / "1", open_a)


def test_an_unknown_file_among_the_segments_is_said(tmp_path: Path) -> None:
    (write(tmp_path, [10]) / "core").write_text("?")
    with pytest.raises(CorruptionError, match="no segment; move it elsewhere"):
        use(tmp_path, nothing)


# ---- the journal -------------------------------------------------------------------------------------------------


def leave_in_journal(root: Path, sets: int) -> None:
    """Let a process flush three logs ``sets`` times through the journal and die."""
    child = f"""
import os, trio
from mqcore_mmap import MmapStorage
from mqcore.abc import StorageContext
from mqcore.ports import system_ports
from mqcore.url import Url
async def main():
    backend = MmapStorage(Url.parse("mmap://{root}"), MmapStorage.options_class(), StorageContext(ports=system_ports()))
    await backend.open()
    logs = [await backend.open_log(name) for name in "abc"]
    for number in range({sets}):
        for log in logs:
            await log.append([bytes([number + 1]) * 100])
        assert [each.end for each in await backend.flush(logs)] == [100 * (number + 1)] * 3
    os.kill(os.getpid(), 9)
trio.run(main)
"""
    assert subprocess.run([sys.executable, "-c", child], check=False).returncode == -9


def test_what_only_the_journal_has_is_there_after_a_kill_even_if_no_segment_file_is(tmp_path: Path) -> None:
    leave_in_journal(tmp_path, 3)
    for path in (tmp_path / "segments").iterdir():
        path.unlink()  # as after a power cut that took every file that was not flushed

    async def body(backend: MmapStorage) -> None:
        assert await backend.list_logs() == ["a", "b", "c"]
        for name in "abc":
            log = await backend.open_log(name)
            assert log.durable_end == 300
            assert bytes(await log.read(0, 300)) == b"\1" * 100 + b"\2" * 100 + b"\3" * 100

    use(tmp_path, body)


def test_a_damaged_set_before_a_valid_one_is_damage_and_the_last_one_a_torn_tail(tmp_path: Path) -> None:
    leave_in_journal(tmp_path, 3)
    journal = tmp_path / "journal-0"
    content = journal.read_bytes()
    flip(journal, 2 * 4096 + 100)
    with pytest.raises(CorruptionError, match="set 2 of generation 1 does not count but set 3"):
        use(tmp_path, nothing)
    journal.write_bytes(content)
    flip(journal, 3 * 4096 + 100)

    async def body(backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        assert 200 <= log.durable_end <= 300

    use(tmp_path, body)


# ---- flushes (G11) -----------------------------------------------------------------------------------------------


def simulate(body: Callable[[ModelDisk, MmapStorage], Awaitable[None]]) -> None:
    disk = ModelDisk(3)
    backend = MmapStorage(
        Url.parse("mmap:///s"), MmapStorage.options_class(), StorageContext(ports=model_ports(1, disk))
    )

    async def main() -> None:
        await backend.open()
        await body(disk, backend)

    run_simulation(main)


@pytest.mark.parametrize("count", [1, 3])
def test_g11_after_a_failed_flush_its_logs_stop_and_show_only_what_was_durable_before(count: int) -> None:
    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        logs = [await backend.open_log(f"l{number}") for number in range(count)]
        other = await backend.open_log("other")
        for log in logs:
            await log.append([b"1" * 100])
        await backend.flush(logs)
        for log in logs:
            await log.append([b"2" * 100])
        disk.fail_next_flush()
        with pytest.raises(FlushFailedError) as caught:
            await backend.flush(logs)
        assert caught.value.logs == {log.name for log in logs}
        for log in logs:
            assert (log.end, log.durable_end) == (100, 100)
            with pytest.raises(StorageError, match="has stopped"):
                await log.append([b"3"])
            with pytest.raises(ValueError, match="outside"):
                await log.read(150, 1)
            assert bytes(await log.read(0, 200)) == b"1" * 100
            with pytest.raises(FlushFailedError):  # the second try proves nothing
                await backend.flush([log])
        await other.append([b"x"])
        assert [each.end for each in await backend.flush([other])] == [1]

    simulate(body)


def test_g11_a_flush_that_fails_after_its_caller_left_is_told() -> None:
    told: list[FlushFailedError] = []

    async def test() -> None:
        disk = ModelDisk(1)
        context = StorageContext(ports=model_ports(1, disk), stopped=told.append)
        backend = MmapStorage(Url.parse("mmap:///data"), MmapStorage.options_class(), context)
        await backend.open()
        log = await backend.open_log("a")
        await log.append([b"x" * 1000])
        await backend.flush([log])
        await log.append([b"y" * 1000])
        disk.latency_us["flush"] = 500_000
        disk.fail_next_flush(path="*segments*")
        with trio.move_on_after(0.1) as scope:
            await backend.flush([log])
        assert scope.cancelled_caught
        with trio.move_on_after(60):
            while not told:  # noqa: ASYNC110 - what tells is no task
                await trio.sleep(0.1)
        assert [list(error.logs) for error in told] == [["a"]]
        assert log.end == log.durable_end == 1000
        await backend.aclose()

    run_simulation(test, seconds_max=100)


def test_g11_a_flush_does_not_count_when_its_file_was_removed(tmp_path: Path) -> None:
    async def body(backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x"])
        await backend.flush([log])
        await log.append([b"y"])
        for path in (tmp_path / "segments").glob("a@*"):
            path.unlink()
        with pytest.raises(FlushFailedError, match="was removed while it was in use"):
            await backend.flush([log])

    use(tmp_path, body)


def test_g11_a_flush_does_not_count_when_the_directory_was_replaced(tmp_path: Path) -> None:
    root = tmp_path / "s"

    async def body(backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x"])
        await backend.flush([log])
        root.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", root)
        await log.append([b"y"])
        with pytest.raises(FlushFailedError, match="moved or replaced"):
            await backend.flush([log])
        assert log.durable_end == 1

    use(root, body)


# ---- no space, no descriptors ------------------------------------------------------------------------------------


async def append_until_refused(log: Log) -> None:
    while True:
        end = log.end
        assert await log.append([b"x" * 10_000]) == end


def test_a_full_disk_rejects_before_a_byte_and_recovers_when_space_is_freed() -> None:
    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        other = await backend.open_log("b")
        disk.bytes_max = disk.used_bytes + 300_000
        with pytest.raises(StorageError, match="free space") as caught:
            await append_until_refused(log)
        accepted = log.end
        assert (caught.value.kind, caught.value.retryable, caught.value.appended) == ("full", True, False)
        assert accepted >= 100_000
        with pytest.raises(StorageError, match="free space"):
            await other.append([b"x" * 100_000])
        assert bytes(await log.read(accepted - 3, 3)) == b"xxx"
        assert [each.end for each in await backend.flush([log])] == [accepted]
        disk.bytes_max = None
        assert await log.append([b"y"]) == accepted
        assert await other.append([b"z"]) == 0

    simulate(body)


def test_no_descriptor_left_is_a_rejection_and_not_a_crash() -> None:
    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        disk.fail_next("open", errno.EMFILE, path="*unnamed*")
        with pytest.raises(StorageError, match="ulimit -n") as caught:
            await log.append([b"x"])
        assert (caught.value.kind, caught.value.retryable, caught.value.appended) == ("too-many-files", True, False)
        assert await log.append([b"x"]) == 0

    simulate(body)


def test_a_write_that_fails_midway_says_that_bytes_may_be_there() -> None:
    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x"])
        disk.fail_next("pwritev")
        with pytest.raises(StorageError) as caught:
            await log.append([b"y"])
        assert (caught.value.kind, caught.value.appended, caught.value.position) == ("io", True, 1)
        assert log.end == 1
        await log.truncate(1)
        assert await log.append([b"z"]) == 1

    simulate(body)


def test_a_log_whose_truncation_failed_is_not_opened_again_as_if_it_were_empty() -> None:
    """What it shows then is what was flushed, which is no content to recover from: G01, G12."""

    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x" * 100])
        disk.fail_next("pwritev")
        with pytest.raises(StorageError):
            await log.truncate(50)
        with pytest.raises(StorageError, match="has stopped"):
            await backend.open_log("a")

    simulate(body)


def test_a_hundred_logs_work_with_a_dozen_descriptors(tmp_path: Path) -> None:
    async def body(backend: MmapStorage) -> None:
        logs = [await backend.open_log(f"l{number}") for number in range(100)]
        for turn in range(3):
            for log in logs:
                assert await log.append([bytes([turn + 1]) * 5000]) == turn * 5000
            open_files = len(os.listdir("/proc/self/fd"))
            assert open_files < before + 12 + 12
            if turn == 1:
                await backend.flush(logs)
        for log in logs:
            assert bytes(await log.read(4999, 2)) == b"\1\2"

    before = len(os.listdir("/proc/self/fd"))
    use(tmp_path, body, open_files_max=12)


# ---- reading -----------------------------------------------------------------------------------------------------


def test_a_read_error_names_the_position_and_spares_the_process() -> None:
    async def body(disk: ModelDisk, backend: MmapStorage) -> None:
        log = await backend.open_log("a")
        await log.append([b"x" * 100])
        await backend.flush([log])
        disk.fail_reads("/s/segments/a@00000000000000000000", 4096, 50)
        with pytest.raises(StorageError, match="position 10") as caught:
            await log.read(10, 10)
        assert (caught.value.kind, caught.value.position) == ("io", 10)
        disk.heal()
        assert bytes(await log.read(10, 10)) == b"x" * 10

    simulate(body)


def test_a_file_cut_off_under_its_mapping_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    child = f"""
import os, trio
from mqcore_mmap import MmapStorage
from mqcore.abc import StorageContext
from mqcore.errors import StorageError
from mqcore.ports import system_ports
from mqcore.url import Url
async def main():
    context = StorageContext(ports=system_ports())
    backend = MmapStorage(Url.parse("mmap://{tmp_path}"), MmapStorage.options_class(), context)
    await backend.open()
    log = await backend.open_log("a")
    await log.append([b"x" * 30000])
    assert bytes(await log.read(29999, 1)) == b"x"
    (path,) = [entry.path for entry in os.scandir("{tmp_path}/segments")]
    os.truncate(path, 8192)
    for position in (29999, 5000):
        try:
            await log.read(position, 1)
        except StorageError as error:
            assert error.kind == "io", error
            print("told")
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "told\ntold\n"), done.stderr


def test_sigkill_in_the_middle_loses_nothing_that_was_flushed_or_appended(tmp_path: Path) -> None:
    child = f"""
import trio
from mqcore_mmap import MmapStorage
from mqcore.abc import StorageContext
from mqcore.ports import system_ports
from mqcore.url import Url
async def main():
    options, context = MmapStorage.options_class(segment_bytes=65536), StorageContext(ports=system_ports())
    backend = MmapStorage(Url.parse("mmap://{tmp_path}"), options, context)
    await backend.open()
    logs = [await backend.open_log(name) for name in "ab"]
    number = 0
    while True:
        number += 1
        for log in logs:
            await log.append([number.to_bytes(4, "big") * 250])
        ends = [each.end for each in await backend.flush(logs if number % 2 else logs[:1])]
        print(number, flush=True)
trio.run(main)
"""
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        seen = int(line)
        if seen >= 200:
            process.kill()
            break
    seen = max([seen, *(int(line) for line in process.stdout)])
    process.stdout.close()
    process.wait()

    async def body(backend: MmapStorage) -> None:
        for name in "ab":
            log = await backend.open_log(name)
            assert log.end >= seen * 1000
            assert log.durable_end >= (seen - 3) * 1000
            position = 0
            while position < seen * 1000:
                number = position // 1000 + 1
                view = await log.read(position, 1000)
                assert view == number.to_bytes(4, "big") * 250
                position += len(view)

    use(tmp_path, body, segment_bytes=65536)
