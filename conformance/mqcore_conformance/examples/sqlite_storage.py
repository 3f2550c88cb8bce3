"""A storage with I/O of its own: every log in one SQLite database, one transaction from one flush to the next.

SQLite opens, writes and flushes its files itself, so that no simulation can hold them. See docs/storage-own-io.md.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StorageContext, check_log_name
from mqcore.errors import CorruptionError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore.url import Url

T = TypeVar("T")

CAPABILITIES = Capabilities(append_level=Level.MEMORY, flush_level=Level.DISK, proves_durable_end=True)
APPLICATION = 0x6D71636F
SCHEMA = """
CREATE TABLE logs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, start INTEGER NOT NULL DEFAULT 0);
CREATE TABLE chunks (log INTEGER NOT NULL, position INTEGER NOT NULL, data BLOB NOT NULL,
                     PRIMARY KEY (log, position)) WITHOUT ROWID;
"""
RESERVE_BYTES, MARGIN_BYTES = 8 << 20, 4 << 20
"""Disk space held for commits, and the part of it that appends leave for what must not fail: truncations, new logs."""
ROOM_FACTOR, ROOM_BYTES = 3, 64 << 10
"""What a commit may need, by byte appended and beside: in the write-ahead log, and in pages that are not full."""


class SqliteLog(Log):
    """One log: rows of ``chunks``, each as it was appended. ``stopped`` says why it takes no more."""

    start = end = durable_end = 0
    level = CAPABILITIES.flush_level

    def __init__(self, storage: SqliteStorage, name: str, number: int) -> None:
        self.storage, self.name, self.number, self.stopped = storage, name, number, ""

    def check(self) -> None:
        """Raise unless it is open and no flush of it has failed."""
        if self.stopped:
            raise StorageError(f"log {self.name} is closed, or its flush failed: open it again", kind=self.stopped)

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """See ``Log``."""
        self.check()
        position, data = self.end, b"".join(chunks)
        if len(data) > CAPABILITIES.append_bytes_max:
            raise StorageError(f"{len(data)} bytes are more than one append takes", kind="limit")
        await self.storage.run(self.storage.append_row, self, position, data)
        return position

    async def read(self, position: int, size: int) -> memoryview:
        """See ``Log``."""
        if self.stopped != "flush":
            self.check()
        limit = self.durable_end if self.stopped else self.end
        if not self.start <= position <= limit:
            raise ValueError(f"{position} is outside the log, which has the bytes {self.start} to {limit}")
        return memoryview(await self.storage.run(self.storage.read_row, self, position, min(size, limit - position)))

    async def truncate(self, position: int) -> None:
        """See ``Log``."""
        self.check()
        await self.storage.run(self.storage.cut_rows, self, position)

    async def trim(self, position: int) -> int:
        """See ``Log``. Whole rows are given up."""
        self.check()
        await self.storage.run(self.storage.trim_rows, self, position)
        return self.start

    async def aclose(self) -> None:
        """See ``Log``."""
        if not self.stopped:
            await self.storage.flush([self])
        self.stopped = self.stopped or "closed"
        self.storage.logs.pop(self.name, None)
        await trio.lowlevel.checkpoint()


@attrs.frozen
class SqliteOptions:
    """None: a URL such as ``sqlite:///var/lib/broker`` says it all."""


class SqliteStorage(StorageBackend):
    """A folder with one database and a reserve of disk space."""

    capabilities = CAPABILITIES
    options_class = SqliteOptions

    def __init__(self, url: Url, options: Any, context: StorageContext) -> None:
        super().__init__(url, options, context)
        self.folder = Path(url.path)
        self.thread = context.ports.threads.start("sqlite")
        self.logs: dict[str, SqliteLog] = {}
        self.database: sqlite3.Connection | None = None
        self.reserve = -1
        self.reserved_bytes = self.pending_bytes = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """The open database."""
        if self.database is None:
            raise StorageError(f"{self.folder} is not open", kind="closed")
        return self.database

    @property
    def transaction(self) -> sqlite3.Connection:
        """The open database, for changes. After a commit that failed each statement would be a transaction of its own,
        so that appends which waited for the commit would stay, with a hole before them."""
        if not self.connection.in_transaction:
            raise StorageError(f"{self.folder}: a flush has failed: open it again", kind="flush")
        return self.connection

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call ``function`` in the storage's own thread: there the order of calls is that of the database."""
        try:
            return await self.thread.run(function, *arguments)
        except OSError as error:
            raise StorageError(f"{self.folder}: {error}", kind="io", appended=True) from error
        except sqlite3.Error as error:
            raise StorageError(f"{self.folder}: {error}", kind="io", appended=True) from error

    # ---- open and close --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``StorageBackend``."""
        await self.run(self.open_files)

    def open_files(self) -> None:
        """Lock the database, or make it; what an earlier process left is read from the device."""
        self.folder.mkdir(parents=True, exist_ok=True)
        names = set(os.listdir(self.folder))
        if names and "logs.db" not in names:
            raise StorageError(f"{self.folder} is not empty: name an empty folder", kind="foreign")
        for name in sorted(names):
            reread(self.folder / name)
        database = sqlite3.connect(self.folder / "logs.db", timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self.prepare(database)
        except sqlite3.DatabaseError as error:
            database.close()
            if "locked" in str(error):
                raise StorageError(f"{self.folder} is in use by another broker", kind="busy") from error
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise CorruptionError(f"{self.folder}/logs.db: {error}", where=f"{self.folder}/logs.db") from error
        except BaseException:
            database.close()
            raise
        self.database = database
        self.reserve = os.open(self.folder / "reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.resize_reserve(RESERVE_BYTES)
        for folder in (self.folder, self.folder.parent):
            flush_folder(folder)

    def prepare(self, database: sqlite3.Connection) -> None:
        """Lock ``database``, see whose it is, make its tables, begin the transaction of the first flush."""
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL", "cache_spill = OFF"):
            database.execute(f"PRAGMA {pragma}").fetchall()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        is_new = not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION and not is_new:
            raise StorageError(f"{self.folder}/logs.db is another program's database", kind="foreign")
        if is_new:
            database.executescript(f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION}; COMMIT;")
        database.execute("BEGIN IMMEDIATE")

    async def aclose(self) -> None:
        """See ``StorageBackend``."""
        try:
            for log in list(self.logs.values()):
                await log.aclose()
        finally:
            with trio.CancelScope(shield=True):
                await self.run(self.close_files)
                await self.thread.aclose()

    def close_files(self) -> None:
        """Give the database back; what was not committed is rolled back."""
        if self.database is not None:
            self.database.close()
            self.database = None
            os.close(self.reserve)

    # ---- logs ------------------------------------------------------------------------------------------------

    async def list_logs(self) -> list[str]:
        """See ``StorageBackend``."""
        return await self.run(
            lambda: [name for (name,) in self.connection.execute("SELECT name FROM logs ORDER BY name")]
        )

    async def open_log(self, name: str) -> Log:
        """See ``StorageBackend``."""
        check_log_name(name, CAPABILITIES.log_name_bytes_max)
        return await self.run(self.find_log, name)

    def find_log(self, name: str) -> SqliteLog:
        """Return the open log, else what the database has of it: all of that was committed."""
        if name not in self.logs:
            self.transaction.execute("INSERT OR IGNORE INTO logs (name) VALUES (?)", (name,))
            number, start = self.connection.execute("SELECT id, start FROM logs WHERE name = ?", (name,)).fetchone()
            last = self.connection.execute(
                "SELECT position + length(data) FROM chunks WHERE log = ? ORDER BY position DESC LIMIT 1", (number,)
            ).fetchone()
            log = self.logs[name] = SqliteLog(self, name, number)
            log.start = start
            log.end = log.durable_end = last[0] if last else start
        return self.logs[name]

    async def delete_log(self, name: str) -> None:
        """See ``StorageBackend``."""
        await self.run(self.delete_rows, name)

    def delete_rows(self, name: str) -> None:
        """Delete a log, durably; its handle is closed."""
        if log := self.logs.pop(name, None):
            log.stopped = "closed"
        self.transaction.execute("DELETE FROM chunks WHERE log = (SELECT id FROM logs WHERE name = ?)", (name,))
        self.transaction.execute("DELETE FROM logs WHERE name = ?", (name,))
        self.commit()

    def append_row(self, log: SqliteLog, position: int, data: bytes) -> None:
        """Add a row to the transaction, for which there is room on the disk."""
        self.reserve_space(len(data))
        if data:
            self.transaction.execute("INSERT INTO chunks VALUES (?, ?, ?)", (log.number, position, data))
        log.end = position + len(data)

    def reserve_space(self, size: int) -> None:
        """Hold disk space for ``size`` more bytes, or raise before one of them was appended."""
        needed = ROOM_FACTOR * (self.pending_bytes + size) + MARGIN_BYTES
        if needed > self.reserved_bytes:
            try:
                self.resize_reserve(max(RESERVE_BYTES, needed))
            except OSError as error:
                raise StorageError(f"{self.folder}: {error}: free disk space", kind="full", retryable=True) from error
        self.pending_bytes += size

    def resize_reserve(self, size: int) -> None:
        """Give up reserved space, or take more of it."""
        if size > self.reserved_bytes:
            os.posix_fallocate(self.reserve, 0, size)
        else:
            os.ftruncate(self.reserve, size)
        self.reserved_bytes = size

    def read_row(self, log: SqliteLog, position: int, size: int) -> bytes:
        """Return bytes of the row that holds ``position``; a row that is not there is damage, never zeros."""
        if not size:
            return b""
        row = self.connection.execute(
            "SELECT substr(data, ? - position + 1, ?) FROM chunks WHERE log = ? AND position <= ? "
            "ORDER BY position DESC LIMIT 1",
            (position, size, log.number, position),
        ).fetchone()
        if row is None or not row[0]:
            raise StorageError(f"{self.folder}, log {log.name}: nothing is stored at {position}", kind="io")
        return bytes(row[0])

    def cut_rows(self, log: SqliteLog, position: int) -> None:
        """Cut everything from ``position`` on, durably."""
        self.transaction.execute("DELETE FROM chunks WHERE log = ? AND position >= ?", (log.number, position))
        self.transaction.execute(
            "UPDATE chunks SET data = substr(data, 1, ? - position) "
            "WHERE log = ? AND position < ? AND position + length(data) > ?",
            (position, log.number, position, position),
        )
        log.end, log.durable_end = position, min(position, log.durable_end)
        self.commit()

    def trim_rows(self, log: SqliteLog, position: int) -> None:
        """Give up the rows that end at or below ``position``, durably."""
        straddling = self.connection.execute(
            "SELECT position FROM chunks WHERE log = ? AND position <= ? AND position + length(data) > ?",
            (log.number, position, position),
        ).fetchone()
        start = max(log.start, straddling[0] if straddling else position)
        self.transaction.execute("DELETE FROM chunks WHERE log = ? AND position < ?", (log.number, start))
        self.transaction.execute("UPDATE logs SET start = ? WHERE id = ?", (start, log.number))
        self.commit()
        log.start = start

    # ---- flush -----------------------------------------------------------------------------------------------

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """See ``StorageBackend``. One transaction covers every log."""
        ends = await self.run(self.commit)
        return [FlushedLog(ends.get(log.name, log.durable_end), log.level) for log in logs]

    def commit(self) -> dict[str, int]:
        """Commit, and begin the next transaction; return how far each log is durable now."""
        # in this thread nothing is appended between here and the commit, so that these are the ends it covers
        ends = {log.name: log.end for log in self.logs.values()}
        try:
            self.resize_reserve(max(0, self.reserved_bytes - ROOM_FACTOR * self.pending_bytes - ROOM_BYTES))
            self.connection.execute("COMMIT")
            self.connection.execute("BEGIN IMMEDIATE")
        except (OSError, sqlite3.Error) as error:
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            for log in self.logs.values():
                log.stopped = "flush"
            raise FlushFailedError(f"{self.folder}: {error}", logs=sorted(ends)) from error
        self.pending_bytes = 0
        for name, end in ends.items():
            self.logs[name].durable_end = end
        with contextlib.suppress(OSError):  # full: the next append says so
            self.resize_reserve(RESERVE_BYTES)
        return ends


def reread(path: Path) -> None:
    """Flush a file and drop it from the page cache, which may hold what a failed flush never wrote."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
