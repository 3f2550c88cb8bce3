"""An array on real directories (T1): one of them deleted, mounted over, filled, or closed to its owner meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from array_parts import put, read_all, states

from mqcore.abc import Notice, StorageContext
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.registry import create_storage

SMALL = "segment_bytes=65536&first_extent_bytes=16384&extent_bytes_max=16384&journal_bytes=65536"
pytestmark = pytest.mark.needs("linux")


@asynccontextmanager
async def array(folder: Path, notices: list[Notice] | None = None) -> AsyncIterator[Any]:
    report = [].append if notices is None else notices.append
    url = f"raid://{folder}/a,{folder}/b?level=1&{SMALL}"
    storage = create_storage(url, StorageContext(ports=system_ports(), report=report))
    await storage.open()
    try:
        yield storage
    finally:
        await storage.aclose()


async def is_there(folder: Path, content: bytes) -> list[str]:
    """Find ``content`` in the array as it is now; return the states of its members."""
    async with array(folder) as storage:
        assert await read_all(await storage.open_log("log"), len(content)) == content
        return list(states(storage))


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "mqcore-test", path], check=True, timeout=120)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True, timeout=120)


def fill(path: Path) -> None:
    """Write zeros until the file system is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def append_many(storage: Any, log: Any) -> None:
    for _ in range(100):
        await log.append([b"y" * 1000])
        await storage.flush([log])


@pytest.mark.parametrize("lost", ["a", "b"])
def test_a_directory_that_is_deleted_is_out_before_the_acknowledgement(tmp_path, lost):
    async def main() -> None:
        async with array(tmp_path) as storage:
            await put(storage, b"x" * 1000)
            shutil.rmtree(tmp_path / lost)
            log = await storage.open_log("log")
            await log.append([b"y" * 1000])
            (reached,) = await storage.flush([log])
            assert reached.level is Level.DISK
            assert sorted(states(storage)) == ["ejected", "in-sync"]
        assert sorted(await is_there(tmp_path, b"x" * 1000 + b"y" * 1000)) == ["ejected", "in-sync"]

    trio.run(main)


@pytest.mark.needs("root")
def test_a_directory_that_is_mounted_over_is_out_before_the_acknowledgement(tmp_path):
    async def main() -> None:
        async with array(tmp_path) as storage:
            await put(storage, b"x" * 1000)
            with tmpfs(tmp_path / "b", "4m"):
                log = await storage.open_log("log")
                await log.append([b"y" * 1000])
                (reached,) = await storage.flush([log])
                assert (reached.level, states(storage)[1]) == (Level.DISK, "ejected")
        # what is below the mount again is an old copy
        assert await is_there(tmp_path, b"x" * 1000 + b"y" * 1000) == ["in-sync", "ejected"]

    trio.run(main)


@pytest.mark.needs("root")
def test_a_file_system_that_is_full_refuses_for_all_and_goes_on_when_there_is_room(tmp_path):
    async def main() -> None:
        with tmpfs(tmp_path / "small", "2m"):
            (tmp_path / "small" / "b").mkdir()
            (tmp_path / "b").symlink_to(tmp_path / "small" / "b")
            async with array(tmp_path) as storage:
                log = await put(storage, b"x" * 1000)
                ballast = tmp_path / "small" / "ballast"
                fill(ballast)
                with pytest.raises(StorageError, match="refuses the append, and so do all") as caught:
                    await append_many(storage, log)
                assert (caught.value.kind, caught.value.appended) == ("full", False)
                held = await read_all(log)
                ballast.unlink()
                await log.append([b"z" * 60_000])
                (reached,) = await storage.flush([log])
                assert (reached.level, list(states(storage))) == (Level.MIRROR, ["in-sync", "in-sync"])
            (tmp_path / "a").rename(tmp_path / "away")
            async with array(tmp_path) as storage:  # the one that was full has the same, alone
                assert await read_all(await storage.open_log("log")) == held + b"z" * 60_000

    trio.run(main)


CLOSED = """
    import os, sys, trio
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from test_raid_real_directories import array, is_there
    from array_parts import put, states

    async def main():
        folder, written = Path({folder!r}), b""
        async with array(folder) as storage:
            log = await put(storage, b"x" * 1000)
            written += b"x" * 1000
            if os.geteuid() == 0:  # whom no permission stops
                for path, names, files in os.walk(folder):
                    for each in (path, *(os.path.join(path, name) for name in files)):
                        os.chown(each, 65534, 65534)
                os.setegid(65534)
                os.seteuid(65534)
            for path, _, _ in os.walk(folder / "b", topdown=False):
                os.chmod(path, 0)
            for _ in range(100):  # until a new segment is made
                await log.append([b"y" * 2000])
                written += b"y" * 2000
                await storage.flush([log])
            print(*states(storage))
        print(*await is_there(folder, written))

    trio.run(main)
"""


def test_a_directory_that_is_closed_to_its_owner_is_ejected_when_it_is_needed():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = textwrap.dedent(CLOSED.format(folder=folder, tests=os.path.dirname(__file__)))
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["in-sync ejected", "in-sync ejected"]
