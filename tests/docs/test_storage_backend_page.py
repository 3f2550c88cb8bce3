"""docs/storage-backend.md: its backend runs under a broker, keeps the contract, and loses nothing to a power cut."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

import mqcore
from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import MqcoreError, StorageError
from mqcore.ports import system_ports
from mqcore.registry import check, register, unregister
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore.url import Url

PAGE = "storage-backend.md"
CONTRACT = Path(__file__).parents[1] / "storage" / "test_storage_contract.py"
pytestmark = pytest.mark.needs("source-tree")


@functools.cache
def contract() -> ModuleType:
    """The project's own tests of the storage contract, as a module."""
    spec = importlib.util.spec_from_file_location("storage_contract_for_pages", CONTRACT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contract_tests() -> list[str]:
    """Names of its tests that take any backend."""
    return [
        name
        for name, value in vars(contract()).items()
        if name.startswith("test_") and {"make"} <= set(inspect.signature(value).parameters) <= {"make", "tmp_path"}
    ]


@pytest.fixture
def folder_storage(pages: Any) -> Iterator[type[StorageBackend]]:
    """The backend of the page, registered in this process."""
    part: type[StorageBackend] = pages.module(PAGE, "folder_storage").FolderStorage
    register("storage", "folder", part)
    yield part
    unregister("storage", "folder")


def test_the_broker_of_the_page_runs_and_finds_its_messages_again(pages: Any, tmp_path: Path) -> None:
    for name in ("folder_storage.py", "folder_example.py"):
        (tmp_path / name).write_text(pages.code(PAGE, name))
    command = [sys.executable, "folder_example.py", str(tmp_path / "data")]
    for first in (0, 2):
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        receipts = result.stdout.splitlines()
        assert [f"offset={first + index}" in line for index, line in enumerate(receipts)] == [True, True]
        assert all("level=disk" in line for line in receipts)


@pytest.mark.parametrize("name", contract_tests() if CONTRACT.exists() else [])
def test_the_backend_of_the_page_keeps_the_storage_contract(
    name: str, folder_storage: type[StorageBackend], tmp_path: Path
) -> None:
    def make(root: str) -> StorageBackend:
        context = StorageContext(ports=system_ports(7))
        return folder_storage(Url.parse(f"folder://{root}/s"), folder_storage.options_class(), context)

    test: Callable[..., None] = getattr(contract(), name)
    test(**{"make": make, "tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {"make": make})


def test_its_capabilities_are_possible_and_a_directory_of_others_is_refused(
    folder_storage: type[StorageBackend], tmp_path: Path
) -> None:
    context = StorageContext(ports=system_ports())
    report = check("storage", "folder", url=f"folder://{tmp_path}/s", context=context)
    assert (report.problem, report.capabilities["flush_level"]) == ("", "disk")  # type: ignore[index]
    (tmp_path / "precious.txt").write_text("kept")

    async def main() -> None:
        with pytest.raises(StorageError, match="not empty") as caught:
            async with mqcore.open_broker(storage=f"folder://{tmp_path}"):
                pass
        assert caught.value.kind == "foreign"

    trio.run(main)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.usefixtures("folder_storage")
def test_two_brokers_never_have_the_same_folder(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"folder://{tmp_path}/s"
        async with mqcore.open_broker(storage=url):
            with pytest.raises(StorageError) as caught:
                async with mqcore.open_broker(storage=url):
                    pass
            assert caught.value.kind == "busy"

    trio.run(main)


@pytest.mark.usefixtures("folder_storage")
@pytest.mark.parametrize("seed", range(12))
def test_g01_a_broker_on_it_loses_nothing_acknowledged_to_a_power_cut_at_any_call(seed: int) -> None:
    settings = {"storage": "folder:///data", "listen": "inproc://folder", "flush": "sync"}
    sent = [b"message %d" % number for number in range(30)]
    acknowledged: list[bytes] = []

    async def first_life(disk: ModelDisk) -> None:
        async with mqcore.open_broker(ports=model_ports(seed, disk), **settings) as broker:
            async with mqcore.connect(*broker.urls) as client:
                await client.admin.create_topic("lines")
                disk.kill_at(disk.call_count + 1 + 7 * seed % 60, power_cut=True)
                async with client.producer("lines", delivery_timeout_ms=1000) as producer:
                    for value in sent:
                        await producer.send(value)
                        acknowledged.append(value)

    async def second_life(disk: ModelDisk) -> list[bytes]:
        async with mqcore.open_broker(ports=model_ports(seed + 1, disk), **settings) as broker:
            async with mqcore.connect(*broker.urls) as client, client.consumer("lines", start="start") as consumer:
                ends = await client.admin.look_up_offset("lines", 0, "end")
                return [(await anext(consumer)).value for _ in range(ends[0])]

    disk = ModelDisk(seeded(seed, "disk"))
    with pytest.raises((OSError, MqcoreError, ExceptionGroup)):
        run_simulation(first_life, disk, seed=seed)
    found = run_simulation(second_life, disk.restart(), seed=seed)
    assert found[: len(acknowledged)] == acknowledged
    assert found == sent[: len(found)]
