"""The SQL of the SQLite offset store, in calls that block. Must not know of tasks or timeouts.

A commit is one transaction that takes the write lock before it looks at the stamp. With a write-ahead log and
``synchronous = FULL`` it is on stable media when COMMIT returns. After an error the connection is closed: SQLite
recovers from its log when the next one opens.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping

from mqcore.abc import CommitStamp, Cursor, CursorKey, GroupCursors
from mqcore.errors import OffsetStoreFencedError, OffsetStoreForeignError

__all__ = ["CursorDatabase", "UnsureCommitError"]

APPLICATION_ID = 0x6D716F66
"""``mqof``: whose database it is, in its first page."""
SCHEMA_VERSION = 1

_SCHEMA = """\
create table mqcore_groups (
  name text primary key, generation integer not null, number integer not null) without rowid;
create table mqcore_cursors (
  group_name text not null, topic text not null, partition integer not null,
  next_offset integer not null, epoch integer not null,
  primary key (group_name, topic, partition)) without rowid;
"""
_BUSY_PAUSE_S = 0.005
_PUT_STAMP = "insert or replace into mqcore_groups values (?, ?, ?)"
_PUT_CURSOR = "insert or replace into mqcore_cursors values (?, ?, ?, ?, ?)"


class UnsureCommitError(Exception):
    """The error of a COMMIT: it may be there when the database is opened again."""


class CursorDatabase:
    """The database at ``path``. Calls raise ``sqlite3.Error`` when nothing was changed, and close the connection."""

    def __init__(self, path: str, busy_ms: int, size_bytes_max: int) -> None:
        self._path = path
        self._busy_ms = busy_ms
        self._size_bytes_max = size_bytes_max
        self._connection: sqlite3.Connection | None = None

    def load(self, group: str) -> GroupCursors:
        """Return what is kept of ``group``."""
        with self._transaction("begin") as connection:
            stamp = _stamp(connection, group)
            rows = connection.execute(
                "select topic, partition, next_offset, epoch from mqcore_cursors where group_name = ?", [group]
            )
            return GroupCursors(stamp, {CursorKey(row[0], row[1]): Cursor(row[2], row[3]) for row in rows})

    def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        """Put ``cursors``. Raises ``OffsetStoreFencedError``, ``UnsureCommitError`` as well."""
        with self._transaction("begin immediate") as connection:
            if _comes_after(stamp, _stamp(connection, group)):
                connection.execute(_PUT_STAMP, [group, stamp.generation, stamp.number])
                rows = [
                    (group, key.topic, key.partition, cursor.offset, cursor.epoch) for key, cursor in cursors.items()
                ]
                connection.executemany(_PUT_CURSOR, rows)

    def delete(self, group: str, stamp: CommitStamp, topic: str | None) -> None:
        """Remove the cursors of ``topic``, or the group. Raises as ``commit``."""
        with self._transaction("begin immediate") as connection:
            if not _comes_after(stamp, _stamp(connection, group)):
                return
            if topic is None:
                connection.execute("delete from mqcore_cursors where group_name = ?", [group])
                connection.execute("delete from mqcore_groups where name = ?", [group])
            else:
                connection.execute("delete from mqcore_cursors where group_name = ? and topic = ?", [group, topic])
                connection.execute(_PUT_STAMP, [group, stamp.generation, stamp.number])

    def groups(self) -> list[str]:
        """Return the names of all groups, sorted."""
        with self._transaction("begin") as connection:
            return [row[0] for row in connection.execute("select name from mqcore_groups order by name")]

    def close(self) -> None:
        """Close the connection. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connection or self._open()
            connection.execute(begin)
            try:
                yield connection
            except OffsetStoreFencedError:
                connection.execute("rollback")
                raise
            try:
                connection.execute("commit")
            except sqlite3.Error as error:
                if begin == "begin" or error.sqlite_errorcode in _NOT_COMMITTED:
                    raise
                raise UnsureCommitError(str(error)) from error
        except OffsetStoreFencedError:
            raise
        except BaseException:
            self.close()
            raise

    def _open(self) -> sqlite3.Connection:
        # The thread that calls is always the same one at a time; Python's own check wants it to be the first one.
        connection = sqlite3.connect(
            self._path, timeout=self._busy_ms / 1000, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("begin")  # one look: another process may be making the database
        found = self._whose(connection)
        connection.execute("commit")
        if found == (0, 0, 0):
            self._keep_a_log(connection)
            connection.execute("begin immediate")
            found = self._whose(connection)
            if found == (0, 0, 0):  # no other process was faster
                for statement in _SCHEMA.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"pragma application_id = {APPLICATION_ID}")
                connection.execute(f"pragma user_version = {SCHEMA_VERSION}")
                found = self._whose(connection)
            connection.execute("commit")
        application, version, _ = found
        if application != APPLICATION_ID:
            raise OffsetStoreForeignError("it is another program's database: give the store a file of its own")
        if version != SCHEMA_VERSION:
            raise OffsetStoreForeignError(
                f"its schema has version {version}, and this mqcore knows version {SCHEMA_VERSION}: use the mqcore "
                "that wrote it, or give the store a file of its own"
            )
        connection.execute("pragma synchronous = full")
        page = connection.execute("pragma page_size").fetchone()[0]
        connection.execute(f"pragma max_page_count = {self._size_bytes_max // page}")

    def _keep_a_log(self, connection: sqlite3.Connection) -> None:
        """Switch to a write-ahead log. SQLite does not wait for other processes' locks here, as it does elsewhere."""
        until = time.monotonic() + self._busy_ms / 1000
        while True:
            try:
                connection.execute("pragma journal_mode = wal")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(_BUSY_PAUSE_S)
            else:
                return

    @staticmethod
    def _whose(connection: sqlite3.Connection) -> tuple[int, int, int]:
        application = connection.execute("pragma application_id").fetchone()[0]
        version = connection.execute("pragma user_version").fetchone()[0]
        tables = connection.execute("select count(*) from sqlite_schema").fetchone()[0]
        return application, version, tables


_NOT_COMMITTED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL}
"""Errors of a COMMIT that leave the transaction open: closing the connection rolls it back."""


def _stamp(connection: sqlite3.Connection, group: str) -> CommitStamp:
    row = connection.execute("select generation, number from mqcore_groups where name = ?", [group]).fetchone()
    return CommitStamp() if row is None else CommitStamp(*row)


def _comes_after(stamp: CommitStamp, last: CommitStamp) -> bool:
    """Whether the commit of ``stamp`` is to be applied: not if it was. Raises ``OffsetStoreFencedError``."""
    if stamp < last:
        raise OffsetStoreFencedError(
            f"its last commit is of generation {last.generation} number {last.number}, this one of generation "
            f"{stamp.generation} number {stamp.number}: another owner has the group; load it"
        )
    return stamp > last
