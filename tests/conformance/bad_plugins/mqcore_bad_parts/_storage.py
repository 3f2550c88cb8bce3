"""A directory with one file per log, honest unless told otherwise. ``own_io``: it does not go through the ports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from mqcore.abc import Buffer, Capabilities, FlushedLog, Log, StorageBackend, StorageContext, Url, check_log_name
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.ports import File, Lock, system_ports
from mqcore_bad_parts._faults import Faulty

LOCK, LOG_BYTES_MAX = ".lock", 64 * 1024 * 1024

KEPT: dict[str, bytes] = {}
"""What a storage that ``keeps`` has of its files outside its disk."""
LIVES: list[str] = []
"""Folders that a storage that ``counts-lives`` has seen opened."""


@attrs.frozen(kw_only=True)
class BadOptions:
    does: str = ""
    where: str = ""
    own_io: bool = False


class BadLog(Log):
    start = 0
    level = Level.DISK

    def __init__(self, storage: BadStorage, name: str, file: File) -> None:
        self.storage, self.name, self.file = storage, name, file
        self.true_end, self.durable = file.size(), 0
        self.closed = False
        self.held = b""
        self.cached: dict[tuple[int, int], bytes] = {}

    @property
    def end(self) -> int:
        self.storage.now("end")
        wrong = self.storage.lies("reports-a-wrong-end") and self.true_end > 5_000
        return self.true_end + wrong

    @property
    def durable_end(self) -> int:
        return self.true_end if self.storage.lies("overstates-what-is-durable") else self.durable

    async def append(self, chunks: Sequence[Buffer]) -> int:
        self.check()
        if self.storage.lies("reorders"):
            chunks = list(reversed(chunks))
        data, position = b"".join(chunks), self.true_end
        if len(data) > LOG_BYTES_MAX:
            raise StorageError(f"{len(data)} bytes are more than {LOG_BYTES_MAX}", kind="limit")
        self.true_end += len(data)
        await self.storage.at("append")
        if self.storage.lies("loses-the-tail") and len(data) > 600:
            data = data[:-1] + b"\0"
        if self.storage.lies("keeps-bytes-to-itself"):
            self.held += data
        else:
            self.file.pwritev([data], position)
        await trio.lowlevel.checkpoint()
        return position

    async def read(self, position: int, size: int) -> memoryview:
        self.check()
        await self.storage.at("read")
        await trio.lowlevel.checkpoint()
        if not 0 <= position <= self.true_end:
            raise ValueError(f"position {position} is outside the log, which ends at {self.true_end}")
        size = min(size, self.true_end - position)
        self.write_held()
        data = self.file.pread(size, position)
        if self.storage.lies("returns-stale-bytes"):
            data = self.cached.setdefault((position, size), data)
        return memoryview(data)

    async def truncate(self, position: int) -> None:
        self.check()
        await self.storage.at("truncate")
        await trio.lowlevel.checkpoint()
        if not 0 <= position <= self.true_end:
            raise ValueError(f"position {position} is outside the log, which ends at {self.true_end}")
        self.write_held()
        self.true_end, self.durable = position, min(self.durable, position)
        if not self.storage.lies("forgets-a-truncation"):
            self.file.truncate(position)
            self.file.flush()

    async def trim(self, position: int) -> int:
        self.check()
        await self.storage.at("trim")
        await trio.lowlevel.checkpoint()
        if self.storage.lies("trims-in-memory-only"):
            self.start = position
        return self.start

    async def aclose(self) -> None:
        if not self.closed:
            self.write_held()
            self.file.flush()
            self.close()
        await trio.lowlevel.checkpoint()

    def write_held(self) -> None:
        held, self.held = self.held, b""
        if held:
            self.file.pwritev([held], self.true_end - len(held))

    def close(self) -> None:
        self.closed = True
        self.file.close()
        self.storage.logs.pop(self.name, None)

    def check(self) -> None:
        if self.closed:
            raise StorageError(f"log {self.name} is closed", kind="closed")


class BadStorage(StorageBackend, Faulty):
    options_class = BadOptions

    def __init__(self, url: Url, options: BadOptions, context: StorageContext) -> None:
        super().__init__(url, options, context)
        ports = system_ports() if options.own_io or self.lies("opens-real-files") else context.ports
        self.files, self.root = ports.files, url.path
        self.logs: dict[str, BadLog] = {}
        self.lock: Lock | None = None
        self.now("constructor")
        if self.lies("works-in-the-constructor"):
            Path(self.root).mkdir(parents=True, exist_ok=True)

    @property
    def capabilities(self) -> Capabilities:
        self.now("capabilities")
        if self.lies("claims-garbage"):
            return "all of them"  # type: ignore[return-value]
        if self.lies("claims-the-impossible"):
            return Capabilities(append_level=Level.DISK, flush_level=Level.PAGE_CACHE)
        return Capabilities(
            append_level=Level.PAGE_CACHE,
            flush_level=Level.MIRROR if self.lies("claims-a-mirror") else Level.DISK,
            member_losses_survived=1 if self.lies("claims-a-mirror") else 0,
            simulable=not self.options.own_io,
            proves_durable_end=self.lies("claims-to-prove-durable-ends"),
        )

    async def open(self) -> None:
        await self.at("open")
        await trio.lowlevel.checkpoint()
        if self.lies("counts-lives"):
            LIVES.append(self.root)
            await trio.sleep(len(LIVES) / 1_000)
        if self.lies("opens-real-files"):
            os.makedirs(self.root, exist_ok=True)
        self.files.make_directory(self.root)
        self.files.flush_directory(self.root.rpartition("/")[0] or "/")
        try:
            self.lock = self.files.lock(f"{self.root}/{LOCK}")
            if self.lies("keeps") and not await self.list_logs():
                KEPT.clear()
        except BlockingIOError as error:
            raise StorageError(f"{self.root} is in use: stop the broker that has it", kind="busy") from error
        self.files.flush_directory(self.root)

    async def aclose(self) -> None:
        await self.at("aclose")
        for log in list(self.logs.values()):
            await log.aclose()
        if self.lock is not None:
            self.lock.release()
        self.lock = None
        await trio.lowlevel.checkpoint()

    async def list_logs(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return [name for name in self.files.list(self.root) if name != LOCK]

    async def open_log(self, name: str) -> Log:
        if not self.lies("takes-any-name"):
            check_log_name(name, self.capabilities.log_name_bytes_max)
        await self.at("open_log")
        await trio.lowlevel.checkpoint()
        if self.lies("takes-any-name"):
            name = "".join(letter for letter in name.lower() if letter.isalnum())[:100] or "x"
        if name not in self.logs:
            file = self.files.open(path := f"{self.root}/{name}", create=True)
            if kept := KEPT.get(path):
                file.pwritev([kept], 0)
            self.files.flush_directory(self.root)
            file.flush()
            file.drop_cache(0, 0)
            self.logs[name] = BadLog(self, name, file)
            if self.lies("states-what-it-flushed-at-open"):  # true after a kill, which takes nothing from the file
                self.logs[name].durable = file.size()
        return self.logs[name]

    async def delete_log(self, name: str) -> None:
        check_log_name(name, self.capabilities.log_name_bytes_max)
        await self.at("delete_log")
        await trio.lowlevel.checkpoint()
        if log := self.logs.get(name):
            log.close()
        KEPT.pop(f"{self.root}/{name}", None)
        try:
            self.files.unlink(f"{self.root}/{name}")
        except FileNotFoundError:
            return
        self.files.flush_directory(self.root)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        await self.at("flush")
        for log in logs:
            assert isinstance(log, BadLog)
            if self.lies("loses-a-flushed-log") and log is not logs[0]:
                continue
            if self.lies("keeps"):
                KEPT[f"{self.root}/{log.name}"] = log.file.pread(log.true_end, 0)
            elif not self.lies("acknowledges-before-flushing"):
                log.write_held()
                log.file.flush()
        for log in logs:
            log.durable = log.true_end  # type: ignore[attr-defined]
        await trio.lowlevel.checkpoint()
        return [FlushedLog(log.durable_end, log.level) for log in logs]
