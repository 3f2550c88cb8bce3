"""An idle array on real directories (T1): a member that is gone is noticed by who asks, not only by the next flush."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from array_parts import put, read_all

from mqcore.abc import Notice, StorageContext
from mqcore.errors import CommandNotPossibleError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.registry import create_storage

SMALL = "segment_bytes=65536&first_extent_bytes=16384&extent_bytes_max=16384&journal_bytes=65536"
CONTENT = b"x" * 100_000
pytestmark = pytest.mark.needs("linux")


@asynccontextmanager
async def idle(folder: Path, names: str = "ab", options: str = "level=1") -> AsyncIterator[Any]:
    """An array that holds ``CONTENT`` and does nothing; ``told`` is what it reports, ``stopped`` what it stops."""
    told: list[Notice] = []
    stopped: list[FlushFailedError] = []
    url = f"raid://{','.join(f'{folder}/{name}' for name in names)}?{options}&{SMALL}"
    context = StorageContext(ports=system_ports(), report=told.append, stopped=stopped.append)
    storage: Any = create_storage(url, context)
    await storage.open()
    storage.told, storage.stopped = told, stopped
    try:
        await put(storage, CONTENT)
        yield storage
    finally:
        try:
            await storage.aclose()
        except StorageError:
            assert stopped, "only one whose last member was taken away fails to close"


def delete(path: Path) -> None:
    shutil.rmtree(path)


def move_away(path: Path) -> None:
    path.rename(path.with_name("away"))


def replace(path: Path) -> None:
    move_away(path)
    path.mkdir()


def put_a_copy_there(path: Path) -> None:
    move_away(path)
    shutil.copytree(path.with_name("away"), path)


def empty(path: Path) -> None:
    for each in path.iterdir():
        each.unlink() if each.is_file() else shutil.rmtree(each)


def empty_its_storage(path: Path) -> None:
    empty(path / "storage")


def take_its_record(path: Path) -> None:
    (path / "mqcore-raid.member").unlink()


LOSSES = [delete, move_away, replace, put_a_copy_there, empty, empty_its_storage, take_its_record]


def states(found: Mapping[str, Any]) -> list[str]:
    return [member["state"] for member in found["members"]]


async def reopened(folder: Path, names: str = "ab") -> list[str]:
    url = f"raid://{','.join(f'{folder}/{name}' for name in names)}?level=1&create=false"
    storage = create_storage(url, StorageContext(ports=system_ports()))
    await storage.open()
    try:
        assert await read_all(await storage.open_log("log"), len(CONTENT)) == CONTENT
        return states(storage.facts())
    finally:
        await storage.aclose()


async def until_idle(storage: Any) -> Mapping[str, Any]:
    with trio.fail_after(100):
        while True:
            found: Mapping[str, Any] = await storage.operate("status", {})
            if "rebuilding" not in states(found) and not found.get("scrub", {}).get("is_running"):
                return found
            await trio.sleep(0.01)


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("lost", ["a", "b"])
def test_the_status_of_an_idle_array_says_which_member_is_gone(tmp_path, lost, lose):
    async def main() -> None:
        async with idle(tmp_path) as storage:
            lose(tmp_path / lost)
            found = await storage.operate("status", {})
            wanted = ["ejected", "in-sync"] if lost == "a" else ["in-sync", "ejected"]
            assert (states(found), found["degraded"], found["groups"]) == (wanted, True, ["disk"])
            assert [notice.kind for notice in storage.told].count("raid-member-ejected") == 1
            log = await storage.open_log("log")
            assert (log.level, await read_all(log)) == (Level.DISK, CONTENT)
            # durably: another life that meets the directory again does not take it for whole
            if (tmp_path / "away").exists() and not (tmp_path / lost).exists():
                (tmp_path / "away").rename(tmp_path / lost)
        assert await reopened(tmp_path) in (wanted, [state.replace("ejected", "missing") for state in wanted])

    trio.run(main)


@pytest.mark.parametrize("operation", ["scrub", "replace", "rebuild"])
def test_what_an_operator_orders_looks_first(tmp_path, operation):
    async def main() -> None:
        async with idle(tmp_path) as storage:
            delete(tmp_path / "b")
            arguments = {} if operation == "scrub" else {"member": "1"}
            arguments |= {"path": f"{tmp_path}/c"} if operation == "replace" else {}
            await storage.operate(operation, arguments)
            found = await until_idle(storage)
            assert states(found) == ["in-sync", "ejected" if operation == "scrub" else "in-sync"]
        await reopened(tmp_path, "ac" if operation == "replace" else "ab")

    trio.run(main)


def test_the_last_whole_member_is_not_ejected_after_the_other_one_is_gone(tmp_path):
    async def main() -> None:
        async with idle(tmp_path) as storage:
            delete(tmp_path / "b")
            with pytest.raises(CommandNotPossibleError, match="last member"):
                await storage.operate("eject", {"member": "0"})
            log = await put(storage, b"y")
            assert await read_all(log) == CONTENT + b"y"

    trio.run(main)


def test_a_member_that_is_gone_can_be_ejected_by_name(tmp_path):
    async def main() -> None:
        async with idle(tmp_path) as storage:
            delete(tmp_path / "b")
            assert states(await storage.operate("eject", {"member": "1"})) == ["in-sync", "ejected"]

    trio.run(main)


def test_a_scrub_does_not_say_that_all_is_well_of_a_member_that_lacks_a_file(tmp_path):
    async def main() -> None:
        async with idle(tmp_path) as storage:
            sorted((tmp_path / "b/storage/segments").glob("log@*"))[0].unlink()
            await storage.operate("scrub", {})
            assert states(await until_idle(storage)) == ["in-sync", "ejected"]

    trio.run(main)


@pytest.mark.parametrize(("options", "names"), [("level=0&stripe_bytes=16384", "ab"), ("level=1", "ab")])
def test_the_loss_of_the_last_member_stops_its_logs_and_is_told(tmp_path, options, names):
    async def main() -> None:
        async with idle(tmp_path, names, options) as storage:
            for name in names[0 if options == "level=1" else 1 :]:
                await storage.operate("status", {})
                delete(tmp_path / name)
            found = await storage.operate("status", {})
            assert "failed" in states(found)
            assert found["groups"][-1] == "stopped"
            assert storage.stopped
            with pytest.raises(StorageError):
                await put(storage, b"y")

    trio.run(main)


def test_one_member_of_level_10_leaves_its_group_alone(tmp_path):
    async def main() -> None:
        async with idle(tmp_path, "abcd", "level=10&stripe_bytes=16384") as storage:
            delete(tmp_path / "c")
            found = await storage.operate("status", {})
            assert states(found) == ["in-sync", "in-sync", "ejected", "in-sync"]
            assert found["groups"] == ["mirror", "disk"]
            assert (await storage.open_log("log")).level is Level.DISK

    trio.run(main)


def test_an_array_that_is_not_asked_looks_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("mqcore_raid._looking.LOOK_INTERVAL_S", 0.01)

    async def main() -> None:
        async with idle(tmp_path) as storage:
            delete(tmp_path / "b")
            with trio.fail_after(100):
                while states(storage.facts()) != ["in-sync", "ejected"]:  # noqa: ASYNC110 - what metrics do
                    await trio.sleep(0.01)

    trio.run(main)


def test_a_rebuild_onto_a_directory_that_vanishes_does_not_end_well(tmp_path):
    async def main() -> None:
        async with idle(tmp_path) as storage:
            await storage.operate("eject", {"member": "1"})
            await storage.operate("replace", {"member": "1", "path": f"{tmp_path}/c", "rate_bytes": 1000})
            delete(tmp_path / "c")
            assert states(await storage.operate("status", {})) == ["in-sync", "ejected"]

    trio.run(main)
