"""The offset store part ``sqlite``: calls of ``CursorDatabase`` in a device thread, each with its time limit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mqcore.abc import (
    CommitStamp,
    Cursor,
    CursorKey,
    GroupCursors,
    OffsetStore,
    OffsetStoreCapabilities,
    OffsetStoreContext,
    Url,
    check_cursor_name,
)
from mqcore.blocking import BlockingCalls, CallLate
from mqcore.errors import (
    ConfigurationError,
    OffsetStoreError,
    OffsetStoreForeignError,
    OffsetStoreOutcomeUnknownError,
    OffsetStoreUnavailableError,
)
from mqcore_sqlite_offsets._config import SqliteOffsetStoreOptions
from mqcore_sqlite_offsets._database import CursorDatabase, UnsureCommitError

__all__ = ["SqliteOffsetStore"]

T = TypeVar("T")

_CAPABILITIES = OffsetStoreCapabilities(commit_cursors_max=10_000, one_host=True)
_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on the disk, or raise size_bytes_max",
    sqlite3.SQLITE_BUSY: "another process holds the database; try again later",
    sqlite3.SQLITE_READONLY: "check the permissions of the file and of its directory",
    sqlite3.SQLITE_CANTOPEN: "check that its directory exists and may be written to",
}
_FOREIGN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
"""Primary codes that say what is there is no database, damaged, or has other tables than its version says."""


class SqliteOffsetStore(OffsetStore):
    """The offset store of the scheme ``sqlite``. The file is made by the first call; its directory has to exist."""

    options_class = SqliteOffsetStoreOptions

    def __init__(self, url: Url, options: SqliteOffsetStoreOptions, context: OffsetStoreContext) -> None:
        super().__init__(url, options, context)
        if url.path.endswith("/"):
            raise ConfigurationError(f"{url}: needs the path of a file, as in sqlite:///var/lib/mqcore-offsets.db")
        # Less than a call may take: who waits for another process's lock is to say so itself.
        busy_ms = context.call_timeout_ms * 3 // 4
        self._database = CursorDatabase(url.path, busy_ms, options.size_bytes_max)
        self._calls = BlockingCalls(
            context.ports,
            "offset-store",
            timeout_ms=context.call_timeout_ms,
            closed=lambda: OffsetStoreUnavailableError("this offset store is closed; compose another one"),
        )

    @property
    def capabilities(self) -> OffsetStoreCapabilities:
        """What SQLite promises."""
        return _CAPABILITIES

    async def load(self, group: str) -> GroupCursors:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        return await self._call(f"group {group!r}", lambda: self._database.load(group))

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        """See ``OffsetStore``."""
        self.check_commit(group, cursors)
        await self._call(f"group {group!r}", lambda: self._database.commit(group, stamp, cursors), writes=True)

    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        if topic is not None:
            check_cursor_name("topic", topic)
        await self._call(f"group {group!r}", lambda: self._database.delete(group, stamp, topic), writes=True)

    async def groups(self) -> Sequence[str]:
        """See ``OffsetStore``."""
        return await self._call("groups", self._database.groups)

    async def aclose(self) -> None:
        """See ``OffsetStore``."""
        await self._calls.aclose(self._database.close)

    async def _call(self, what: str, function: Callable[[], T], *, writes: bool = False) -> T:
        where = f"{self.url}: {what}"
        try:
            return await self._calls.call(function)
        except sqlite3.Error as error:
            raise _in_words(where, error) from error
        except UnsureCommitError as error:
            raise OffsetStoreOutcomeUnknownError(f"{where}: {error}; the next commit settles it") from error
        except OffsetStoreError as error:
            raise type(error)(f"{where}: {error}") from error
        except CallLate:
            text = f"{where}: the database gave no answer within {self.context.call_timeout_ms} ms"
            if writes:
                raise OffsetStoreOutcomeUnknownError(f"{text}; the next commit settles it") from None
            raise OffsetStoreUnavailableError(f"{text}; try again later") from None


def _in_words(where: str, error: sqlite3.Error) -> OffsetStoreError:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in _FOREIGN:
        return OffsetStoreForeignError(
            f"{where}: {error}: it is damaged or not this store's: put back a copy, or give the store another file"
        )
    remedy = _REMEDIES.get(primary, "mend the disk or the file system")
    return OffsetStoreUnavailableError(f"{where}: {error}: nothing was done; {remedy}")
