"""The wrappers that change nothing: every method of the contract arrives inside, those of later versions too."""

from __future__ import annotations

import inspect

import attrs
import pytest

from mqcore.abc import FlushedLog, Link, Log, StorageBackend, StorageContext, Transport
from mqcore.errors import CommandNotPossibleError
from mqcore.guarantees import Level
from mqcore.links import PassThroughLink, PassThroughTransport
from mqcore.ports import File, FileSystem
from mqcore.registry import create_storage
from mqcore.testing import (
    ModelDisk,
    PassThroughFile,
    PassThroughFileSystem,
    PassThroughLog,
    PassThroughStorage,
    model_ports,
    run_simulation,
)

NOT_PASSED_ON = {
    FileSystem: {"open_directory"},  # flushes by ``flush_directory``, so that an override of that sees both
    StorageBackend: set(),
    Log: set(),
    File: set(),
    Link: set(),
    Transport: set(),
}


@pytest.mark.parametrize(
    ("contract", "wrapper"),
    [
        (StorageBackend, PassThroughStorage),
        (Log, PassThroughLog),
        (FileSystem, PassThroughFileSystem),
        (File, PassThroughFile),
        (Link, PassThroughLink),
        (Transport, PassThroughTransport),
    ],
)
def test_a_wrapper_passes_on_every_method_of_its_contract(contract: type, wrapper: type) -> None:
    public = {name for name, value in vars(contract).items() if not name.startswith("_")
              and (inspect.isfunction(value) or isinstance(value, property))}  # fmt: skip
    assert public - vars(wrapper).keys() == NOT_PASSED_ON[contract]


def test_a_wrapped_storage_on_wrapped_files_keeps_what_it_flushed_and_its_abilities() -> None:
    disk = ModelDisk(1)

    def make() -> PassThroughStorage:
        ports = attrs.evolve(model_ports(1, disk), files=PassThroughFileSystem(disk))
        return PassThroughStorage(create_storage("mmap:///s", StorageContext(ports=ports)))

    async def main() -> None:
        storage = make()
        await storage.open()
        log = await storage.open_log("a")
        assert await storage.open_log("a") is log
        await log.append([b"one"])
        assert await storage.flush([log]) == [FlushedLog(3, Level.DISK)]
        reader = make()
        assert await reader.open_readonly()
        assert bytes(await (await reader.open_log("a")).read(0, 3)) == b"one"
        await reader.aclose()
        with pytest.raises(CommandNotPossibleError, match="mmap"):
            await storage.operate("rebuild", {})
        await storage.aclose()

    run_simulation(main, seed=1)
