"""The model disk behaves as the file system port says, and no better: each fault as guarantees section 7 states it."""

from __future__ import annotations

import errno
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.ports import File
from mqcore.testing import DiskCall, ModelDisk

A, B, C = b"a" * 512, b"b" * 512, b"c" * 512
ZERO = bytes(512)


def disk_with_file(content: bytes = b"", **options: int) -> tuple[ModelDisk, File]:
    """A disk on which /d/f exists with ``content``, everything durable."""
    disk = ModelDisk(1, **options)
    disk.make_directory("/d")
    disk.flush_directory("/")
    file = disk.open("/d/f", create=True)
    if content:
        file.pwritev([content], 0)
    file.flush()
    disk.flush_directory("/d")
    return disk, file


def contents(disk: ModelDisk, path: str = "/d/f") -> list[bytes]:
    return sorted(state.content(path) for state in disk.crash_states())


def names_after_crash(disk: ModelDisk, directory: str = "/d") -> set[tuple[str, ...]]:
    return {tuple(state.list(directory)) for state in disk.crash_states()}


# ---- what a process sees -----------------------------------------------------------------------------------------


def test_reads_see_writes_at_once() -> None:
    _, file = disk_with_file(A)
    assert file.pwritev([b"x", bytearray(b"y"), memoryview(b"z")], 510) == 3
    assert file.pread(10, 508) == b"aaxyz"
    assert file.size() == 513


def test_a_hole_and_a_longer_file_read_zeros() -> None:
    _, file = disk_with_file(A)
    file.pwritev([b"x"], 1024)
    file.truncate(2000)
    assert file.pread(4096, 512) == ZERO + b"x" + bytes(975)


def test_bytes_cut_off_do_not_come_back_when_the_file_grows() -> None:
    _, file = disk_with_file(A + B)
    file.truncate(100)
    file.truncate(1024)
    assert file.pread(2000, 0) == b"a" * 100 + bytes(924)


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (lambda disk: disk.open("/d/none"), FileNotFoundError),
        (lambda disk: disk.open("/none/f", create=True), FileNotFoundError),
        (lambda disk: disk.open("/d/f", create=True, exclusive=True), FileExistsError),
        (lambda disk: disk.open("/d"), IsADirectoryError),
        (lambda disk: disk.open("/d/f/x"), NotADirectoryError),
        (lambda disk: disk.stat("/d/none"), FileNotFoundError),
        (lambda disk: disk.list("/d/f"), NotADirectoryError),
        (lambda disk: disk.make_directory("/d/f"), FileExistsError),
        (lambda disk: disk.make_directory("/none/d"), FileNotFoundError),
        (lambda disk: disk.rename("/d/none", "/d/x"), FileNotFoundError),
        (lambda disk: disk.rename("/d", "/d/x"), OSError),
        (lambda disk: disk.unlink("/d/none"), FileNotFoundError),
        (lambda disk: disk.unlink("/d"), IsADirectoryError),
        (lambda disk: disk.remove_directory("/d"), OSError),
        (lambda disk: disk.open("/d/" + "n" * 256, create=True), OSError),
        (lambda disk: disk.open("d/f"), ValueError),
        (lambda disk: disk.open("/d/../f"), ValueError),
    ],
)
def test_wrong_paths_raise_what_the_system_raises(operation: object, error: type[Exception]) -> None:
    disk, _ = disk_with_file()
    with pytest.raises(error):
        operation(disk)  # type: ignore[operator]


def test_stat_tells_size_kind_device_and_an_inode_of_its_own() -> None:
    disk, _ = disk_with_file(A)
    facts, directory = disk.stat("/d/f"), disk.stat("/d")
    assert (facts.size_bytes, facts.is_directory, facts.device) == (512, False, 1)
    assert directory.is_directory
    assert facts.inode != directory.inode
    disk.rename("/d/f", "/d/g")
    assert disk.stat("/d/g").inode == facts.inode


def test_an_unlinked_file_goes_on_taking_writes_and_flushes_and_has_no_link() -> None:
    disk, file = disk_with_file(A)
    assert file.link_count() == 1
    disk.unlink("/d/f")
    file.pwritev([B], 0)
    file.flush()
    assert (file.link_count(), file.pread(512, 0)) == (0, B)


def test_a_file_replaced_by_a_rename_has_no_link() -> None:
    disk, file = disk_with_file(A)
    disk.open("/d/new", create=True)
    disk.rename("/d/new", "/d/f")
    assert file.link_count() == 0


def test_a_file_opened_for_reading_takes_no_writes() -> None:
    disk, _ = disk_with_file(A)
    with pytest.raises(OSError, match=r"\[Errno 9\]"):
        disk.open("/d/f", write=False).pwritev([B], 0)


def test_a_held_view_follows_the_file_and_tells_that_it_is_held() -> None:
    _, file = disk_with_file(A + B)
    mapping = file.map(1024)
    view = mapping.view(500, 24)
    mapping.close()
    assert mapping.held()
    file.pwritev([b"xy"], 511)
    assert bytes(view) == b"a" * 11 + b"xy" + b"b" * 11
    del view
    assert not mapping.held()


def test_a_view_of_a_file_cut_under_its_mapping_is_an_error_and_no_signal() -> None:
    _, file = disk_with_file(A + B)
    mapping = file.map(1024)
    file.truncate(512)
    assert mapping.view(0, 512) == A
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        mapping.view(0, 513)


# ---- power cuts --------------------------------------------------------------------------------------------------


def test_two_unflushed_sectors_leave_all_four_states() -> None:
    disk, file = disk_with_file(ZERO + ZERO)
    file.pwritev([A, B], 0)
    assert contents(disk) == sorted([ZERO + ZERO, A + ZERO, ZERO + B, A + B])


def test_a_write_is_torn_at_sectors_and_never_inside_one() -> None:
    disk, file = disk_with_file(A + A)
    file.pwritev([b"x" * 100], 462)
    outside, inside = b"a" * 462 + b"x" * 50, b"x" * 50 + b"a" * 462
    assert contents(disk) == sorted([A + A, outside + A, A + inside, outside + inside])


def test_an_earlier_version_of_an_unflushed_sector_may_be_what_survives() -> None:
    disk, file = disk_with_file(ZERO)
    file.pwritev([b"first"], 0)
    file.pwritev([b"second"], 5)
    assert [content[:11] for content in contents(disk)] == [bytes(11), b"first" + bytes(6), b"firstsecond"]


def test_flushed_bytes_survive_every_power_cut() -> None:
    disk, file = disk_with_file(ZERO)
    file.pwritev([A], 0)
    file.flush()
    file.pwritev([B], 512)
    assert {content[:512] for content in contents(disk)} == {A}


def test_an_unflushed_size_may_survive_without_its_bytes_and_bytes_not_without_the_size() -> None:
    disk, file = disk_with_file()
    file.pwritev([A], 0)
    assert contents(disk) == [b"", ZERO, A]


def test_an_unflushed_truncation_may_be_undone() -> None:
    disk, file = disk_with_file(A + B)
    file.truncate(512)
    assert contents(disk) == sorted([A, A + ZERO, A + B])
    file.flush()
    assert contents(disk) == [A]


def test_bytes_beyond_an_unflushed_truncation_may_come_back_under_a_later_append() -> None:
    disk, file = disk_with_file(A + B)
    file.truncate(512)
    file.pwritev([b"n"], 1024)
    assert A + B + b"n" in contents(disk)
    file.flush()
    assert contents(disk) == [A + ZERO + b"n"]


def test_flush_many_makes_every_file_durable() -> None:
    disk, file = disk_with_file()
    other = disk.open("/d/g", create=True)
    disk.flush_directory("/d")
    file.pwritev([A], 0)
    other.pwritev([B], 0)
    disk.flush_many([file, other])
    assert (contents(disk), contents(disk, "/d/g")) == ([A], [B])


def test_the_power_cut_changes_the_boot_id_and_a_kill_does_not() -> None:
    disk, _ = disk_with_file()
    boot_id = disk.boot_id()
    disk = disk.restart()
    assert disk.boot_id() == boot_id
    disk.power_cut(random.Random(1))
    assert disk.restart().boot_id() != boot_id


def test_random_power_cuts_reach_nothing_everything_and_between() -> None:
    seen = set()
    for seed in range(60):
        disk, file = disk_with_file(ZERO * 4)
        file.pwritev([A * 4], 0)
        disk.power_cut(random.Random(seed))
        seen.add(disk.restart().content("/d/f").count(b"a") // 512)
    assert seen == {0, 1, 2, 3, 4}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 3000), st.integers(1, 1500)),
            st.tuples(st.just("truncate"), st.integers(0, 4000), st.just(0)),
            st.tuples(st.just("flush"), st.just(0), st.just(0)),
        ),
        max_size=12,
    ),
    st.integers(0, 1000),
)
def test_flushed_content_is_exact_and_reads_are_those_of_a_plain_buffer(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    disk, file = disk_with_file()
    expected, flushed = bytearray(), b""
    for number, (step, position, size) in enumerate(steps):
        if step == "write":
            data = bytes([number + 1]) * size
            expected.extend(bytes(max(0, position + size - len(expected))))
            expected[position : position + size] = data
            file.pwritev([data], position)
        elif step == "truncate":
            del expected[position:]
            expected.extend(bytes(position - len(expected)))
            file.truncate(position)
        else:
            file.flush()
            flushed = bytes(expected)
        assert file.pread(10_000, 0) == expected
    if steps and steps[-1][0] != "flush":
        assert disk.content("/d/f", durable=True) == flushed
    file.flush()
    disk.power_cut(random.Random(seed))
    assert disk.restart().content("/d/f") == expected


# ---- directories -------------------------------------------------------------------------------------------------


def test_a_missing_directory_flush_after_create_loses_the_flushed_file_in_some_crash() -> None:
    disk, _ = disk_with_file()
    created = disk.open("/d/new", create=True)
    created.pwritev([A], 0)
    created.flush()
    assert names_after_crash(disk) == {("f",), ("f", "new")}
    disk.flush_directory("/d")
    assert names_after_crash(disk) == {("f", "new")}


def test_a_rename_without_directory_flush_shows_the_old_file_or_the_new_and_never_none() -> None:
    disk, _ = disk_with_file(A)
    temporary = disk.open("/d/f.new", create=True)
    temporary.pwritev([B], 0)
    temporary.flush()
    disk.rename("/d/f.new", "/d/f")
    assert names_after_crash(disk) == {("f",), ("f", "f.new")}
    assert {state.content("/d/f") for state in disk.crash_states()} == {A, B}
    disk.flush_directory("/d")
    assert {state.content("/d/f") for state in disk.crash_states()} == {B}


def test_a_rename_before_the_flush_of_the_data_may_leave_an_empty_file() -> None:
    disk, _ = disk_with_file(A)
    disk.open("/d/f.new", create=True).pwritev([B], 0)
    disk.rename("/d/f.new", "/d/f")
    disk.flush_directory("/d")
    assert b"" in contents(disk)


def test_an_unflushed_unlink_may_be_undone() -> None:
    disk, _ = disk_with_file(A)
    disk.unlink("/d/f")
    assert names_after_crash(disk) == {(), ("f",)}
    disk.flush_directory("/d")
    assert names_after_crash(disk) == {()}


def test_entries_of_two_files_survive_independently() -> None:
    disk, _ = disk_with_file()
    disk.open("/d/g", create=True)
    disk.open("/d/h", create=True)
    assert names_after_crash(disk) == {("f",), ("f", "g"), ("f", "h"), ("f", "g", "h")}


def test_a_file_in_a_directory_that_was_not_flushed_into_its_parent_may_be_gone_with_it() -> None:
    disk, _ = disk_with_file()
    disk.make_directory("/d/sub")
    disk.open("/d/sub/x", create=True).flush()
    disk.flush_directory("/d/sub")
    assert names_after_crash(disk) == {("f",), ("f", "sub")}


def test_a_rename_between_directories_never_loses_the_file_nor_doubles_it() -> None:
    disk, _ = disk_with_file(A)
    disk.make_directory("/e")
    disk.flush_directory("/")
    disk.rename("/d/f", "/e/f")
    disk.open("/d/f", create=True)
    disk.flush_directory("/d")
    found = {(tuple(state.list("/d")), tuple(state.list("/e"))) for state in disk.crash_states()}
    assert found == {(("f",), ("f",))}
    assert {state.content("/e/f") for state in disk.crash_states()} == {A}


def test_renames_of_a_chain_keep_their_order() -> None:
    disk, _ = disk_with_file(A)
    disk.rename("/d/f", "/d/g")
    disk.rename("/d/g", "/d/h")
    assert names_after_crash(disk) == {("f",), ("g",), ("h",)}


# ---- processes ---------------------------------------------------------------------------------------------------


def test_a_killed_process_can_do_nothing_and_loses_nothing_written() -> None:
    disk, file = disk_with_file()
    file.pwritev([A], 0)
    disk.process_kill()
    for call in (file.flush, file.size, lambda: disk.list("/d"), lambda: disk.open("/d/f")):
        with pytest.raises(OSError, match=r"\[Errno 9\]"):
            call()
    file.close()
    assert disk.restart().content("/d/f") == A


def test_a_lock_excludes_others_until_release_or_death() -> None:
    disk, _ = disk_with_file()
    lock = disk.lock("/d/lock")
    with pytest.raises(BlockingIOError):
        disk.lock("/d/lock")
    lock.release()
    lock.release()
    disk.lock("/d/lock")
    disk.restart().lock("/d/lock")


def test_the_death_of_the_process_gives_the_space_of_unlinked_files_back() -> None:
    disk, _ = disk_with_file(A * 8)
    disk.unlink("/d/f")
    assert disk.used_bytes == 4096
    assert disk.restart().used_bytes == 0


def test_descriptors_are_limited_and_those_closed_count_no_more() -> None:
    disk, file = disk_with_file(open_files_max=2)
    lock = disk.lock("/d/lock")
    with pytest.raises(OSError, match=r"\[Errno 24\]"):
        disk.open("/d/g", create=True)
    lock.release()
    disk.open("/d/f").close()
    file.close()
    file.close()
    assert disk.witnesses["too-many-files"] == 1
    assert [disk.open("/d/f").size() for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("power_cut", [False, True])
def test_the_process_dies_at_the_call_that_was_named(power_cut: bool) -> None:
    disk, file = disk_with_file()
    disk.kill_at(disk.call_count + 2, power_cut=power_cut)
    file.pwritev([A], 0)
    with pytest.raises(OSError, match=r"\[Errno 9\]"):
        file.flush()
    assert not disk.alive
    assert (disk.witnesses["process-kill"], disk.witnesses["power-cut"]) == (1, int(power_cut))
    assert disk.content("/d/f", durable=True) in ((b"", ZERO, A) if power_cut else (b"",))


def test_a_kill_inside_a_write_leaves_whole_pages_of_a_prefix() -> None:
    sizes = set()
    for seed in range(30):
        disk = ModelDisk(seed)
        file = disk.open("/f", create=True)
        disk.kill_at(disk.call_count + 1)
        with pytest.raises(OSError, match=r"\[Errno 9\]"):
            file.pwritev([b"x" * 10_000], 0)
        sizes.add(len(disk.restart().content("/f")))
    assert sizes == {0, 4096, 8192}


def test_a_hook_sees_every_call_before_its_effect_and_calls_are_counted() -> None:
    disk, file = disk_with_file()
    seen: list[tuple[DiskCall, bytes]] = []
    disk.on_call = lambda call: seen.append((call, disk.content("/d/f")))
    file.pwritev([b"xy"], 3)
    file.flush()
    assert [(call.operation, call.path, call.position, call.size) for call, _ in seen] == [
        ("pwritev", "/d/f", 3, 2),
        ("flush", "/d/f", 0, 0),
    ]
    assert [content for _, content in seen] == [b"", bytes(3) + b"xy"]
    assert [call for call, _ in seen] == list(disk.calls)[-2:]
    assert seen[-1][0].number == disk.call_count


def test_all_paths_are_told_without_a_call() -> None:
    disk, _ = disk_with_file()
    disk.make_directory("/d/e")
    disk.open("/d/e/g", create=True)
    disk.open("/a", create=True)
    before = disk.call_count
    assert disk.paths() == ["/a", "/d/e/g", "/d/f"]
    assert disk.call_count == before


def test_a_fork_goes_its_own_way() -> None:
    disk, file = disk_with_file(A)
    fork = disk.fork()
    fork.open("/d/f").pwritev([B], 0)
    fork.unlink("/d/f")
    assert disk.content("/d/f") == A
    assert file.link_count() == 1


# ---- faults ------------------------------------------------------------------------------------------------------


def test_a_failed_flush_marks_pages_clean_the_next_succeeds_and_the_device_has_the_old_bytes() -> None:
    disk, file = disk_with_file(A)
    file.pwritev([B], 0)
    disk.fail_next_flush()
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        file.flush()
    file.flush()
    assert file.pread(512, 0) == B
    assert disk.restart().content("/d/f") == B
    assert disk.content("/d/f", durable=True) == A
    after_kill = disk.restart().open("/d/f")
    after_kill.flush()
    after_kill.drop_cache(0, 0)
    assert after_kill.pread(512, 0) == A
    assert contents(disk) == [A]


def test_after_a_failed_flush_the_size_becomes_durable_over_bytes_that_never_were() -> None:
    disk, file = disk_with_file()
    file.pwritev([B], 0)
    disk.fail_next_flush()
    with pytest.raises(OSError):
        file.flush()
    file.flush()
    assert contents(disk) == [ZERO]


def test_a_failed_flush_may_have_written_some_of_the_sectors() -> None:
    states = set()
    for seed in range(40):
        disk, file = disk_with_file(ZERO * 2)
        file.pwritev([A, B], 0)
        disk.fail_next_flush(partly=random.Random(seed))
        with pytest.raises(OSError):
            file.flush()
        states.add(disk.content("/d/f", durable=True))
    assert states == {ZERO + ZERO, A + ZERO, ZERO + B, A + B}


def test_a_failed_flush_of_many_files_covers_them_all() -> None:
    disk, file = disk_with_file(A)
    other = disk.open("/d/g", create=True)
    disk.flush_directory("/d")
    file.pwritev([B], 0)
    other.pwritev([B], 0)
    disk.fail_next_flush(path="/d/g", error=errno.ENOSPC)
    with pytest.raises(OSError, match=r"\[Errno 28\]"):
        disk.flush_many([file, other])
    disk.flush_many([file, other])
    assert (contents(disk), contents(disk, "/d/g")) == ([A], [ZERO])


def test_a_write_back_error_is_told_to_descriptors_open_then_and_to_no_later_one() -> None:
    disk, file = disk_with_file(A)
    file.pwritev([B], 0)
    disk.fail_write_back("/d/f")
    disk.open("/d/f").flush()
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        file.flush()
    file.flush()
    assert contents(disk) == [A]


def test_drop_cache_leaves_a_folio_that_begins_before_the_range_and_unflushed_pages() -> None:
    disk, file = disk_with_file(ZERO * 24)
    file.pwritev([A * 24], 0)
    disk.fail_next_flush()
    with pytest.raises(OSError):
        file.flush()
    file.pwritev([B], 4096)
    file.drop_cache(1, 0)
    assert file.pread(12_288, 0) == A * 8 + B + A * 15
    file.drop_cache(0, 4095)
    assert file.pread(1, 0) == b"a"
    file.drop_cache(0, 4096)
    assert file.pread(1, 0) == b"\0"


def test_reads_of_a_bad_range_fail_through_descriptor_and_mapping() -> None:
    disk, file = disk_with_file(A + B + C)
    mapping = file.map(1536)
    disk.fail_reads("/d/f", 512, 512)
    assert file.pread(512, 0) == A
    for read in (lambda: file.pread(2, 511), lambda: mapping.view(1023, 1)):
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            read()
    assert mapping.view(1024, 512) == C
    disk.heal()
    assert file.pread(512, 512) == B
    assert disk.witnesses["read-error"] == 2


def test_a_write_of_whole_pages_makes_bad_sectors_good_and_one_of_a_part_fails() -> None:
    disk, file = disk_with_file(bytes(3 * 4096))
    disk.fail_reads("/d/f", 5_000, 100)
    file.pwritev([A], 0)  # another page
    for position, data in ((4096, A), (5_090, bytes(4096)), (4_000, bytes(4_000))):
        with pytest.raises(OSError, match=r"\[Errno 5\]"):
            file.pwritev([data], position)
    with pytest.raises(OSError, match=r"\[Errno 5\]"):
        file.pread(1, 5_050)
    file.pwritev([bytes(5_000)], 4_000)
    assert file.pread(100, 5_000) == bytes(100)


def test_a_full_disk_takes_what_fits_and_recovers_when_freed() -> None:
    disk, file = disk_with_file(bytes_max=1024)
    with pytest.raises(OSError, match=r"\[Errno 28\]"):
        file.pwritev([A + B + C], 0)
    assert file.pread(4096, 0) == A + B
    assert disk.free_bytes("/d") == 0
    file.pwritev([C], 0)
    file.truncate(512)
    file.pwritev([A], 512)
    assert disk.free_bytes("/") == 0
    disk.unlink("/d/f")
    file.close()
    assert disk.free_bytes("/") == 1024


def test_rot_flips_durable_bits_and_is_seen_by_reads() -> None:
    disk, file = disk_with_file(A)
    disk.rot("/d/f", 7, 2, random.Random(3))
    found = file.pread(512, 0)
    assert [index for index in range(512) if found[index] != A[index]] == [7, 8]
    assert all((found[index] ^ 0x61).bit_count() == 1 for index in (7, 8))


def test_a_planned_error_hits_the_calls_it_names_and_has_no_effect() -> None:
    disk, file = disk_with_file(A)
    disk.fail_next("pwritev", errno.EDQUOT, path="/d/*", after=1, times=2)
    file.pwritev([B], 0)
    for _ in range(2):
        with pytest.raises(OSError, match=rf"\[Errno {errno.EDQUOT}\]"):
            file.pwritev([C], 0)
    assert file.pread(512, 0) == B
    file.pwritev([C], 0)
    assert disk.witnesses["error:pwritev"] == 2


def test_calls_per_second_are_plenty() -> None:
    disk, file = disk_with_file()
    started = time.perf_counter()
    count = 4000
    for number in range(count):
        file.pwritev([b"x" * 300], number * 300)
        if number % 8 == 0:
            file.flush()
        file.pread(300, number * 300)
    rate = disk.call_count / (time.perf_counter() - started)
    print(f"model disk: {rate:,.0f} calls per second")
    assert disk.counts["pwritev"] == count


def test_folders_given_at_the_start_survive_a_power_cut_and_cost_no_call():
    disk = ModelDisk(0, folders=("/a", "/a/b"))
    assert (disk.call_count, disk.unflushed_entries()) == (0, 0)
    disk.power_cut()
    assert disk.restart().stat("/a/b").is_directory
