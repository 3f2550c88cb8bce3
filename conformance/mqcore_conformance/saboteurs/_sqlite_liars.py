"""Liars made of the worked example of a storage with I/O of its own: each breaks one promise of it.

Mistakes of plug-in authors, on real files. Knows the example's methods and nothing of how it is judged.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from typing import Any

import trio

from mqcore.abc import FlushedLog, Log
from mqcore.errors import MqcoreError, StorageError
from mqcore_conformance.examples.sqlite_storage import SqliteLog, SqliteStorage


class UnsynchronisedSqlite(SqliteStorage):
    """SQLite is told never to flush (``synchronous = OFF``), and level disk is declared."""

    def prepare(self, database: sqlite3.Connection) -> None:
        super().prepare(database)
        database.execute("COMMIT")  # the setting is refused within a transaction
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN IMMEDIATE")


LATE_S = 0.05
"""What a liar puts off is put off as long as this, so that it is caught whenever it is looked at, not by chance."""


class EarlySqlite(SqliteStorage):
    """A flush returns before the commit, which comes by and by."""

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        async def commit_later() -> None:
            await trio.sleep(LATE_S)
            with contextlib.suppress(MqcoreError):
                await self.run(self.commit)

        await trio.lowlevel.checkpoint()
        trio.lowlevel.spawn_system_task(commit_later)
        return [FlushedLog(log.end, log.level) for log in logs]


class SwallowingSqlite(SqliteStorage):
    """An error of a flush is swallowed."""

    def commit(self) -> dict[str, int]:
        ends = {log.name: log.end for log in self.logs.values()}
        for statement in ("COMMIT", "BEGIN IMMEDIATE"):
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute(statement)
        for name, end in ends.items():
            self.logs[name].durable_end = end
        return ends


class HoleSqlite(SqliteStorage):
    """After a commit that failed, appends that waited for it are kept: there is a hole before them."""

    @property
    def transaction(self) -> sqlite3.Connection:
        return self.connection


class LateEndsSqlite(SqliteStorage):
    """The ends that a flush states are taken after it: they cover what was appended meanwhile."""

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        await self.run(self.commit)
        # Behind the appends that waited for the commit, which are what the ends must not cover; without that it is a
        # matter of chance whether they do.
        await self.run(self.logs_waiting)
        await trio.sleep(LATE_S)
        return [FlushedLog(log.end, log.level) for log in logs]

    def logs_waiting(self) -> None:
        """Take a turn in the database's thread."""


class ZerosSqlite(SqliteStorage):
    """Bytes that cannot be read, or are not there, are read as zeros."""

    def read_row(self, log: SqliteLog, position: int, size: int) -> bytes:
        try:
            return super().read_row(log, position, size)
        except (StorageError, sqlite3.Error):
            return bytes(size)


class _HopefulLog(SqliteLog):
    @property
    def durable_end(self) -> int:
        return self.end

    @durable_end.setter
    def durable_end(self, end: int) -> None:
        pass


class HopefulSqlite(SqliteStorage):
    """The durable end is stated to be the end, always."""

    def find_log(self, name: str) -> SqliteLog:
        log = super().find_log(name)
        log.__class__ = _HopefulLog
        return log


class FirstOnlySqlite(SqliteStorage):
    """A flush of many logs flushes the first only; the others stay in memory until they come first."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: dict[str, list[tuple[int, bytes]]] = {}

    def append_row(self, log: SqliteLog, position: int, data: bytes) -> None:
        self.waiting.setdefault(log.name, []).append((position, data))
        log.end = position + len(data)

    def read_row(self, log: SqliteLog, position: int, size: int) -> bytes:
        for begin, data in self.waiting.get(log.name, ()):
            if begin <= position < begin + len(data):
                return data[position - begin :][:size]
        return super().read_row(log, position, size)

    def cut_rows(self, log: SqliteLog, position: int) -> None:
        kept = self.waiting.pop(log.name, [])
        self.waiting[log.name] = [(begin, data[: position - begin]) for begin, data in kept if begin < position]
        super().cut_rows(log, position)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        await self.run(self._write_out, logs[0])
        return await super().flush(logs)

    def _write_out(self, log: SqliteLog) -> None:
        for position, data in self.waiting.pop(log.name, []):
            if data:
                self.connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (log.number, position, data))


class ForgottenTrimSqlite(SqliteStorage):
    """A trim is kept in memory only."""

    def trim_rows(self, log: SqliteLog, position: int) -> None:
        log.start = max(log.start, position)
