"""Old bytes that the page cache has are read without a hand-over to a thread; others by a thread."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
import trio

from mqcore.abc import StorageContext
from mqcore.ports import system_ports
from mqcore.ports._residency import pages_resident
from mqcore.registry import create_storage
from mqcore_mmap import _log

pytestmark = pytest.mark.needs("linux")


def test_residency_follows_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"x" * (1 << 20))
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    with mmap.mmap(descriptor, 1 << 20, access=mmap.ACCESS_READ) as mapped:
        assert pages_resident(mapped, 5, 100_000), "just written"
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        assert not pages_resident(mapped, 0, 1 << 20)
        os.pread(descriptor, 10, 4096)
        assert pages_resident(mapped, 4100, 10)
        assert not pages_resident(mapped, 0, (1 << 20) + 1), "beyond the mapping"
    os.close(descriptor)


def test_a_thread_is_asked_only_for_what_is_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trio.run(_check_reads, tmp_path, monkeypatch)


async def _check_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "READ_INLINE_BYTES", 0)
    backend = create_storage(f"mmap://{tmp_path}/s", StorageContext(ports=system_ports()))
    await backend.open()
    try:
        log = await backend.open_log("old")
        await log.append([b"y" * 400_000])
        await backend.flush([log])
        reader = log._engine.reader  # type: ignore[attr-defined]
        asked: list[object] = []
        run = reader.run

        async def counted(*arguments: object) -> object:
            asked.append(arguments[0])
            return await run(*arguments)

        monkeypatch.setattr(reader, "run", counted)
        assert bytes(await log.read(1000, 300_000)) == b"y" * 300_000
        assert asked == []
        log.segments[0].file.drop_cache(0, 0)  # type: ignore[attr-defined]
        log.segments[0].mapping.close()  # type: ignore[attr-defined]
        log.segments[0].mapping = None  # type: ignore[attr-defined]
        log.segments[0].file.drop_cache(0, 0)  # type: ignore[attr-defined]
        assert bytes(await log.read(1000, 300_000)) == b"y" * 300_000
        assert [function.__name__ for function in asked] == ["load"], "what lets other threads go on"  # type: ignore[attr-defined]
    finally:
        await backend.aclose()
