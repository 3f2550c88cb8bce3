"""The backend of ``mmap://``: opening, listing and deleting logs. The work is done by ``_engine`` and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import trio

from mqcore.abc import (
    Capabilities,
    FlushedLog,
    Log,
    Notice,
    StorageBackend,
    StorageContext,
    StoredAt,
    check_log_name,
)
from mqcore.errors import ConfigurationError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.url import Url
from mqcore_mmap._config import MmapOptions
from mqcore_mmap._engine import DESCRIPTORS_BESIDE, Engine
from mqcore_mmap._errors import storage_error
from mqcore_mmap._layout import Names, is_in_use, open_layout, read_layout
from mqcore_mmap._loading import load_log
from mqcore_mmap._log import APPEND_BYTES_MAX, MmapLog
from mqcore_mmap._readonly import ReadonlyStorage
from mqcore_mmap._recovery import recover

__all__ = ["MmapStorage"]

CAPABILITIES = Capabilities(
    append_level=Level.PAGE_CACHE,
    flush_level=Level.DISK,
    simulable=True,
    proves_durable_end=True,
    append_bytes_max=APPEND_BYTES_MAX,
)
OPEN_FILES_LEAST = 8
CHECKED_AT_ONCE = 256
"""Files whose names are looked at while flushes wait."""


class MmapStorage(StorageBackend):
    """``mmap:///directory?segment_bytes=...``; see ``MmapOptions`` and the package."""

    options_class: ClassVar[type[MmapOptions]] = MmapOptions

    def __init__(self, url: Url, options: MmapOptions, context: StorageContext) -> None:
        super().__init__(url, options, context)
        root = url.path.rstrip("/")
        if not root:
            raise ConfigurationError(f"{url}: the root directory cannot be a storage; name a directory below it")
        self._root = root
        self._options: MmapOptions = options
        self._engine: Engine | None = None
        self._readonly: ReadonlyStorage | None = None
        self._open_files_max = 0
        self._opening: dict[str, trio.Lock] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Append reaches ``page-cache``, flush reaches ``disk``."""
        return CAPABILITIES

    @property
    def directories(self) -> Sequence[StoredAt]:
        """Its one directory."""
        return (StoredAt(directory=self._root, segment_bytes=self._options.segment_bytes),)

    def facts(self) -> dict[str, object]:
        """What is in force: ``open_files_max`` counts descriptors of segments and of their mappings."""
        facts: dict[str, object] = {
            "directory": self._root,
            "open_files_max": self._open_files_max,
            "segment_bytes": self._options.segment_bytes,
            "journal_bytes": self._options.journal_bytes,
        }
        if self._engine is not None:
            facts["open_files"] = self._engine.handles.used
            facts["storage_id"] = self._engine.storage_id.hex()
            facts["mount"] = self._engine.layout.mount
        return facts

    async def open(self) -> None:
        """Lock the directory, make or check its layout, finish removals, replay the journal."""
        if self._engine is not None:
            raise StorageError(f"storage {self._root} is open already", kind="busy", path=self._root)
        thread = self.context.ports.threads.start("open")
        try:
            with trio.CancelScope(shield=True):
                self._engine = await thread.run(self._open_blocking, trio.lowlevel.current_trio_token())
                self._engine.freeing.start()
        finally:
            await thread.aclose()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _open_blocking(self, trio_token: trio.lowlevel.TrioToken) -> Engine:
        files = self.context.ports.files
        self._open_files_max = self._derive_open_files_max()
        layout = open_layout(self.context.ports, self._root)
        try:
            recovered = recover(files, layout, self._options, self.context.report)
        except OSError as error:
            layout.lock.release()
            raise storage_error(error, "recover", self._root) from error
        except BaseException:
            layout.lock.release()
            raise
        return Engine(self.context, self._options, layout, recovered, self._open_files_max, trio_token)

    async def open_readonly(self) -> bool:
        """Open beside a running broker and return True; False, and nothing is open, when no broker has the storage."""
        ports, names = self.context.ports, Names(self._root)
        await trio.lowlevel.checkpoint()
        read_layout(ports.files, names)
        if not is_in_use(ports.files, names):
            return False
        self._readonly = ReadonlyStorage(ports, self._root, self._options.segment_bytes)
        return True

    def _derive_open_files_max(self) -> int:
        """Leave a reserve for connections: one descriptor for each, at most half of what the process may have."""
        process_max = self.context.ports.files.open_files_max()
        reserve = min(self.context.limits.connections_max + 64, process_max // 2)
        derived = process_max - reserve - DESCRIPTORS_BESIDE
        return max(OPEN_FILES_LEAST, self._options.open_files_max or derived)

    async def aclose(self) -> None:
        """Flush and close every log, empty the journal, end the threads, release the lock."""
        engine, self._engine = self._engine, None
        readonly, self._readonly = self._readonly, None
        if readonly is not None:
            await readonly.aclose()
        if engine is not None:
            await engine.aclose()
        await trio.lowlevel.checkpoint()

    async def list_logs(self) -> list[str]:
        """Names of the logs that have a segment, sorted."""
        await trio.lowlevel.checkpoint()
        if self._readonly is not None:
            return self._readonly.list_logs()
        engine = self._opened()
        return sorted(engine.found)

    async def open_log(self, name: str) -> Log:
        """Open the log called ``name``; see ``StorageBackend.open_log``. Raises ``CorruptionError`` too."""
        if self._readonly is not None:
            await trio.lowlevel.checkpoint()
            return self._readonly.open_log(name)
        engine = self._opened()
        check_log_name(name, CAPABILITIES.log_name_bytes_max)
        async with self._opening.setdefault(name, trio.Lock()):
            log = engine.logs.get(name)
            if log is None:
                log = await self._load(engine, name)
            else:
                log.check_not_failed()  # what it shows now is no content to recover from
        self._opening.pop(name, None)
        return log

    async def _load(self, engine: Engine, name: str) -> MmapLog:
        if engine.failure is not None:
            raise StorageError(f"storage {self._root} has stopped: {engine.failure}", kind="flush", path=self._root)
        found = engine.found.get(name)
        log = MmapLog(name, engine, None)
        if found:
            try:
                loaded = await engine.flush_thread.run(
                    load_log,
                    self.context.ports.files,
                    engine.files,
                    engine.layout,
                    self._options,
                    name,
                    found,
                    engine.neighbours(name),
                )
            except OSError as error:
                raise storage_error(error, f"open log {name} in", self._root) from error
            if loaded.segments:
                log.load(loaded.segments, loaded.end, loaded.durable_end, clean=loaded.clean)
                self._report_missing(log)
        else:
            await trio.lowlevel.checkpoint()
        engine.logs[name] = log
        return log

    def _report_missing(self, log: MmapLog) -> None:
        for segment in log.segments:
            if segment.is_missing:
                end = segment.base + segment.allocated
                where = f"{segment.path} (positions {segment.base} to {end})"
                text = f"log {log.name}: {where} is missing; restore it from a copy"
                facts: dict[str, object] = {"log": log.name, "position": segment.base, "end_position": end}
                self.context.report(Notice("segment-missing", text, facts))

    async def begin_log(self, name: str, start: int) -> Log:
        """Open a log that does not exist yet, to begin at ``start``."""
        log = await self.open_log(name)
        engine = self._opened()
        if log.end:
            raise ValueError(f"log {name} exists already, it cannot be made to begin at {start}")
        log = engine.logs[name] = MmapLog(name, engine, None, start)
        return log

    async def delete_log(self, name: str) -> None:
        """Delete a log, durably; an open handle becomes closed first."""
        engine = self._opened()
        check_log_name(name, CAPABILITIES.log_name_bytes_max)
        if name not in engine.found and name not in engine.logs:
            await trio.lowlevel.checkpoint()
            return
        log = await self.open_log(name)
        assert isinstance(log, MmapLog)
        log.shut()
        engine.logs.pop(name, None)
        await engine.delete(log)
        engine.found.pop(name, None)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Make everything appended to ``logs`` durable by about one flush; see ``StorageBackend.flush``."""
        engine = self._opened()
        own: list[MmapLog] = []
        for log in logs:
            if not isinstance(log, MmapLog):
                raise TypeError(f"{log!r} is not a log of this storage")
            log.check_open()
            own.append(log)
        stopped = [log.name for log in own if log.failure is not None]
        if stopped:
            for log in own:
                log.failure_told = True
            raise FlushFailedError(
                f"log {stopped[0]} has stopped after a failed flush; restart, so that the device is read again",
                logs=stopped,
                path=self._root,
            )
        for log in own:
            if not log.is_dirty:  # it is given to be looked at; those that are dirty are looked at by the flush itself
                try:
                    engine.files.check_in_place(log.segments)
                except StorageError as error:
                    raise self._stopped_by(error, own) from error
        await engine.flush(own)
        return [FlushedLog(log.durable_end, Level.DISK) for log in own]

    async def check_in_place(self, logs: Sequence[Log] = ()) -> None:
        """Look whether the storage, and the files of ``logs``, are in place; see ``StorageBackend.check_in_place``."""
        engine = self._opened()
        try:
            await engine.reader.run(engine.flusher.check_in_place)
            for log in logs:
                if isinstance(log, MmapLog) and not log.closed:
                    await self._check_segments(engine, log)
        except OSError as error:
            raise storage_error(error, "look at", self._root) from error

    async def _check_segments(self, engine: Engine, log: MmapLog) -> None:
        at = log.start
        while True:
            async with engine.flushing:  # what names and removes files is not half done in it
                wanted = [segment for segment in log.segments if segment.base >= at][:CHECKED_AT_ONCE]
                if not wanted or log.closed:
                    return
                await engine.reader.run(engine.files.check_names, wanted)
            at = wanted[-1].base + 1

    def _stopped_by(self, error: StorageError, logs: Sequence[MmapLog]) -> FlushFailedError:
        """Stop ``logs``, of which one is not in its place any more; return what is to be raised."""
        reason = f"a flush failed ({error}); {len(logs)} logs stop here: restart, so that the device is read again"
        for log in logs:
            log.fail(reason)
            log.failure_told = True
        return FlushFailedError(reason, logs=[log.name for log in logs], path=self._root)

    def _opened(self) -> Engine:
        if self._engine is None:
            raise StorageError(f"storage {self._root} is not open", kind="closed", path=self._root)
        return self._engine
