"""A copy of a member, made while it was in use, never wins over the one that was in use (decisions 0050, 0054)."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio
from array_parts import Bench, copy_tree, put, read_all, states

from mqcore.abc import StorageContext
from mqcore.errors import MqcoreError
from mqcore.ports import FileBirth, system_ports
from mqcore.registry import create_storage
from mqcore_raid._record import SlotState

OLD, KEPT, NEW = b"a" * 30_000, 1000, b"new" * 3000 + b"more"
WANTED = OLD[:KEPT] + NEW


async def use(bench: Bench, storage: object, copied: str) -> None:
    """Have ``copied`` copied, and the log cut and written anew after that: the copy proves more than what counts."""
    log = await put(storage, OLD)
    await put(storage, b"b")
    copy_tree(bench.disk, copied, "/backup")
    bench.disk.flush_directory("/")
    await log.truncate(KEPT)
    await put(storage, NEW[:-4])
    await put(storage, NEW[-4:])


def bring_back(bench: Bench, copied: str) -> None:
    bench.take_away(copied)
    bench.disk.rename("/backup", copied)


async def expect_wanted(bench: Bench) -> list[str]:
    async with bench.opened() as storage:
        assert await read_all(await storage.open_log("log"), len(WANTED)) == WANTED
        return list(states(storage))


async def close_killed_at(bench: Bench, copied: str, number: int) -> int:
    """Use the array and close it, killed at the call of that ``number`` of the closing; return how many it has."""
    storage = bench.create()
    await storage.open()
    await use(bench, storage, copied)
    before = bench.disk.call_count
    if number:
        bench.disk.kill_at(before + number)
    try:
        await storage.aclose()
    except (MqcoreError, OSError):
        assert not bench.disk.alive
    return bench.disk.call_count - before


@pytest.mark.parametrize("copied", ["/a", "/b"])
def test_g01_a_copy_never_wins_wherever_the_stop_was_cut_off(copied):
    """Between the writings of the record that says that the array is closed some members have the one before it."""
    whole = Bench()
    for number in range(1, whole.run(close_killed_at, whole, copied, 0) + 1):
        bench = Bench()
        bench.run(close_killed_at, bench, copied, number)
        bench.crash(power=False)
        bring_back(bench, copied)
        bench.run(expect_wanted, bench)


@pytest.mark.parametrize("again", ["clean", "killed"])
@pytest.mark.parametrize("copied", ["/a", "/b"])
def test_g01_a_copy_of_a_member_that_was_away_meanwhile_never_wins(copied, again):
    """Nothing was changed without it, so that it would be in sync again; what came back is older than it was."""
    bench = Bench()

    async def main():
        storage = bench.create()
        await storage.open()
        await use(bench, storage, copied)

    async def look():
        storage = bench.create()
        await storage.open()
        if again == "clean":
            await storage.aclose()

    bench.run(main)
    bench.crash(power=False)
    bench.take_away(copied)
    bench.run(look)
    bench.crash(power=False)
    bench.disk.rename("/backup", copied)
    found = bench.run(expect_wanted, bench)
    assert found == (["ejected", "in-sync"] if copied == "/a" else ["in-sync", "ejected"])


def test_a_member_that_was_away_after_a_kill_and_is_the_same_is_in_sync_again():
    bench = Bench()

    async def main():
        storage = bench.create()
        await storage.open()
        await use(bench, storage, "/a")

    async def look():
        async with bench.opened():
            pass

    bench.run(main)
    bench.crash(power=False)
    bench.disk.rename("/b", "/elsewhere")
    bench.run(look)
    bench.disk.rename("/elsewhere", "/b")
    assert bench.run(expect_wanted, bench) == ["in-sync", "in-sync"]


USE_AND_DIE = """
    import os, subprocess, sys, trio
    from mqcore.abc import StorageContext
    from mqcore.ports import FileBirth, system_ports
    from mqcore.registry import create_storage

    async def put(storage, data):
        log = await storage.open_log("log")
        await log.append([data])
        await storage.flush([log])
        return log

    async def main(url, copied):
        storage = create_storage(url, StorageContext(ports=system_ports(), report=lambda notice: None))
        await storage.open()
        log = await put(storage, b"a" * 30_000)
        await put(storage, b"b")
        subprocess.run(["cp", "-a", copied, copied + ".copy"], check=True)
        await log.truncate(1000)
        await put(storage, b"new" * 3000)
        await put(storage, b"more")
        os._exit(0)

    trio.run(main, *sys.argv[1:])
"""


@pytest.mark.needs("linux")
@pytest.mark.parametrize("copied", ["a", "b"])
def test_g01_a_copy_that_is_put_where_the_member_was_does_not_win_though_it_has_its_inode(tmp_path: Path, copied: str):
    """Of ext4: an inode number is free once its file is removed, and the next one's."""
    url = f"raid://{tmp_path}/a,{tmp_path}/b?level=1&segment_bytes=65536&first_extent_bytes=16384"
    place = tmp_path / copied
    command = [sys.executable, "-c", textwrap.dedent(USE_AND_DIE), url, str(place)]
    subprocess.run(command, check=True, timeout=120)
    subprocess.run(["rm", "-rf", place], check=True, timeout=120)
    subprocess.run(["cp", "-a", f"{place}.copy", place], check=True, timeout=120)

    async def main() -> None:
        storage = create_storage(url, StorageContext(ports=system_ports(), report=lambda notice: None))
        await storage.open()
        try:
            assert await read_all(await storage.open_log("log"), len(WANTED)) == WANTED
            assert states(storage)["ab".index(copied)] == "ejected"
        finally:
            await storage.aclose()

    trio.run(main)


@pytest.mark.parametrize(
    ("then", "inode", "birth", "stands"),
    [
        ((9, 5, 256), 9, FileBirth(5, 256), True),
        ((9, 5, 256), 9, FileBirth(6, 256), False),  # its inode number is another one's now
        ((9, 5, 256), 4, FileBirth(5, 256), True),  # an overlay that was mounted anew
        ((9, 5, 256), 9, FileBirth(5, 257), False),  # a snapshot
        ((9, 5, 256), 9, FileBirth(5, 0), True),  # another kernel, which does not tell
        ((9, 5, 0), 9, FileBirth(5, 256), True),
        ((9, 0, 0), 9, FileBirth(5, 0), True),
        ((9, 0, 0), 8, FileBirth(5, 0), False),
        ((9, 5, 0), 8, FileBirth(), False),
        ((0, 0, 0), 9, FileBirth(), None),
        ((9, 0, 0), 0, FileBirth(), None),
    ],
)
def test_a_member_stands_where_it_stood_by_all_that_is_known_then_and_now(then, inode, birth, stands):
    keys = dict(zip(("inode", "born_ns", "subvolume"), then, strict=True))
    state = SlotState(member_id="m", path="/a", state="in-sync", since=1, **keys)
    assert state.stands(inode, birth) is stands
