"""A backup: a folder with one file per log and a list of them, written last. No storage that a broker could run on.

``logs/NAME@START`` holds the bytes of the log ``NAME`` from position ``START`` on; ``manifest.json`` says what has to
be there, with checksums. A folder without it is a backup that was not finished. Layout: docs/backup.md.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from typing import Any

from crc32c import crc32c

from mqcore.abc import Buffer, Capabilities, FlushedLog, Log, StorageBackend, StorageContext, check_log_name
from mqcore.errors import ConfigurationError, CorruptionError, StorageError
from mqcore.guarantees import Level
from mqcore.log._names import TRANSFER_NAME
from mqcore.ports import DeviceThread, File, FileSystem, Lock
from mqcore.url import Url

__all__ = ["BackupFolder"]

LOGS, LOCK, MANIFEST, MANIFEST_NEW = "logs", "lock", "manifest.json", "manifest.json.new"
FORMAT = 1
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
LOG_NAME_BYTES_MAX = 200
"""A file name has at most 255 bytes on the usual file systems; the start takes 21 of them."""


class _FolderLog(Log):
    """One file. Positions are the log's own: the file begins at ``start``."""

    def __init__(self, name: str, start: int, file: File, size: int, thread: DeviceThread) -> None:
        self.name = name
        self.file = file
        self._start = start
        self._size = size
        self._thread = thread

    @property
    def start(self) -> int:
        return self._start

    @property
    def end(self) -> int:
        return self._start + self._size

    @property
    def durable_end(self) -> int:
        """The end: a finished backup is flushed, and one that is not is compared with what it comes from."""
        return self.end

    @property
    def level(self) -> Level:
        return Level.DISK

    async def append(self, chunks: Sequence[Buffer]) -> int:
        position, at = self.end, self._size
        try:
            self._size += await self._thread.run(self.file.pwritev, list(chunks), at)
        except OSError as error:
            raise _failed(error, "write", self.file.path, appended=True) from error
        return position

    async def read(self, position: int, size: int) -> memoryview:
        if not self.start <= position <= self.end:
            raise ValueError(f"position {position} is not within {self.start} to {self.end}")
        try:
            data = await self._thread.run(self.file.pread, min(size, self.end - position), position - self._start)
        except OSError as error:
            raise _failed(error, "read", self.file.path, position=position) from error
        return memoryview(data)

    async def truncate(self, position: int) -> None:
        try:
            await self._thread.run(self._truncate, position - self._start)
        except OSError as error:
            raise _failed(error, "truncate", self.file.path) from error
        self._size = position - self._start

    def _truncate(self, size: int) -> None:
        self.file.truncate(size)
        self.file.flush()

    async def trim(self, position: int) -> int:
        raise StorageError(f"{self.file.path}: a backup gives nothing up", kind="foreign")

    async def aclose(self) -> None:
        await self._thread.run(self.file.close)


class BackupFolder(StorageBackend):
    """The folder at the absolute path ``path``. ``writing``: it is made, or gone on with; else it has to be finished.

    ``manifest`` is what the finished one says.
    """

    def __init__(self, path: str, context: StorageContext, *, writing: bool) -> None:
        super().__init__(Url("backup", path), None, context)
        self.manifest: Mapping[str, Any] = {}
        self._path = path
        self._writing = writing
        self._files: FileSystem = context.ports.files
        self._thread = context.ports.threads.start("backup")
        self._lock: Lock | None = None
        self._open: dict[str, _FolderLog] = {}

    @property
    def capabilities(self) -> Capabilities:
        """What files in a folder reach."""
        return Capabilities(
            append_level=Level.PAGE_CACHE,
            flush_level=Level.DISK,
            simulable=True,
            log_name_bytes_max=LOG_NAME_BYTES_MAX,
        )

    async def open(self) -> None:
        """Take the folder. Raises ``StorageError`` (``busy``, ``foreign``, ``missing``), ``CorruptionError``."""
        try:
            await self._thread.run(self._take)
        except OSError as error:
            raise _failed(error, "open", self._path) from error

    def _take(self) -> None:
        files = self._files
        if self._writing:
            files.make_directory(self._path)
        there = set(files.list(self._path))
        strange = there - {LOGS, LOCK, MANIFEST, MANIFEST_NEW}
        if strange:
            text = f"{self._path} holds {min(strange)!r}, which is of no backup: name an empty folder, or a backup's"
            raise StorageError(text, kind="foreign", path=self._path)
        if self._writing and MANIFEST in there:
            raise StorageError(f"{self._path} holds a backup already: name another folder", kind="foreign")
        if not self._writing and MANIFEST not in there:
            text = f"{self._path} holds no finished backup: {MANIFEST} is written last, and is not there"
            raise StorageError(text, kind="missing", path=self._path)
        try:
            self._lock = files.lock(f"{self._path}/{LOCK}", create=self._writing)
        except FileNotFoundError:
            self._lock = None  # copied without it: nothing writes to a finished backup
        except BlockingIOError:
            raise StorageError(f"{self._path} is in use by another command", kind="busy", path=self._path) from None
        if self._writing:
            files.make_directory(f"{self._path}/{LOGS}")
            files.flush_directory(self._path)
            # Else a crash may leave nothing of the folder itself, whatever was flushed within.
            files.flush_directory(self._path.rpartition("/")[0] or "/")
        else:
            self.manifest = self._read_manifest()

    def _read_manifest(self) -> dict[str, Any]:
        path = f"{self._path}/{MANIFEST}"
        file = self._files.open(path, write=False)
        try:
            if file.size() > MANIFEST_BYTES_MAX:
                raise CorruptionError("the list of logs is too long to be one", where=path)
            text = file.pread(file.size(), 0)
        finally:
            file.close()
        manifest: dict[str, Any] = {}
        try:
            whole = json.loads(text)
            manifest = whole["manifest"]
            is_sealed = whole["checksum"] == _checksum(manifest)
        except (ValueError, TypeError, KeyError):
            is_sealed = False
        if not is_sealed:
            raise CorruptionError(
                "the list of logs is damaged: take another copy of this backup", where=path, expected="its checksum"
            )
        if manifest.get("format") != FORMAT:
            raise StorageError(
                f"{path} is of format {manifest.get('format')!r}, not {FORMAT}: use the mqcore that wrote it",
                kind="foreign",
            )
        return manifest

    async def seal(self, manifest: Mapping[str, Any]) -> None:
        """Write the list of what is there, durably: the backup is finished then. Raises ``StorageError``.

        If cancelled, it may be finished.
        """
        whole = {"format": FORMAT, **manifest}
        text = json.dumps({"checksum": _checksum(whole), "manifest": whole}, indent=1, sort_keys=True) + "\n"
        try:
            await self._thread.run(self._seal, text.encode())
        except OSError as error:
            raise _failed(error, "finish", self._path) from error

    def _seal(self, data: bytes) -> None:
        files, path = self._files, f"{self._path}/{MANIFEST_NEW}"
        file = files.open(path, create=True)
        try:
            file.truncate(0)
            file.pwritev([data], 0)
            file.flush()
        finally:
            file.close()
        files.rename(path, f"{self._path}/{MANIFEST}")
        files.flush_directory(self._path)

    async def aclose(self) -> None:
        """Close the files, release the folder. Nothing is flushed that ``flush`` was not asked for. Idempotent."""
        for log in self._open.values():
            await log.aclose()
        self._open.clear()
        lock, self._lock = self._lock, None
        if lock is not None:
            await self._thread.run(lock.release)
        await self._thread.aclose()

    async def list_logs(self) -> list[str]:
        """Names of the logs that have a file, sorted."""
        names = set(await self._starts())
        # Removed after the list of logs was written, so that a backup that is not finished is told from any other.
        return sorted(names if self._writing else names - {TRANSFER_NAME})

    async def _starts(self) -> dict[str, int]:
        try:
            names = await self._thread.run(self._files.list, f"{self._path}/{LOGS}")
        except OSError as error:
            raise _failed(error, "list", self._path) from error
        found: dict[str, int] = {}
        for each in names:
            name, mark, start = each.rpartition("@")
            if not (mark and start.isascii() and start.isdigit() and len(start) <= 20) or name in found:
                raise StorageError(f"{self._path}/{LOGS}/{each} is no file of a backup", kind="foreign")
            check_log_name(name, LOG_NAME_BYTES_MAX)
            found[name] = int(start)
        return found

    async def open_log(self, name: str) -> Log:
        """Open a log, made empty when there is none."""
        return await self.begin_log(name, (await self._starts()).get(name, 0))

    async def begin_log(self, name: str, start: int) -> Log:
        """Open a log that begins at ``start``."""
        check_log_name(name, LOG_NAME_BYTES_MAX)
        known = self._open.pop(name, None)
        if known is not None:
            await known.aclose()
        try:
            file, size = await self._thread.run(self._open_file, f"{self._path}/{LOGS}/{name}@{start}")
        except OSError as error:
            raise _failed(error, f"open log {name} in", self._path) from error
        log = self._open[name] = _FolderLog(name, start, file, size, self._thread)
        return log

    def _open_file(self, path: str) -> tuple[File, int]:
        file = self._files.open(path, create=self._writing, write=self._writing)
        return file, file.size()

    async def delete_log(self, name: str) -> None:
        """Remove a log's file, durably."""
        known = self._open.pop(name, None)
        if known is not None:
            await known.aclose()
        start = (await self._starts()).get(name)
        if start is not None:
            try:
                await self._thread.run(self._remove, f"{self._path}/{LOGS}/{name}@{start}")
            except OSError as error:
                raise _failed(error, f"delete log {name} in", self._path) from error

    def _remove(self, path: str) -> None:
        self._files.unlink(path)
        self._files.flush_directory(f"{self._path}/{LOGS}")

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Flush the files and their folder. Raises ``StorageError``: the backup is to be begun anew then."""
        own = [log for log in logs if isinstance(log, _FolderLog)]
        reached = [FlushedLog(log.end, Level.DISK) for log in own]
        try:
            await self._thread.run(self._flush, [log.file for log in own])
        except OSError as error:
            raise _failed(error, "flush", self._path, kind="flush") from error
        return reached

    def _flush(self, files: Sequence[File]) -> None:
        for file in files:
            file.flush()
        self._files.flush_directory(f"{self._path}/{LOGS}")


def _checksum(manifest: Mapping[str, Any]) -> str:
    return f"{crc32c(json.dumps(manifest, sort_keys=True).encode()):08x}"


def _failed(error: OSError, action: str, path: str, **facts: Any) -> StorageError:
    if isinstance(error, FileNotFoundError) and action == "open":
        raise ConfigurationError(f"{path}: there is no such folder, and the one above it has to exist") from error
    kinds = {errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EACCES: "permission", errno.EPERM: "permission"}
    kind = facts.pop("kind", None) or kinds.get(error.errno or 0, "io")
    return StorageError(f"cannot {action} {path}: {error.strerror}", kind=kind, path=path, **facts)
