"""What runs at the same time in the mmap storage: deletions beside flushes, segments that are used again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import trio
import trio.testing

from mqcore.abc import StorageContext
from mqcore.ports import File, Ports, system_ports
from mqcore.ports._system_files import SystemFileSystem
from mqcore.url import Url
from mqcore_mmap import MmapStorage


class SlowFlushes(SystemFileSystem):
    """A file system whose flushes of several files wait in the middle for ``go_on`` (at most a second)."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.armed = False

    def flush_many(self, files: Sequence[File]) -> None:
        if self.armed:
            self.armed = False
            self.begun.set()
            self.go_on.wait(1)
        super().flush_many(files)


def test_a_deletion_beside_a_flush_of_the_log_stops_no_other_log(tmp_path: Path) -> None:
    async def main() -> None:
        plain = system_ports(1)
        files = SlowFlushes()
        ports = Ports(files=files, threads=plain.threads, clock=plain.clock, random=plain.random)
        options = MmapStorage.options_class(journal_range_bytes_max=0)
        backend = MmapStorage(Url.parse(f"mmap://{tmp_path}"), options, StorageContext(ports=ports))
        await backend.open()
        try:
            kept, deleted = [await backend.open_log(name) for name in ("kept", "deleted")]
            for log in (kept, deleted):
                await log.append([b"x" * 1000])
            files.armed = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(backend.flush, [kept, deleted])
                await trio.to_thread.run_sync(files.begun.wait, 1)
                nursery.start_soon(backend.delete_log, "deleted")
                await trio.testing.wait_all_tasks_blocked()
                files.go_on.set()
            await kept.append([b"y"])
            await backend.flush([kept])
            assert kept.durable_end == 1001
            assert await backend.list_logs() == ["kept"]
        finally:
            await backend.aclose()

    trio.run(main)
