"""Directories that cannot be members, on real file systems: one error that names the member, or service without it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from array_parts import Bench, put, read_all, states
from test_raid_real_directories import array, is_there, tmpfs

from mqcore.abc import StorageContext
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.ports import system_ports
from mqcore.registry import create_storage


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    subprocess.run(["mount", *map(str, arguments)], check=True, timeout=120)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True, timeout=120)


def refused(folder: Path) -> str:
    async def main() -> str:
        with pytest.raises(MqcoreError) as caught:
            async with array(folder):
                pass
        return str(caught.value)

    return trio.run(main)


def test_the_same_directory_by_a_symbolic_link_is_refused_by_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    text = refused(tmp_path)
    assert f"{tmp_path}/a and {tmp_path}/b are the same directory" in text
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("made", [True, False], ids=["there", "yet to be made"])
def test_a_member_inside_another_by_a_symbolic_link_is_refused_by_name(tmp_path, made):
    (tmp_path / "a").mkdir()
    if made:
        (tmp_path / "a" / "inner").mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere" / "inner")
    if not made:
        (tmp_path / "b").unlink()

    async def main() -> None:
        url = f"raid://{tmp_path}/a,{tmp_path}/{'b' if made else 'elsewhere/inner'}"
        storage = create_storage(url, StorageContext(ports=system_ports()))
        with pytest.raises(MqcoreError) as caught:
            await storage.open()
        words = f"{tmp_path}/a is not empty" if made else f"lies in {tmp_path}/a, by a link"
        assert words in str(caught.value)

    trio.run(main)
    assert [each.name for each in (tmp_path / "a").iterdir()] == (["inner"] if made else [])


def test_a_member_is_not_replaced_by_a_directory_inside_another_by_a_link(tmp_path):
    async def main() -> None:
        async with array(tmp_path) as storage:
            await put(storage, b"x" * 3000)
            (tmp_path / "elsewhere").symlink_to(tmp_path / "a")
            await storage.operate("eject", {"member": f"{tmp_path}/b"})
            with pytest.raises(CommandNotPossibleError, match=r"lies in the directory of .*/a, by a link"):
                await storage.operate("replace", {"member": f"{tmp_path}/b", "path": f"{tmp_path}/elsewhere/inner"})
            assert list(states(storage)) == ["in-sync", "ejected"]

    trio.run(main)


@pytest.mark.needs("root", "linux")
def test_the_same_directory_by_a_bind_mount_is_refused_by_name(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    with mounted("--bind", tmp_path / "a", tmp_path / "b"):
        assert "are the same directory" in refused(tmp_path)


@pytest.mark.needs("root", "linux")
def test_a_member_that_is_mounted_read_only_is_named_or_left_out(tmp_path):
    async def before() -> None:
        async with array(tmp_path) as storage:
            await put(storage, b"x" * 3000)

    async def after() -> None:
        try:
            async with array(tmp_path) as storage:
                log = await put(storage, b"y" * 3000)
                assert list(states(storage)) == ["in-sync", "missing"]
                assert await read_all(log) == b"x" * 3000 + b"y" * 3000
        except MqcoreError as error:
            assert f"{tmp_path}/b" in str(error)

    with tmpfs(tmp_path / "b", "8m"):
        trio.run(before)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "b"], check=True, timeout=120)
        trio.run(after)
        subprocess.run(["mount", "-o", "remount,rw", tmp_path / "b"], check=True, timeout=120)
        assert trio.run(is_there, tmp_path, b"x" * 3000)[0] == "in-sync"


def test_all_but_one_of_three_missing_is_served_by_that_one_and_said():
    bench = Bench("abc")

    async def main():
        async with bench.opened() as storage:
            await put(storage, b"x" * 3000)
        bench.take_away("/a")
        bench.take_away("/c")
        async with bench.opened() as storage:
            assert states(storage) == ["missing", "in-sync", "missing"]
            assert await read_all(await storage.open_log("log")) == b"x" * 3000
        assert bench.kinds().count("raid-member-missing") == 2

    bench.run(main)
