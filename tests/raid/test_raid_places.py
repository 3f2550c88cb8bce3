"""The array is told by where its members stand: copied or moved it is elsewhere, with another member it is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from array_parts import put, states
from test_raid_real_directories import array

from mqcore.abc import StorageContext
from mqcore.ports import system_ports
from mqcore.registry import create_storage

pytestmark = pytest.mark.needs("linux")


async def mount_of(folder: Path, names: str = "ab") -> tuple[str, list[str]]:
    """What the core compares from start to start, and the states of the members."""
    url = f"raid://{','.join(f'{folder}/{name}' for name in names)}?level=1&create=false"
    storage = create_storage(url, StorageContext(ports=system_ports()))
    await storage.open()
    try:
        return str(storage.facts()["mount"]), list(states(storage))
    finally:
        await storage.aclose()


async def made(folder: Path) -> str:
    async with array(folder) as storage:
        await put(storage, b"x" * 3000)
    return (await mount_of(folder))[0]


@pytest.mark.parametrize("order", ["replace", "rebuild", "missing"])
def test_an_array_with_another_member_is_where_it_was(tmp_path, order):
    async def main() -> None:
        before = await made(tmp_path)
        if order == "missing":
            (tmp_path / "b").rename(tmp_path / "away")
            assert await mount_of(tmp_path) == (before, ["in-sync", "missing"])
            (tmp_path / "away").rename(tmp_path / "b")
            assert await mount_of(tmp_path) == (before, ["in-sync", "in-sync"])
            return
        async with array(tmp_path) as storage:
            await storage.operate("eject", {"member": "1"})
        assert await mount_of(tmp_path) == (before, ["in-sync", "ejected"])
        async with array(tmp_path) as storage:
            arguments = {"member": "1"} | ({"path": f"{tmp_path}/c"} if order == "replace" else {})
            await storage.operate(order, arguments)
            with trio.fail_after(60):
                while "rebuilding" in states(storage):  # noqa: ASYNC110 - what an operator does
                    await trio.sleep(0.02)
        names = "ac" if order == "replace" else "ab"
        for _ in range(2):
            assert await mount_of(tmp_path, names) == (before, ["in-sync", "in-sync"])

    trio.run(main)


@pytest.mark.parametrize("copied", ["a", "b", "ab"])
def test_an_array_of_which_a_member_was_copied_by_hand_is_elsewhere_once(tmp_path, copied):
    async def main() -> None:
        before = await made(tmp_path)
        for name in copied:
            shutil.copytree(tmp_path / name, tmp_path / "copy")
            (tmp_path / name).rename(tmp_path / f"old-{name}")
            (tmp_path / "copy").rename(tmp_path / name)
        now, found = await mount_of(tmp_path)
        assert (now != before, found) == (True, ["in-sync", "in-sync"])
        assert await mount_of(tmp_path) == (now, ["in-sync", "in-sync"])

    trio.run(main)
