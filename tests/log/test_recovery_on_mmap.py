"""The log on real files: a kill, damage in a segment, a torn end. A copy of the directory is what a kill leaves."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
from shelf_storage import LIMITS, Broker, batch, read_all, sent, start

from mqcore.abc import StorageBackend, StorageContext
from mqcore.log import DamagedRangeError, Duplicate
from mqcore.ports import FileFacts, system_ports
from mqcore.registry import create_storage
from mqcore.testing import PassThroughFileSystem

BATCHES = [batch(b"needle-%02d" % number * 60, producer_id=9, first_sequence=number) for number in range(40)]


def storage(path: Path) -> StorageBackend:
    return create_storage(f"mmap://{path}", StorageContext(ports=system_ports(), limits=LIMITS))


def killed(path: Path, *, flushed: int) -> Path:
    """Directory of a broker that appended ``BATCHES``, flushed the first ``flushed``, and was killed."""

    async def main() -> None:
        broker = await start(storage(path / "live"))
        log = await broker.log()
        for number, each in enumerate(BATCHES):
            await log.append([each])
            if number == flushed - 1:
                await broker.store.flush([log])
        shutil.copytree(path / "live", path / "killed")
        await broker.store.aclose()

    trio.run(main)
    return path / "killed"


def flip(path: Path, needle: bytes) -> None:
    """Flip a bit of the one place where ``needle`` is stored."""
    hits = 0
    for file in path.rglob("*"):
        if file.is_file() and (at := (data := bytearray(file.read_bytes())).find(needle)) >= 0:
            data[at] ^= 1
            file.write_bytes(data)
            hits += 1
    assert hits == 1


def on(path: Path, main: Callable[[Broker], Awaitable[None]]) -> None:
    async def whole() -> None:
        broker = await start(storage(path))
        await main(broker)
        await broker.store.aclose()

    trio.run(whole)


def test_g01_g17_after_a_kill_everything_that_reached_the_page_cache_is_there_twice_over(tmp_path: Path) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        assert await read_all(log) == sent(BATCHES)
        assert log.check([BATCHES[-1].header]) == [Duplicate(39, 40)]
        assert log.durable_offset == 40
        told.append(broker.kinds)

    told: list[list[str]] = []
    path = killed(tmp_path, flushed=20)
    on(path, main)
    on(path, main)
    assert told == [["storage-elsewhere"], []], "what was killed is a copy, and is told to be one once"


class OneInode(PassThroughFileSystem):
    """File systems that give a new file the number that became free, as ext4 does: at worst the same to each."""

    def stat(self, path: str) -> FileFacts:
        return attrs.evolve(super().stat(path), inode=7)


def test_r2_a_copy_that_is_put_where_the_storage_was_comes_under_another_incarnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lack what was reported since, and has the inode number that the storage had."""
    ports = attrs.evolve(system_ports(), files=OneInode(system_ports().files))
    monkeypatch.setattr(sys.modules[__name__], "system_ports", lambda: ports)
    told: list[tuple[int, list[str]]] = []
    if not ports.files.birth(str(tmp_path)).born_ns:
        pytest.skip("this file system does not say when a file was made")

    async def main(broker: Broker) -> None:
        told.append((broker.store.incarnation, broker.kinds))
        await trio.lowlevel.checkpoint()

    copied = killed(tmp_path, flushed=20)
    live = tmp_path / "live"
    shutil.rmtree(live)
    shutil.copytree(copied, live)
    on(live, main)
    assert told == [(2, ["storage-elsewhere"])]


async def opened(broker: Broker) -> None:
    await broker.log()


def test_g12_damage_in_a_segment_below_the_mark_costs_one_batch(tmp_path: Path) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        with pytest.raises(DamagedRangeError) as caught:
            await log.read(5, 1 << 20, 40)
        assert (caught.value.first_offset, caught.value.next_offset) == (5, 6)
        assert await read_all(log, 6) == sent(BATCHES[6:])
        assert await log.append([batch(b"on")]) == [40]

    path = killed(tmp_path, flushed=40)
    on(path, opened)  # a clean stop: everything lies below the mark
    flip(path, b"needle-05")
    on(path, main)


def test_g02_damage_above_the_mark_ends_the_log_there_and_is_kept_aside(tmp_path: Path) -> None:
    path = killed(tmp_path, flushed=20)
    flip(path, b"needle-30")

    async def main(broker: Broker) -> None:
        log = await broker.log()
        assert await read_all(log) == sent(BATCHES[:30])
        assert [kind for kind in broker.kinds if kind.startswith("log-")] == ["log-torn"]
        names = await broker.store.backend.list_logs()
        assert any(".quarantine-" in name for name in names)

    on(path, main)
