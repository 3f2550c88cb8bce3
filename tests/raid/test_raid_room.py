"""Arrays on file systems without any room left: a member is not lost over its own record (real directories)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from array_parts import put, read_all, states
from test_raid_real_directories import array, fill, tmpfs

pytestmark = pytest.mark.needs("root", "linux")
CONTENT = b"x" * 3000


@contextlib.contextmanager
def made_on_small_disks(folder: Path) -> Iterator[None]:
    async def make() -> None:
        async with array(folder) as storage:
            await put(storage, CONTENT)

    with tmpfs(folder / "a", "4m"), tmpfs(folder / "b", "4m"):
        trio.run(make)
        yield


@pytest.mark.parametrize("full", ["b", "ab"])
def test_an_array_opens_whole_on_disks_that_are_full(tmp_path, full):
    async def main() -> None:
        for _ in range(3):
            async with array(tmp_path) as storage:
                assert list(states(storage)) == ["in-sync", "in-sync"]
                assert await read_all(await storage.open_log("log")) == CONTENT

    with made_on_small_disks(tmp_path):
        for name in full:
            fill(tmp_path / name / "other")
        trio.run(main)


def test_the_member_that_is_left_records_an_ejection_although_it_is_full(tmp_path):
    async def main() -> None:
        async with array(tmp_path) as storage:
            log = await storage.open_log("log")
            fill(tmp_path / "a" / "other")
            await storage.operate("eject", {"member": "1"})
            assert list(states(storage)) == ["in-sync", "ejected"]
            assert await read_all(log) == CONTENT
            (tmp_path / "a" / "other").unlink()
            await put(storage, b"y")
        async with array(tmp_path) as storage:
            assert list(states(storage)) == ["in-sync", "ejected"]

    with made_on_small_disks(tmp_path):
        trio.run(main)
