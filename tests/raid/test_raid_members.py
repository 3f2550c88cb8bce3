"""Members of an array that are lost, emptied, swapped, old, copied or of another array: never an empty start, never a
guess (G01, G12; guarantees section 7, "Arrays")."""

from __future__ import annotations

import errno

import pytest
import trio
from array_parts import Bench, copy_tree, put, read_all, states
from crc32c import crc32c

from mqcore.errors import ConfigurationError, CorruptionError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.testing import model_ports
from mqcore_raid._record import MAGIC


def filled(members: str = "ab", options: str = "level=1", data: bytes = b"one" * 1000) -> Bench:
    bench = Bench(members, options=options)

    async def main() -> None:
        async with bench.opened() as storage:
            await put(storage, data)

    bench.run(main)
    return bench


async def expect_content(storage, data: bytes) -> None:
    log = await storage.open_log("log")
    assert await read_all(log) == data


def test_a_mirror_reaches_mirror_and_says_so():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            assert storage.capabilities.flush_level is log.level is Level.MIRROR
            assert storage.capabilities.member_losses_survived == 1
            await log.append([b"x" * 100])
            assert await storage.flush([log]) == [(100, Level.MIRROR)]

    bench.run(main)


@pytest.mark.parametrize("lost", ["/a", "/b"])
def test_a_member_that_vanishes_while_in_use_takes_nothing_and_the_level_falls(lost):
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 100)
            bench.take_away(lost)
            log = await put(storage, b"y" * 100)
            assert log.level is Level.DISK
            assert await storage.flush([log]) == [(200, Level.DISK)]
            assert states(storage)[bench.members.index(lost)] == "ejected"
        async with bench.opened() as storage:
            assert not storage.may_lack_reported, "who stayed knows that the other one was ejected"
            await expect_content(storage, b"x" * 100 + b"y" * 100)

    bench.run(main)
    assert "raid-member-ejected" in bench.kinds()


@pytest.mark.parametrize("operation", ["pwritev", "flush"])
def test_a_member_that_fails_is_out_on_the_disk_before_the_acknowledgement(operation):
    bench = Bench()

    async def main():
        storage = bench.create()
        await storage.open()
        await put(storage, b"x" * 100)
        if operation == "flush":
            bench.disk.fail_next_flush(path="/b/storage/*")
        else:
            bench.disk.fail_next("pwritev", errno.EIO, path="/b/storage/*")
        await put(storage, b"y" * 100)
        bench.crash()
        await storage.aclose()

    with pytest.raises((StorageError, OSError)):
        bench.run(main)

    async def again():
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "ejected"]
            await expect_content_begins(storage, b"x" * 100 + b"y" * 100)

    bench.run(again)


async def expect_content_begins(storage, data: bytes) -> None:
    log = await storage.open_log("log")
    assert await read_all(log, len(data)) == data


def test_a_member_that_was_ejected_stays_out_until_an_operator_says_otherwise():
    bench = filled()

    async def main():
        async with bench.opened() as storage:
            bench.disk.fail_next_flush(path="/b/storage/*")
            await put(storage, b"two")
        for _ in range(2):
            async with bench.opened() as storage:
                assert states(storage) == ["in-sync", "ejected"]
                await expect_content(storage, b"one" * 1000 + b"two")

    bench.run(main)


def test_an_array_that_opens_without_a_member_says_that_something_may_be_missing():
    bench = filled()
    bench.take_away("/b")

    async def main():
        async with bench.opened() as storage:
            assert storage.may_lack_reported
            await expect_content(storage, b"one" * 1000)
            assert (await storage.open_log("log")).level is Level.DISK

    bench.run(main)
    assert "raid-member-missing" in bench.kinds()


def test_what_may_be_missing_is_said_again_until_the_broker_had_time_to_record_it():
    bench = filled()
    bench.take_away("/b")

    async def dies_at_once():
        storage = bench.create()
        await storage.open()
        bench.crash()

    async def records_it():
        async with bench.opened() as storage:
            assert storage.may_lack_reported
            for _ in range(2):
                await put(storage, b"x", "identity")

    async def main():
        async with bench.opened() as storage:
            assert not storage.may_lack_reported

    for life in (dies_at_once, records_it, main):
        bench.run(life)


def test_an_emptied_member_never_wins():
    bench = filled()
    bench.take_away("/a")
    bench.disk.make_directory("/a")

    async def main():
        async with bench.opened() as storage:
            assert states(storage) == ["missing", "in-sync"]
            await expect_content(storage, b"one" * 1000)
        assert bench.disk.list("/a") == [], "nothing is made in a directory that lost its member"

    bench.run(main)


def test_a_member_with_a_storage_and_no_record_never_wins():
    bench = filled()
    bench.disk.unlink("/a/mqcore-raid.member")

    async def main():
        async with bench.opened() as storage:
            assert states(storage) == ["missing", "in-sync"]
            await expect_content(storage, b"one" * 1000)

    bench.run(main)


@pytest.mark.parametrize("rest", [True, False], ids=["beside the other", "alone"])
def test_a_damaged_record_is_no_empty_member(rest):
    bench = filled()
    bench.disk.rot("/a/mqcore-raid.member", 100)
    if not rest:
        bench.disk.rot("/b/mqcore-raid.member", 100)

    async def main():
        async with bench.opened() as storage:
            assert states(storage) == ["missing", "in-sync"]
            await expect_content(storage, b"one" * 1000)

    if rest:
        bench.run(main)
    else:
        with pytest.raises(CorruptionError, match="/a"):
            bench.run(main)


def test_swapped_directories_are_known_by_their_records():
    bench = filled("abcd", options="level=10")
    bench.disk.rename("/a", "/x")
    bench.disk.rename("/c", "/a")
    bench.disk.rename("/x", "/c")

    async def main():
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync"] * 4
            await expect_content(storage, b"one" * 1000)

    bench.run(main)


def test_an_old_copy_of_a_member_never_wins():
    bench = filled(data=b"old" * 1000)
    copy_tree(bench.disk, "/a", "/backup")

    async def main():
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            await log.truncate(300)
            await put(storage, b"new" * 10)

    async def again():
        async with bench.opened() as storage:
            assert states(storage) == ["ejected", "in-sync"]
            await expect_content(storage, b"old" * 100 + b"new" * 10)

    bench.run(main)
    bench.take_away("/a")
    bench.disk.rename("/backup", "/a")
    bench.run(again)


def test_a_copy_of_a_member_that_was_made_while_it_was_in_use_never_wins():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"deleted" * 1000, "gone")
            log = await put(storage, b"a" * 30_000)
            copy_tree(bench.disk, "/b", "/backup")
            await storage.delete_log("gone")
            await log.truncate(1000)
            await put(storage, b"new" * 3000)
        bench.take_away("/b")
        bench.disk.rename("/backup", "/b")
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "ejected"]
            assert await storage.list_logs() == ["log"]
            assert await read_all(await storage.open_log("log")) == b"a" * 1000 + b"new" * 3000

    bench.run(main)


@pytest.mark.parametrize("power", [True, False], ids=["power cut", "kill"])
@pytest.mark.parametrize("copied", ["/a", "/b"])
def test_g01_a_copy_that_was_made_while_it_was_in_use_does_not_win_after_a_crash(copied, power):
    """It has the newest generation, and where a log was cut since it proves more than the others."""
    bench = Bench()

    async def main():
        storage = bench.create()
        await storage.open()
        await put(storage, b"deleted" * 1000, "gone")
        log = await put(storage, b"a" * 30_000)
        await put(storage, b"b")
        copy_tree(bench.disk, copied, "/backup")
        bench.disk.flush_directory("/")
        await storage.delete_log("gone")
        await log.truncate(1000)
        await put(storage, b"new" * 3000)
        await put(storage, b"more")

    async def again():
        async with bench.opened() as storage:
            assert states(storage) == (["ejected", "in-sync"] if copied == "/a" else ["in-sync", "ejected"])
            assert await storage.list_logs() == ["log"]
            wanted = b"a" * 1000 + b"new" * 3000 + b"more"
            assert await read_all(await storage.open_log("log"), len(wanted)) == wanted

    bench.run(main)
    bench.crash(power=power)
    bench.take_away(copied)
    bench.disk.rename("/backup", copied)
    bench.run(again)
    assert "raid-member-ejected" in bench.kinds()
    bench.run(again)


def test_an_array_that_was_copied_as_a_whole_after_a_kill_is_believed():
    bench = Bench()

    async def main():
        storage = bench.create()
        await storage.open()
        await put(storage, b"a" * 30_000)
        await put(storage, b"b")

    async def again():
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "in-sync"]
            assert await read_all(await storage.open_log("log"), 30_001) == b"a" * 30_000 + b"b"

    bench.run(main)
    bench.crash(power=False)
    for path in bench.members:
        copy_tree(bench.disk, path, "/backup")
        bench.take_away(path)
        bench.disk.rename("/backup", path)
    bench.run(again)


def test_a_copied_member_is_refused_by_name():
    bench = filled()
    bench.take_away("/b")
    copy_tree(bench.disk, "/a", "/b")

    async def main():
        async with bench.opened():
            pass

    with pytest.raises(StorageError, match=r"/a and /b are the same member 0"):
        bench.run(main)


def test_members_of_two_arrays_are_refused_by_name():
    bench = filled("ab")
    bench.members = ["/c", "/d"]

    async def make():
        async with bench.opened():
            pass

    bench.run(make)
    bench.members = ["/a", "/d"]
    with pytest.raises(StorageError, match=r"members of 2 arrays are mixed: /a of array \w+, /d of array"):
        bench.run(make)


def test_two_halves_that_were_each_used_alone_never_both_win():
    bench = filled()

    async def alone(data):
        async with bench.opened() as storage:
            await put(storage, data)

    bench.disk.rename("/b", "/elsewhere")
    bench.run(alone, b"only a")
    bench.disk.rename("/a", "/later")
    bench.disk.rename("/elsewhere", "/b")
    bench.run(alone, b"only b")
    bench.disk.rename("/later", "/a")
    with pytest.raises(StorageError, match=r"used in two ways .*/a .*/b .*mqcore raid eject"):
        bench.run(alone, b"both")

    async def decides():
        await bench.create().operate("eject", {"member": "/a"})
        async with bench.opened() as storage:
            assert states(storage) == ["missing", "in-sync"]
            await expect_content(storage, b"one" * 1000 + b"only b")

    bench.run(decides)


def test_the_half_that_had_ejected_the_other_wins_when_it_returns():
    bench = filled()

    async def ejects():
        async with bench.opened() as storage:
            bench.disk.fail_next_flush(path="/a/storage/*")
            await put(storage, b"acknowledged by b")

    async def stale_a_alone():
        async with bench.opened() as storage:
            assert storage.may_lack_reported
            await put(storage, b"written meanwhile")

    async def both():
        async with bench.opened() as storage:
            assert states(storage) == ["ejected", "in-sync"]
            await expect_content(storage, b"one" * 1000 + b"acknowledged by b")

    bench.run(ejects)
    bench.disk.rename("/b", "/away")
    bench.run(stale_a_alone)
    bench.disk.rename("/away", "/b")
    bench.run(both)


def test_all_members_missing_is_no_empty_start_where_none_may_be_made():
    bench = Bench(options="level=1&create=false")

    async def main():
        async with bench.opened():
            pass

    with pytest.raises(StorageError, match=r"/a, /b .*create=false"):
        bench.run(main)


def test_too_few_members_for_min_members_is_an_error_that_names_them():
    bench = filled(options="level=1&min_members=2")
    bench.take_away("/b")

    async def main():
        async with bench.opened():
            pass

    with pytest.raises(StorageError, match=r"/b is missing: its directory is not there.*min_members"):
        bench.run(main)


def test_fewer_than_min_members_left_stops_the_logs():
    bench = Bench(options="level=1&min_members=2")

    async def main():
        storage = bench.create()
        await storage.open()
        await put(storage, b"x" * 100)
        bench.take_away("/b")
        log = await storage.open_log("log")
        await log.append([b"y"])
        with pytest.raises(FlushFailedError, match="min_members"):
            await storage.flush([log])
        assert log.end == 100
        with pytest.raises(StorageError):
            await log.append([b"z"])
        await storage.aclose()

    bench.run(main)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("raid:///a,/a?level=1", "/a is named twice"),
        ("raid:///a,/a/b?level=1", "inside /a"),
        ("raid:///a,//a/?level=1", "named twice"),
        ("raid:///a?level=1", "two members"),
        ("raid:///a,/b,/c?level=10", "level=10 .* 3 are named"),
        ("raid:///a,b?level=1", "'b' is not an absolute path"),
        ("raid:///a,/b?level=5", "'5' is not allowed"),
        ("raid:///a,/b?level=1&min_members=3", "min_members=3"),
        ("raid:///a,/b?level=1&member=memory://", "{path}"),
    ],
)
def test_what_cannot_be_an_array_is_refused_when_it_is_composed(url, words):
    with pytest.raises(ConfigurationError, match=words):
        Bench().create(url)


def test_a_level_that_does_not_fit_what_was_made_is_refused():
    bench = filled("abcd", options="level=10")
    bench.options = "level=1"

    async def main():
        async with bench.opened():
            pass

    with pytest.raises(ConfigurationError, match=r"level=10 .* the URL names 4 members, level=1"):
        bench.run(main)


def test_a_directory_that_holds_something_else_is_refused():
    bench = Bench()
    bench.disk.make_directory("/b")
    bench.disk.open("/b/thesis.txt", create=True).close()

    async def main():
        async with bench.opened():
            pass

    with pytest.raises(StorageError, match=r"/b is not empty .*thesis.txt"):
        bench.run(main)
    assert "mqcore-raid.member" not in bench.disk.list("/b")


def test_a_member_that_hangs_is_ejected_after_its_time_and_holds_nobody_up():
    bench = Bench(options="level=1&member_timeout_ms=2000")

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 100)
            bench.disk.stall_next("flush", 30, path="/b/storage/*")
            began = trio.current_time()
            log = await put(storage, b"y")
            assert 2 <= trio.current_time() - began < 3
            assert states(storage) == ["in-sync", "ejected"]
            assert await storage.flush([log]) == [(101, Level.DISK)]

    bench.run(main)


def test_a_full_member_refuses_for_all_and_the_members_do_not_diverge():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 100)
            for number in range(40):
                if number == 3:
                    bench.disk.fail_next("pwritev", errno.ENOSPC, path="/b/storage/*")
                try:
                    await log.append([b"%d" % (number % 10) * 2000])
                except StorageError as error:
                    assert error.kind == "full"
                    assert not error.appended
                    break
            else:
                pytest.fail("a full member takes appends")
            bench.disk.heal()
            end = log.end
            await put(storage, b"goes on")
            assert states(storage) == ["in-sync", "in-sync"]
            content = await read_all(log)
            assert content[end:] == b"goes on"
        for lost in ("/a", "/b"):
            fork = bench.fork()
            fork.take_away(lost)
            async with fork.opened() as storage:
                await expect_content(storage, content)

    bench.run(main)


def test_a_member_that_cannot_be_read_is_ejected_and_another_copy_is_served():
    bench = filled()

    async def main():
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            bench.disk.fail_reads(next(path for path in bench.disk.paths() if path.startswith("/a/storage/segments/")))
            assert await read_all(log) == b"one" * 1000
            assert states(storage) == ["ejected", "in-sync"]

    bench.run(main)


def test_a_member_that_missed_nothing_but_an_opening_is_in_sync_when_it_returns():
    bench = filled()
    bench.disk.rename("/b", "/away")

    async def looks():
        async with bench.opened() as storage:
            await expect_content(storage, b"one" * 1000)

    async def whole():
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "in-sync"]
            await put(storage, b"two")

    bench.run(looks)
    bench.disk.rename("/away", "/b")
    bench.run(whole)


def test_a_member_that_missed_a_change_stays_out_when_it_returns():
    bench = filled()
    bench.disk.rename("/b", "/away")

    async def changes():
        storage = bench.create()
        await storage.open()
        log = await storage.open_log("log")
        await log.append([b"two"])
        bench.crash(power=False)

    async def whole():
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "missing"]
            assert storage.facts()["members"][1]["reason"] == "it is back, and the array was used without it"

    bench.run(changes)
    assert "or: mqcore raid replace /b DIRECTORY" in bench.notices[-1].text
    bench.disk.rename("/away", "/b")
    bench.run(whole)
    assert "mqcore raid rebuild /b, or" in bench.notices[-1].text


def test_a_member_whose_path_does_not_exist_two_levels_up_is_not_made():
    """A mistyped path, or one whose disk is not mounted, must not become a member on another disk."""
    bench = Bench()
    bench.members = ["/a", "/nowhere/x/b"]

    async def main():
        with pytest.raises(StorageError, match="cannot make member /nowhere/x/b"):
            async with bench.opened():
                pass

    bench.run(main)
    ports = model_ports(1, bench.disk)
    assert "nowhere" not in ports.files.list("/")


def test_a_member_whose_read_hangs_is_ejected_after_its_time_and_another_copy_is_served():
    bench = Bench(options="level=1&member_timeout_ms=2000")

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 3000)
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            bench.disk.stall_next("view", 60, path="/a/storage/segments/*")
            began = trio.current_time()
            assert await read_all(log) == b"x" * 3000
            assert 2 <= trio.current_time() - began < 3
            assert states(storage) == ["ejected", "in-sync"]

    bench.run(main)


def test_a_record_of_another_version_is_damage_that_says_so():
    bench = filled()
    path = "/b/mqcore-raid.member"
    body = bench.disk.content(path).partition(b"\n")[2].replace(b'"may_lack"', b'"may_love"')
    file = bench.disk.open(path)
    file.pwritev([f"{MAGIC} {crc32c(body):08x}\n".encode() + body], 0)
    file.flush()
    file.close()

    async def main():
        async with bench.opened() as storage:
            assert states(storage) == ["in-sync", "missing"]
            assert "another version" in storage.facts()["members"][1]["reason"]

    bench.run(main)
